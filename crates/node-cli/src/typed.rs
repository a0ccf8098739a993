//! Commands that the operator is told to type, with the flags that this process was given: a command that is copied must
//! reach the same node.
//!
//! What came from a variable is not repeated: whoever types the next command has it too. [`Typed::complete`] does it to a
//! whole text of ours; texts from outside never go through it.

use std::{borrow::Cow, path::Path};

use crate::cli::Common;

/// What a command to be typed begins with, in the backquotes that such commands stand in.
const PROGRAM: &str = "`resultity-node ";
/// How the service is started.
const START: &str = "systemctl start resultity-node";
/// How it is started now and at every start of the machine.
pub(crate) const ENABLE: &str = "systemctl enable --now resultity-node";
/// Commands that have nothing to do with a volume.
const WITHOUT_VOLUME: [&str; 3] = ["devnet", "demo", "completions"];

/// The flags that say which node is meant, as they are typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Typed {
    flags: Vec<(&'static str, String)>,
    service: bool,
}

impl Typed {
    /// Those of this command line. Paths are given in full: the next command may be typed in another folder.
    pub(crate) fn of(common: &Common) -> Self {
        let mut flags = Vec::new();
        let full =
            |path: &Path| quoted(&std::path::absolute(path).unwrap_or(path.to_owned()).to_string_lossy());
        if let Some(home) = &common.home {
            flags.push(("--home", full(home)));
        }
        if let Some(network) = &common.network {
            flags.push(("--network", quoted(network)));
        }
        if let Some(config) = &common.config {
            flags.push(("--config", full(config)));
        }
        Self { flags, service: false }
    }

    /// The same for a node that a service of the machine runs, where that is so: it is started as one.
    pub(crate) fn beside(self, service: bool) -> Self {
        Self { service: service && self.flags.iter().all(|(name, _)| *name == "--home"), ..self }
    }

    /// Whether a service runs this node.
    pub(crate) const fn is_service(&self) -> bool {
        self.service
    }

    /// A text of ours in which `command` calls this program, with the service where it starts the node.
    pub(crate) fn start<'a>(&self, text: &'a str, command: &str) -> Cow<'a, str> {
        let run = format!("`{command} run`");
        if self.service && text.contains(&run) {
            text.replace(&run, &format!("`{START}`")).into()
        } else {
            text.into()
        }
    }

    /// The whole command for what follows the program's name: `run` is `resultity-node --home /srv/n run`.
    pub(crate) fn command(&self, rest: &str) -> String {
        format!("resultity-node {}{rest}", self.flags_for(rest))
    }

    /// A text of ours, with the flags put into every command that it tells to type.
    pub(crate) fn complete<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let text = self.start(text, PROGRAM.trim_matches(['`', ' ']));
        if self.flags.is_empty() || !text.contains(PROGRAM) {
            return text;
        }
        let mut parts = text.split(PROGRAM);
        let mut whole = parts.next().unwrap_or_default().to_owned();
        for rest in parts {
            let command = rest.split('`').next().unwrap_or_default();
            whole += &format!("{PROGRAM}{}{rest}", self.flags_for(command));
        }
        whole.into()
    }

    fn flags_for(&self, command: &str) -> String {
        let mut words = command.split(' ').filter(|word| !word.starts_with('-'));
        if words.next().is_some_and(|word| WITHOUT_VOLUME.contains(&word)) {
            return String::new();
        }
        let wanted = self.flags.iter().filter(|(name, _)| !command.split(' ').any(|word| word == *name));
        wanted.map(|(name, value)| format!("{name} {value} ")).collect()
    }
}

/// A word as a shell takes it (POSIX 2.2.2).
pub(crate) fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+:@%,=".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(home: Option<&str>, network: Option<&str>) -> Typed {
        let (home, network) = (home.map(Into::into), network.map(Into::into));
        Typed::of(&Common { home, network, config: None, json: false })
    }

    #[test]
    fn a_command_has_the_flags_that_were_given() {
        let both = typed(Some("/srv/n"), Some("mainnet"));
        assert_eq!(both.command("run"), "resultity-node --home /srv/n --network mainnet run");
        assert_eq!(typed(None, None).command("run"), "resultity-node run");
    }

    #[test]
    fn every_command_of_a_text_gets_them_once_and_where_they_mean_something() {
        let one = typed(Some("/srv/n"), None);
        for (text, wanted) in [
            ("start it: `resultity-node run`", "start it: `resultity-node --home /srv/n run`"),
            (
                "`resultity-node init` or `resultity-node status`",
                "`resultity-node --home /srv/n init` or `resultity-node --home /srv/n status`",
            ),
            ("`resultity-node --home <another> init`", "`resultity-node --home <another> init`"),
            ("`resultity-node devnet run`", "`resultity-node devnet run`"),
            ("resultity-node is stopped", "resultity-node is stopped"),
        ] {
            assert_eq!(one.complete(text), wanted);
        }
    }

    #[test]
    fn a_node_of_a_service_is_started_as_one() {
        let text = "start it: `resultity-node run`; see `resultity-node status`";
        let home = typed(Some("/srv/n"), None).beside(true);
        assert_eq!(
            home.complete(text),
            "start it: `systemctl start resultity-node`; see `resultity-node --home /srv/n status`"
        );
        assert_eq!(
            home.start("`x --home /srv/n run`", "x --home /srv/n"),
            "`systemctl start resultity-node`"
        );
        assert_eq!(typed(None, None).beside(false).complete(text), text);
        let other = typed(None, Some("mainnet")).beside(true).complete(text).into_owned();
        assert!(
            other.contains("--network mainnet run"),
            "the service has the network of its settings: {other}"
        );
    }

    #[test]
    fn a_path_that_a_shell_would_cut_is_quoted() {
        assert_eq!(
            typed(Some("/a b/it's"), None).command("run"),
            "resultity-node --home '/a b/it'\\''s' run"
        );
    }

    #[test]
    fn a_relative_path_is_given_in_full() {
        let here = std::env::current_dir().unwrap().join("n");
        let wanted = format!("resultity-node --home {} run", quoted(here.to_str().unwrap()));
        assert_eq!(typed(Some("n"), None).command("run"), wanted);
    }
}
