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
/// What stands where nobody but the operator knows the network's address.
pub(crate) const NETWORK_URL: &str = "<the network's address>";
/// Commands that have nothing to do with a volume.
const WITHOUT_VOLUME: [&str; 3] = ["devnet", "demo", "completions"];

/// The flags that say which node is meant, as they are typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Typed {
    flags: Vec<(&'static str, String)>,
    service: bool,
    needs_url: bool,
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
        Self { flags, service: false, needs_url: false }
    }

    /// The same for a node that a service of the machine runs, where that is so: it is started as one.
    pub(crate) fn beside(self, service: bool) -> Self {
        Self { service: service && self.flags.iter().all(|(name, _)| *name == "--home"), ..self }
    }

    /// The same for a node whose network's address stands in no setting: it must be given at each start.
    pub(crate) fn needing_url(self, needs_url: bool) -> Self {
        Self { needs_url, ..self }
    }

    /// Whether a service runs this node.
    pub(crate) const fn is_service(&self) -> bool {
        self.service
    }

    /// A text of ours in which `command` calls this program, with the service where it starts the node, else with what a
    /// start needs.
    pub(crate) fn start<'a>(&self, text: &'a str, command: &str) -> Cow<'a, str> {
        let run = format!("`{command} run`");
        let start = match (self.service, self.needs_url) {
            (true, _) => format!("`{START}`"),
            (false, true) => format!("`{command} run --network-url {NETWORK_URL}`"),
            (false, false) => return text.into(),
        };
        if text.contains(&run) { text.replace(&run, &start).into() } else { text.into() }
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

    const RUN: &str = "`resultity-node run`";

    fn typed(home: Option<&str>, network: Option<&str>) -> Typed {
        let (home, network) = (home.map(Into::into), network.map(Into::into));
        Typed::of(&Common { home, network, config: None, json: false })
    }

    #[test]
    fn a_command_has_the_flags_that_were_given() {
        let both = typed(Some("/srv/n"), Some("mainnet"));
        assert_eq!(both.complete(RUN), "`resultity-node --home /srv/n --network mainnet run`");
        assert_eq!(typed(None, None).complete(RUN), RUN);
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
    fn a_start_has_the_networks_address_where_no_setting_has_it() {
        let text = "start it: `resultity-node run`";
        let wanted = "start it: `resultity-node --home /srv/n run --network-url <the network's address>`";
        assert_eq!(typed(Some("/srv/n"), None).needing_url(true).complete(text), wanted);
        assert_eq!(
            Typed::default().needing_url(true).start("`x run`, `x run --log debug`", "x"),
            "`x run --network-url <the network's address>`, `x run --log debug`"
        );
    }

    /// The commands that the sources tell to type. What is filled in stands in them as `{...}`, and what a person fills in
    /// as `<...>`; the tests below them print nothing.
    fn told(folder: &Path) -> Vec<String> {
        let mut told = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                told.extend(self::told(&path));
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap_or_default();
            let source = source.split("#[cfg(test)]\nmod tests").next().unwrap();
            let lines = source.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
            let text: String = lines
                .map(|line| line.strip_suffix('\\').map_or(format!("{line}\n"), str::to_owned))
                .collect();
            for program in [PROGRAM, "`{command} "] {
                let calls = text.split(program).skip(1).filter_map(|rest| rest.split_once('`'));
                // The name alone, as a constant, is no command.
                told.extend(calls.map(|(call, _)| call.to_owned()).filter(|call| !call.contains('\n')));
            }
        }
        told
    }

    /// A text in which what stands between two letters is `what`.
    fn filled(text: &str, [from, to]: [char; 2], what: impl Fn(&str) -> &'static str) -> String {
        let (mut out, mut rest) = (String::new(), text);
        while let Some((before, (inner, after))) =
            rest.split_once(from).and_then(|(before, after)| Some((before, after.split_once(to)?)))
        {
            out += before;
            out += what(inner);
            rest = after;
        }
        out + rest
    }

    #[test]
    fn every_command_that_is_told_to_type_is_taken_as_it_stands() {
        use clap::Parser as _;

        const ID: &str = "0192f0c1-2b3c-7def-8a00-000000000001";
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let told: Vec<String> =
            ["src", "../node-agent/src"].iter().flat_map(|folder| told(&root.join(folder))).collect();
        assert!(told.len() > 50, "{}", told.len());
        let refused = told.into_iter().filter_map(|command| {
            let words = filled(&command, ['{', '}'], |name| if name == "flags" { "" } else { ID });
            let words = filled(&words, ['<', '>'], |name| match name {
                "ADDRESS" => "0xAb5801a7D398351b8bE11C439e05C5B3259aeC9B",
                _ => ID,
            });
            let words = std::iter::once("resultity-node").chain(words.split_whitespace());
            crate::cli::Cli::try_parse_from(words)
                .err()
                .map(|why| format!("`resultity-node {command}`: {why}"))
        });
        assert_eq!(refused.collect::<Vec<_>>(), [""; 0]);
    }

    /// Whether a command lacks only what a sentence leaves out: it names a command or a flag, not all that it is given.
    fn is_of_a_sentence(why: &clap::Error) -> bool {
        use clap::error::{ContextKind, ContextValue, ErrorKind};
        let lacks = matches!(
            why.kind(),
            ErrorKind::MissingRequiredArgument
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                | ErrorKind::MissingSubcommand
                | ErrorKind::DisplayHelp
                | ErrorKind::DisplayVersion
        );
        let value = why.get(ContextKind::InvalidValue);
        let no_value = value.is_none_or(|value| matches!(value, ContextValue::String(it) if it.is_empty()));
        lacks || (why.kind() == ErrorKind::InvalidValue && no_value)
    }

    /// What stands in backquotes in the sentences and tables of a page, in one line each; blocks of code are not of it.
    fn quoted_in(page: &str) -> Vec<String> {
        let mut prose = String::new();
        let mut inside = false;
        for line in page.lines() {
            let fence = line.trim_start().starts_with("```");
            inside ^= fence;
            if !inside && !fence {
                prose += line;
                prose.push('\n');
            }
        }
        let words = |span: &str| span.split_whitespace().collect::<Vec<_>>().join(" ");
        // A code span ends with its paragraph at the latest, and a missing backquote turns no other one round.
        prose.split("\n\n").flat_map(|part| part.split('`').skip(1).step_by(2).map(words)).collect()
    }

    /// A command in a sentence of a page, with or without the program's name; of a single word nobody knows what it is.
    fn named(span: &str) -> Option<&str> {
        use clap::CommandFactory as _;

        let program = span.trim_start_matches("sudo ").strip_prefix("resultity-node ");
        let words = program.unwrap_or(span);
        let (first, more) = words.split_once(' ').unwrap_or((words, ""));
        let known = crate::cli::Cli::command().find_subcommand(first).is_some();
        (program.is_some() || known && !more.is_empty()).then_some(words)
    }

    /// A page that names a command or a flag that there is not sends its reader to an error.
    #[test]
    fn every_command_in_a_sentence_of_the_pages_is_one_that_there_is() {
        use clap::Parser as _;

        // What the program says of a key.
        const NO_COMMAND: &str = "key sealed under a systemd credential";
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
        let mut pages = vec![root.join("README.md"), root.join("deploy/README.md")];
        for folder in ["docs", "docs/decisions"] {
            let entries = std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
            pages.extend(entries.filter(|path| path.extension().is_some_and(|it| it == "md")));
        }
        let (mut seen, mut refused) = (0, Vec::new());
        for page in pages {
            for span in quoted_in(&std::fs::read_to_string(&page).unwrap()) {
                let Some(command) = named(&span).filter(|command| *command != NO_COMMAND) else { continue };
                seen += 1;
                // What a reader fills in stands there in capitals, in angle brackets or with dots.
                let words = command.split(' ').map(|word| match word {
                    "0x..." => "0xAb5801a7D398351b8bE11C439e05C5B3259aeC9B",
                    "..." | "…" => "x",
                    word => word,
                });
                let said = crate::cli::Cli::try_parse_from(std::iter::once("resultity-node").chain(words));
                let wrong = said.err().filter(|why| !is_of_a_sentence(why));
                refused.extend(wrong.map(|why| format!("{}: `{span}`: {why}", page.display())));
            }
        }
        assert_eq!(refused, [""; 0]);
        assert!(seen > 60, "{seen}");
    }

    #[test]
    fn a_path_that_a_shell_would_cut_is_quoted() {
        assert_eq!(
            typed(Some("/a b/it's"), None).complete(RUN),
            "`resultity-node --home '/a b/it'\\''s' run`"
        );
    }

    #[test]
    fn a_relative_path_is_given_in_full() {
        let here = std::env::current_dir().unwrap().join("n");
        let wanted = format!("`resultity-node --home {} run`", quoted(here.to_str().unwrap()));
        assert_eq!(typed(Some("n"), None).complete(RUN), wanted);
    }
}
