//! The table and `store.json`: ratio first, figure second, then the aim and whether it is met.

use std::path::Path;

use serde_json::{Value, json};

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
pub enum Aim {
    /// The ratio is at most this.
    RatioAtMost(f64),
    /// The ratio is at least this.
    RatioAtLeast(f64),
    /// The figure is at most this.
    AtMost(f64),
    /// The figure is at least this.
    AtLeast(f64),
}

/// One figure.
#[derive(Debug)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// How often its baseline's figure it is, and the baseline.
    pub ratio: Option<(f64, String)>,
    /// The figure.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// What it should be; `None` for what is only worth knowing.
    pub aim: Option<Aim>,
}

impl Row {
    /// A figure without a baseline or an aim.
    #[must_use]
    pub fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { what: what.into(), ratio: None, value, unit, aim: None }
    }

    /// With how often its baseline's figure it is.
    #[must_use]
    pub fn times(self, ratio: f64, baseline: &str) -> Self {
        Self { ratio: Some((ratio, baseline.to_owned())), ..self }
    }

    /// With what it should be.
    #[must_use]
    pub fn aim(self, aim: Aim) -> Self {
        Self { aim: Some(aim), ..self }
    }

    /// Whether the aim is met; `None` without one.
    #[must_use]
    pub fn met(&self) -> Option<bool> {
        let ratio = self.ratio.as_ref().map(|(ratio, _)| *ratio);
        self.aim.map(|aim| match aim {
            Aim::RatioAtMost(most) => ratio.is_some_and(|ratio| ratio <= most),
            Aim::RatioAtLeast(least) => ratio.is_some_and(|ratio| ratio >= least),
            Aim::AtMost(most) => self.value <= most,
            Aim::AtLeast(least) => self.value >= least,
        })
    }

    fn aim_text(&self) -> String {
        self.aim.map_or_else(String::new, |aim| match aim {
            Aim::RatioAtMost(most) => format!("<= {most} x"),
            Aim::RatioAtLeast(least) => format!(">= {least} x"),
            Aim::AtMost(most) => format!("<= {} {}", number(most), self.unit),
            Aim::AtLeast(least) => format!(">= {} {}", number(least), self.unit),
        })
    }

    fn line(&self) -> String {
        let (ratio, baseline) = self.ratio.as_ref().map_or_else(Default::default, |(ratio, baseline)| {
            (format!("{ratio:.2} x"), format!(" of {baseline}"))
        });
        let met = match self.met() {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "",
        };
        let value = format!("{} {}", number(self.value), self.unit);
        let line =
            format!("{:<46} {ratio:>9} {value:>18}  {:<20} {met:<8}{baseline}", self.what, self.aim_text());
        line.trim_end().to_owned()
    }

    fn json(&self) -> Value {
        let (ratio, baseline) = self.ratio.clone().unzip();
        json!({
            "what": self.what,
            "ratio": ratio,
            "baseline": baseline,
            "value": self.value,
            "unit": self.unit,
            "aim": self.aim.map(|_| self.aim_text()),
            "met": self.met(),
        })
    }
}

fn number(value: f64) -> String {
    if value >= 1000.0 {
        let whole = format!("{value:.0}");
        let mut text = String::new();
        for (place, digit) in whole.chars().enumerate() {
            if place > 0 && (whole.len() - place).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        text
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

/// All figures of a run.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Report {
    /// Adds a figure and prints it.
    pub fn row(&mut self, row: Row) {
        println!("{}", row.line());
        self.rows.push(row);
    }

    /// Adds a remark and prints it.
    pub fn note(&mut self, note: String) {
        println!("{note}");
        self.notes.push(note);
    }

    /// Prints the columns' names.
    pub fn head(title: &str) {
        println!("\n{title:<46} {:>9} {:>18}  {:<20}", "ratio", "figure", "aim");
    }

    /// Whether every aim is met.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.rows.iter().all(|row| row.met().unwrap_or(true))
    }

    /// Writes `store.json`.
    pub fn write(&self, file: &Path) {
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let all = json!({ "cores": cores, "rows": rows, "notes": self.notes });
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, format!("{all:#}\n")).unwrap();
        println!("\n{}", file.display());
    }
}
