//! What the process finds around it: environment variables, its user, its terminal. Read once, here.

use std::{collections::BTreeMap, ffi::OsString, io::IsTerminal as _};

/// What was around the process when it started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    /// Environment variables; those whose names are not UTF-8 are none of ours.
    pub(crate) variables: BTreeMap<String, OsString>,
    /// The user is root.
    pub(crate) root: bool,
    /// The standard output is a terminal.
    pub(crate) terminal: bool,
    /// The standard error is a terminal.
    pub(crate) error_terminal: bool,
}

impl Surroundings {
    /// Those of this process.
    pub(crate) fn of_this_process() -> Self {
        let named = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value));
        Self {
            variables: std::env::vars_os().filter_map(named).collect(),
            root: rustix::process::geteuid().is_root(),
            terminal: std::io::stdout().is_terminal(),
            error_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// A variable that is set and not empty: an empty one counts as not set, as shells use it.
    pub(crate) fn variable(&self, name: &str) -> Option<&OsString> {
        self.variables.get(name).filter(|value| !value.is_empty())
    }

    /// Whether colours may be shown: on a terminal that knows them, unless `NO_COLOR` is set (no-color.org).
    pub(crate) fn colours(&self) -> bool {
        self.draws() && self.variable("NO_COLOR").is_none()
    }

    /// Whether the standard output can show a page in the place of the one before.
    pub(crate) fn draws(&self) -> bool {
        self.terminal && self.variable("TERM").is_none_or(|term| term != "dumb")
    }

    /// Whether the standard error can show a bar that moves: a terminal that says what it is and is not dumb.
    pub(crate) fn bars(&self) -> bool {
        self.error_terminal && self.variable("TERM").is_some_and(|term| term != "dumb")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_for_terminals_that_can_draw_them() {
        let mut around = Surroundings { error_terminal: true, ..Surroundings::default() };
        assert!(!around.bars(), "it does not say what it is");
        around.variables.insert("TERM".into(), "xterm".into());
        assert!(around.bars());
        assert!(!Surroundings { error_terminal: false, ..around.clone() }.bars());
        around.variables.insert("TERM".into(), "dumb".into());
        assert!(!around.bars());
    }

    #[test]
    fn colours_are_for_terminals_whose_owner_wants_them() {
        let terminal = Surroundings { terminal: true, ..Surroundings::default() };
        assert!(terminal.colours());
        assert!(!Surroundings { terminal: false, ..terminal.clone() }.colours());
        for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            let mut without = terminal.clone();
            without.variables.insert(name.into(), value.into());
            assert!(!without.colours(), "{name}={value}");
        }
        let mut empty = terminal;
        empty.variables.insert("NO_COLOR".into(), OsString::new());
        assert!(empty.colours(), "an empty NO_COLOR is none");
    }
}
