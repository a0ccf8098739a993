//! The page's one document: markup, style and script put together when the program is built, with the report in it.
//!
//! Style and script are allowed by their hashes alone (Content Security Policy Level 3, 8.3), so nothing that comes from
//! outside is ever run; what comes from outside is data, escaped so that it cannot end the element that it stands in.

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

const HTML: &str = include_str!("index.html");
const CSS: &str = include_str!("page.css");
const JS: &str = include_str!("page.js");

/// The longest page in bytes, with all that is in it: 100 kB.
pub const PAGE_BYTES_MAX: usize = 100_000;

/// What stands before and after the data.
static FRAME: LazyLock<(String, String)> = LazyLock::new(|| {
    let whole = HTML.replacen("{{css}}", CSS, 1).replacen("{{js}}", JS, 1);
    let (before, after) = whole.split_once("{{data}}").unwrap_or((&whole, ""));
    (before.to_owned(), after.to_owned())
});

/// The value of `Content-Security-Policy`.
pub static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text.as_bytes())));
    format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(JS),
        hash(CSS)
    )
});

/// JSON that can stand in a script element of HTML: nothing in it can end the element or begin a comment (HTML standard,
/// 4.12.1.3).
#[must_use]
pub fn escaped(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for letter in json.chars() {
        match letter {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => safe += &format!("\\u{:04x}", u32::from(letter)),
            other => safe.push(other),
        }
    }
    safe
}

/// Bytes that are left for the data of a page.
#[must_use]
pub fn room() -> usize {
    let (before, after) = &*FRAME;
    PAGE_BYTES_MAX.saturating_sub(before.len() + after.len())
}

/// A report that takes at most `bytes` as it stands in the page: its longest lists lose their later halves until it
/// does. The page gets all of them with the first event.
#[must_use]
pub fn fitted(mut report: Value, bytes: usize) -> String {
    loop {
        let text = report.to_string();
        let size = escaped(&text).len();
        if size <= bytes {
            return text;
        }
        match longest(&mut report) {
            Some(list) => list.truncate(list.len() / 2),
            None => return text,
        }
    }
}

/// The list in it that takes the most, of those that have anything.
fn longest(value: &mut Value) -> Option<&mut Vec<Value>> {
    let size = |list: &Vec<Value>| list.iter().map(|it| it.to_string().len()).sum::<usize>();
    match value {
        Value::Array(list) => (!list.is_empty()).then_some(list),
        Value::Object(fields) => fields.values_mut().filter_map(longest).max_by_key(|list| size(list)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// The document with this JSON in it.
#[must_use]
pub fn with(json: &str) -> String {
    let (before, after) = &*FRAME;
    [before, escaped(json).as_str(), after].concat()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_comes_from_outside_cannot_leave_its_element() {
        let json =
            serde_json::json!({ "model": "</script><script>alert(1)</script><!--&\u{2028}" }).to_string();
        let page = with(&json);
        assert_eq!(page.matches("</script>").count(), HTML.matches("</script>").count());
        assert!(!page.contains("<script>alert"), "{page}");
        let safe = escaped(&json);
        assert!(!safe.contains(['<', '>', '&', '\u{2028}']), "{safe}");
        let read: Value = serde_json::from_str(&safe).unwrap();
        assert_eq!(read.to_string(), json, "it is the same JSON");
    }

    #[test]
    fn the_policy_allows_this_style_and_this_script_and_nothing_else() {
        let page = with("{}");
        let inline = |tag: &str| {
            let (_, rest) = page.split_once(&format!("<{tag}>")).unwrap();
            rest.split_once(&format!("</{tag}>")).unwrap().0.to_owned()
        };
        for (tag, directive) in [("style", "style-src"), ("script", "script-src")] {
            let hash = STANDARD.encode(Sha256::digest(inline(tag).as_bytes()));
            assert!(POLICY.contains(&format!("{directive} 'sha256-{hash}';")), "{directive}: {}", *POLICY);
        }
        assert!(POLICY.starts_with("default-src 'none';"), "{}", *POLICY);
        assert!(!POLICY.contains("unsafe"), "{}", *POLICY);
    }

    #[test]
    fn the_page_brings_everything_with_it_and_writes_no_markup() {
        for word in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "http://", "https://"]
        {
            let allowed = word == "http://" && JS.contains("http://www.w3.org/2000/svg");
            let found = JS.matches(word).count() - usize::from(allowed);
            assert_eq!(found, 0, "{word}");
        }
        for word in ["src=", "style=", "onclick", "onload", "http:", "https:", "@import", "url("] {
            assert_eq!(HTML.matches(word).count() + CSS.matches(word).count(), 0, "{word}");
        }
        assert!(room() > 60_000, "{} bytes are left for the data", room());
    }

    /// The custom properties of a block of CSS.
    fn colours(block: &str) -> BTreeMap<&str, [f64; 3]> {
        let declared = block.split(';').filter_map(|it| it.trim().strip_prefix("--")?.split_once(": #"));
        let channel =
            |hex: &str, at: usize| f64::from(u8::from_str_radix(&hex[at..at + 2], 16).unwrap()) / 255.0;
        declared.map(|(name, hex)| (name, [channel(hex, 0), channel(hex, 2), channel(hex, 4)])).collect()
    }

    /// Relative luminance (WCAG 2.2).
    fn luminance(colour: [f64; 3]) -> f64 {
        let linear =
            colour.map(|it| if it <= 0.04045 { it / 12.92 } else { ((it + 0.055) / 1.055).powf(2.4) });
        0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    }

    #[test]
    fn text_stands_out_from_what_it_stands_on_in_light_and_dark() {
        let blocks: Vec<&str> =
            CSS.split(":root {").skip(1).map(|rest| rest.split_once('}').unwrap().0).collect();
        assert_eq!(blocks.len(), 2, "light and dark");
        for block in blocks {
            let colours = colours(block);
            for text in ["text", "muted", "accent", "good", "warn", "bad"] {
                for ground in ["bg", "panel"] {
                    let (one, other) = (luminance(colours[text]), luminance(colours[ground]));
                    let contrast = (one.max(other) + 0.05) / (one.min(other) + 0.05);
                    assert!(contrast >= 4.5, "{text} on {ground}: {contrast:.2}");
                }
            }
        }
    }

    #[test]
    fn a_report_of_whatever_length_fits_and_a_short_one_stays_as_it_is() {
        let row = |number: u32| serde_json::json!({ "name": "<&>".repeat(40), "number": number });
        let rows = |count: u32| (0..count).map(row).collect::<Vec<_>>();
        let long = serde_json::json!({ "health": "well", "models": rows(100), "jobs": { "lately": rows(60), "queued": 3 } });
        let text = fitted(long.clone(), 70_000);
        assert!(escaped(&text).len() <= 70_000);
        let shown: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&shown["health"], &shown["jobs"]["queued"]), (&"well".into(), &3.into()));
        assert_eq!(
            shown["models"][0]["number"],
            0,
            "the first ones stay: {}",
            shown["models"].as_array().unwrap().len()
        );
        assert_eq!(shown["jobs"]["lately"].as_array().unwrap().len(), 30, "the longest list is cut first");
        let short = serde_json::json!({ "health": "well", "models": rows(3) });
        assert_eq!(fitted(short.clone(), 70_000), short.to_string());
        assert!(with(&fitted(long, room())).len() <= PAGE_BYTES_MAX);
    }
}
