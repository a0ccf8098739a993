//! Escaping: what comes from the network or from a file must not steer the terminal that shows it.
//!
//! Control characters (C0, DEL, C1) could move the cursor or answer for the user; the marks that turn the direction of
//! writing could make one text look like another.

use std::{borrow::Cow, fmt::Write as _};

/// Whether a character must not reach a terminal as it is.
fn steers(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// One line of text, with what could steer a terminal written out as in `\u{1b}` and `\n`.
pub(crate) fn text(raw: &str) -> Cow<'_, str> {
    if !raw.contains(steers) {
        return Cow::Borrowed(raw);
    }
    let mut safe = String::with_capacity(raw.len());
    for letter in raw.chars() {
        if steers(letter) { safe.extend(letter.escape_default()) } else { safe.push(letter) }
    }
    Cow::Owned(safe)
}

/// JSON in which strings hold such characters only as `\u001b`; the same JSON to every reader. The line breaks between
/// its tokens stay.
pub(crate) fn json(raw: &str) -> Cow<'_, str> {
    let unsafe_in_json = |letter: char| letter != '\n' && steers(letter);
    if !raw.contains(unsafe_in_json) {
        return Cow::Borrowed(raw);
    }
    let mut safe = String::with_capacity(raw.len());
    for letter in raw.chars() {
        if unsafe_in_json(letter) {
            // All of them lie in the first plane: one unit of UTF-16. Writing to a String cannot fail.
            let _ = write!(safe, "\\u{:04x}", u32::from(letter));
        } else {
            safe.push(letter);
        }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\u{1b}[2J\u{9b}31m\r\nb\u{202e}c\u{7f}";

    #[test]
    fn nothing_that_steers_a_terminal_is_left_in_text() {
        assert_eq!(text(HOSTILE), "a\\u{1b}[2J\\u{9b}31m\\r\\nb\\u{202e}c\\u{7f}");
        assert!(matches!(text("größer als 模型"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_stays_the_same_json() {
        let raw = serde_json::to_string_pretty(&serde_json::json!({ HOSTILE: [HOSTILE] })).unwrap();
        let safe = json(&raw);
        assert!(!safe.contains(|letter| letter != '\n' && steers(letter)), "{safe:?}");
        let (before, after): (serde_json::Value, serde_json::Value) =
            (serde_json::from_str(&raw).unwrap(), serde_json::from_str(&safe).unwrap());
        assert_eq!(before, after);
    }
}
