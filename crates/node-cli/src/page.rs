//! A page of text for a person. Everything that is put on it is escaped; only the page itself adds colours.

use std::fmt::Display;

use crate::escape;

/// How a text is to stand out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Like all text.
    Plain,
    /// A heading.
    Strong,
    /// Less important.
    Faint,
    /// All is well.
    Good,
    /// To be looked at.
    Warning,
    /// Wrong.
    Bad,
}

impl Tone {
    /// The terminal's code for it (ECMA-48, SGR).
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Strong => "1",
            Self::Faint => "2",
            Self::Good => "32",
            Self::Warning => "33",
            Self::Bad => "31",
        }
    }
}

/// Columns that the labels of rows take.
const LABEL_WIDTH: usize = 12;

/// Text as it is written, line by line.
#[derive(Debug)]
pub(crate) struct Page {
    text: String,
    colours: bool,
}

impl Page {
    pub(crate) const fn new(colours: bool) -> Self {
        Self { text: String::new(), colours }
    }

    /// The whole text, each line ended.
    pub(crate) fn into_text(self) -> String {
        self.text
    }

    fn put(&mut self, tone: Tone, raw: &str) {
        let (safe, code) = (escape::text(raw), tone.code());
        if self.colours && !code.is_empty() {
            self.text += &format!("\u{1b}[{code}m{safe}\u{1b}[0m");
        } else {
            self.text += &safe;
        }
    }

    /// A line.
    pub(crate) fn line(&mut self, text: impl Display) {
        self.toned(Tone::Plain, text);
    }

    /// A line that stands out.
    pub(crate) fn toned(&mut self, tone: Tone, text: impl Display) {
        self.put(tone, &text.to_string());
        self.text.push('\n');
    }

    /// A line of parts that stand out each in its way.
    pub(crate) fn parts(&mut self, parts: &[(Tone, &dyn Display)]) {
        for (tone, part) in parts {
            self.put(*tone, &part.to_string());
        }
        self.text.push('\n');
    }

    /// A label and what it names, in two columns.
    pub(crate) fn row(&mut self, label: &str, value: impl Display) {
        self.toned_row(label, Tone::Plain, value);
    }

    /// The same, where the value stands out.
    pub(crate) fn toned_row(&mut self, label: &str, tone: Tone, value: impl Display) {
        self.put(Tone::Faint, &format!("{label:LABEL_WIDTH$} "));
        self.put(tone, &value.to_string());
        self.text.push('\n');
    }

    /// A heading after an empty line.
    pub(crate) fn heading(&mut self, text: impl Display) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.toned(Tone::Strong, text);
    }

    /// Rows of a table under their headings, each column as wide as its widest cell.
    pub(crate) fn table(&mut self, heads: &[&str], rows: &[Vec<String>]) {
        let mut widths: Vec<usize> = heads.iter().map(|head| head.chars().count()).collect();
        let safe: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|cell| escape::text(cell).into_owned()).collect()).collect();
        for row in &safe {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let joined = |cells: Vec<&str>| {
            let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.toned(Tone::Faint, joined(heads.to_vec()));
        for row in &safe {
            self.line(joined(row.iter().map(String::as_str).collect()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_page_itself_colours() {
        let mut page = Page::new(true);
        page.toned(Tone::Bad, "\u{1b}[0mfine");
        assert_eq!(page.into_text(), "\u{1b}[31m\\u{1b}[0mfine\u{1b}[0m\n");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut page = Page::new(false);
        page.table(&["a", "b"], &[vec!["xxx".into(), "y".into()], vec!["\n".into(), "z".into()]]);
        assert_eq!(page.into_text(), "a    b\nxxx  y\n\\n   z\n");
    }
}
