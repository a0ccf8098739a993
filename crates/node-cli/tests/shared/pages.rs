//! The commands of the operators' pages, read from the pages themselves, so that what is tested is what stands there.
//!
//! Every block of shell says in its first line who runs it: the word behind `console` or `sh` is one of [`RUNNERS`]. In a
//! `console` block a command begins with `$ `, in a `sh` block with its line. It goes on in the next line after a `\` at its end,
//! up to the `}` of a function, and up to the `EOF` of a text. It must end with 0, unless its comment says
//! `# ends with 0 or 7`; one whose comment says `until Ctrl-C` runs beside those that follow it.

use std::{collections::VecDeque, fmt::Write as _};

use crate::host::root;

/// The words behind a block's language, and the file under `tests/` that runs such blocks.
pub const RUNNERS: &[(&str, &str)] = &[
    ("", "cli/docs.rs"),
    ("terminal", "cli/init.rs"),
    ("machine", "machine.rs"),
    ("compose", "compose.rs"),
    ("tour", "tour.rs"),
    ("network", "tour.rs"),
];

/// The commands that no test runs, and why.
pub const ELSEWHERE: &[(&str, &str)] = &[
    (
        "make demo",
        "it builds a release first; tests/tour.rs runs the same demo with the program that is built already",
    ),
    ("make test", "it is what runs every test"),
    (
        "cargo build --release -p node-cli",
        "it takes minutes; every test runs what `cargo build` makes of the same source",
    ),
    ("ssh -L 7413:127.0.0.1:7413 node.example.org", "there is no other machine to come from"),
];

/// A command as it stands on a page, with its comment.
#[derive(Clone, Debug)]
pub struct Line(pub String);

impl Line {
    /// The exit codes that it may end with.
    pub fn codes(&self) -> Vec<i32> {
        let number = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
        self.0.split_once("# ends with ").map_or(vec![0], |(_, codes)| {
            codes.split(" or ").map_while(|code| number(code).parse().ok()).collect()
        })
    }

    /// Whether it runs until it is told to stop.
    pub fn stays(&self) -> bool {
        self.0.split_once(" # ").is_some_and(|(_, comment)| comment.contains("until Ctrl-C"))
    }

    /// Without its comment.
    pub fn bare(&self) -> &str {
        self.0.split_once(" # ").map_or(&*self.0, |(command, _)| command).trim_end()
    }
}

/// A block of commands.
#[derive(Debug)]
pub struct Block {
    /// The page's path in the project.
    pub page: String,
    /// The heading above it, without its hashes.
    pub heading: String,
    /// `sh` or `console`.
    pub language: String,
    /// The word behind the language; empty where there is none.
    pub runner: String,
    /// Its commands, but for those of [`ELSEWHERE`].
    pub lines: Vec<Line>,
}

/// Every block in which there is a command to run, in the order of the pages.
pub fn all() -> Vec<Block> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|it| it.unwrap().file_name());
    let mut pages: Vec<_> = docs.map(|it| format!("docs/{}", it.into_string().unwrap())).collect();
    pages.retain(|page| page.ends_with(".md"));
    pages.extend(
        ["README.md", "ARCHITECTURE.md", "deploy/README.md", "runtimes/README.md"].map(str::to_owned),
    );
    pages.sort_unstable();
    let mut found: Vec<_> = pages
        .iter()
        .flat_map(|page| blocks(page, &std::fs::read_to_string(root().join(page)).unwrap()))
        .collect();
    found.retain(|block| !block.lines.is_empty());
    found
}

/// The blocks of shell in a page.
fn blocks(page: &str, text: &str) -> Vec<Block> {
    let (mut found, mut heading) = (Vec::new(), "");
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix('#') {
            heading = title.trim_start_matches('#').trim();
        }
        let Some(fence) = line.trim_start().strip_prefix("```") else { continue };
        let inner: Vec<_> = lines.by_ref().take_while(|line| !line.trim_start().starts_with("```")).collect();
        let (language, runner) = fence.split_once(' ').unwrap_or((fence, ""));
        assert!(!language.is_empty(), "{page}, {heading}: a block in no language");
        // Other names of the same language would hide a block from everybody.
        if ["sh", "console", "bash", "shell", "zsh"].contains(&language) {
            found.push(Block {
                page: page.to_owned(),
                heading: heading.to_owned(),
                language: language.to_owned(),
                runner: runner.to_owned(),
                lines: commands(page, language, &inner),
            });
        }
    }
    found
}

fn commands(page: &str, language: &str, lines: &[&str]) -> Vec<Line> {
    let mut found: Vec<Line> = Vec::new();
    let mut goes_on = false;
    for line in lines.iter().filter(|line| !line.is_empty()) {
        if goes_on {
            let whole = &mut found.last_mut().unwrap().0;
            let _ = write!(whole, "\n{line}");
        } else if language == "console" {
            let command = line.strip_prefix("$ ");
            found.push(Line(
                command.unwrap_or_else(|| unreachable!("{page}: no command: {line:?}")).to_owned(),
            ));
        } else {
            found.push(Line((*line).to_owned()));
        }
        let first = found.last().unwrap().0.lines().next().unwrap();
        goes_on = line.ends_with('\\')
            || (first.ends_with('{') && *line != "}")
            || (first.ends_with("<<EOF") && *line != "EOF");
    }
    found.retain(|line| !ELSEWHERE.iter().any(|(command, _)| *command == line.bare()));
    found
}

/// The blocks that one test runs, each taken once and none left.
#[derive(Debug)]
pub struct Pages(VecDeque<Block>);

impl Pages {
    /// Those with this word behind their language.
    pub fn of(runner: &str) -> Self {
        Self(all().into_iter().filter(|block| block.runner == runner).collect())
    }

    /// The next block of a page, which has as many commands as are taken.
    #[track_caller]
    pub fn take<const COUNT: usize>(&mut self, page: &str) -> [Line; COUNT] {
        let at = self.0.iter().position(|block| block.page == page);
        let block =
            at.and_then(|at| self.0.remove(at)).unwrap_or_else(|| unreachable!("no block is left in {page}"));
        let heading = &block.heading;
        block
            .lines
            .try_into()
            .unwrap_or_else(|lines| unreachable!("{page}, {heading}: not {COUNT}: {lines:#?}"))
    }

    /// The test is at its end.
    #[track_caller]
    pub fn end(self) {
        assert!(self.0.is_empty(), "run by nobody: {:#?}", self.0);
    }
}
