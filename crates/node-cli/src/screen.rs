//! A page that is shown again and again in the same place of a terminal.
//!
//! The sequences are those of ECMA-48: CUP goes to the upper left corner, EL clears the rest of a line, ED what is below.

/// What puts a page in the place of the one before, cut to the window: `columns` wide and `rows` high, both at least 1.
/// A page that is higher says in the last row how many lines are missing; its first lines say what matters most.
pub(crate) fn frame(page: &str, columns: usize, rows: usize) -> String {
    let high: Vec<usize> = page.lines().map(|line| width(line).div_ceil(columns).max(1)).collect();
    let fits = |room: usize| {
        high.iter()
            .scan(0, |used, high| {
                *used += high;
                (*used <= room).then_some(())
            })
            .count()
    };
    let shown = if fits(rows) == high.len() { high.len() } else { fits(rows.saturating_sub(1)) };
    let mut frame = String::from("\u{1b}[H");
    let lines = page.lines().take(shown).map(str::to_owned);
    let rest =
        (shown < high.len()).then(|| format!("({} more; a higher window shows them)", high.len() - shown));
    let all: Vec<String> = lines.chain(rest).map(|line| line + "\u{1b}[K").collect();
    frame += &all.join("\r\n");
    // The cursor stays in the last row: a new line there would move everything up.
    frame + "\u{1b}[J"
}

/// Columns that a line takes: its characters without the sequences that colour it.
fn width(line: &str) -> usize {
    let mut parts = line.split('\u{1b}');
    let first = parts.next().unwrap_or_default().chars().count();
    first
        + parts.map(|part| part.split_once('m').map_or(part, |(_, text)| text).chars().count()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a frame shows.
    fn lines(frame: &str) -> Vec<String> {
        let inner = frame.strip_prefix("\u{1b}[H").unwrap().strip_suffix("\u{1b}[J").unwrap();
        inner.split("\r\n").map(|line| line.strip_suffix("\u{1b}[K").unwrap().to_owned()).collect()
    }

    #[test]
    fn a_page_that_fits_is_shown_whole() {
        assert_eq!(lines(&frame("a\nb\nc\n", 10, 3)), ["a", "b", "c"]);
    }

    #[test]
    fn a_page_that_is_too_high_keeps_its_first_lines_and_says_how_many_are_missing() {
        let shown = lines(&frame("a\nb\nc\nd\n", 80, 3));
        assert_eq!(shown, ["a", "b", "(2 more; a higher window shows them)"]);
        assert_eq!(lines(&frame("a\nb\n", 80, 1)), ["(2 more; a higher window shows them)"]);
    }

    #[test]
    fn a_long_line_takes_as_many_rows_as_it_needs_and_colours_take_none() {
        assert_eq!(lines(&frame("12345678\nb\nc\n", 4, 4)), ["12345678", "b", "c"]);
        assert_eq!(lines(&frame("12345678\nb\nc\n", 4, 3)).len(), 2);
        let coloured = "\u{1b}[31m1234\u{1b}[0m\nb\nc\n";
        assert_eq!(lines(&frame(coloured, 4, 3)), ["\u{1b}[31m1234\u{1b}[0m", "b", "c"]);
    }
}
