//! What the two stages are told, as arguments.

use std::{ffi::OsString, path::PathBuf};

use rustix::process::Pid;

/// What a program may do, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Who starts the stage: without it there is no program.
    pub parent: Pid,
    /// The user, its group, and its other groups; none to stay whoever it is.
    pub user: Option<(u32, u32, Vec<u32>)>,
    /// For another user: the folder of models, and where it is shown.
    pub shown: Option<Shown>,
    /// For another user: folders that are empty for the program.
    pub hidden: Vec<PathBuf>,
    /// Files and folders to read, and programs to start.
    pub read: Vec<PathBuf>,
    /// Folders to write.
    pub write: Vec<PathBuf>,
    /// The TCP port to listen on.
    pub port: u16,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// A folder that is shown elsewhere, read-only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The folder.
    pub folder: PathBuf,
    /// Where it is shown: a folder, made where it is missing.
    pub at: PathBuf,
}

impl Policy {
    /// As arguments, after the stage's name.
    pub fn to_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> =
            vec!["--parent".into(), self.parent.as_raw_nonzero().to_string().into()];
        if let Some((uid, gid, groups)) = &self.user {
            let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
            for (name, value) in
                [("--uid", uid.to_string()), ("--gid", gid.to_string()), ("--groups", groups.join(","))]
            {
                args.extend([name.into(), value.into()]);
            }
        }
        if let Some(Shown { folder, at }) = &self.shown {
            args.extend(["--show".into(), folder.into(), "--at".into(), at.into()]);
        }
        for (name, paths) in [("--hide", &self.hidden), ("--ro", &self.read), ("--rw", &self.write)] {
            for path in paths {
                args.extend([name.into(), path.into()]);
            }
        }
        args.extend([
            "--port".into(),
            self.port.to_string().into(),
            "--".into(),
            self.program.clone().into(),
        ]);
        args.extend(self.args.iter().cloned());
        args
    }

    /// Reads what [`Policy::to_args`] wrote.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let (mut parent, mut uid, mut gid, mut groups, mut port) = (None, None, None, Vec::new(), None);
        let (mut folder, mut at) = (None, None);
        let (mut hidden, mut read, mut write) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(name) = args.next() {
            if name == "--" {
                break;
            }
            let value = args.next().ok_or_else(|| format!("{name:?} has no value"))?;
            match name.to_str().unwrap_or_default() {
                "--parent" => parent = Pid::from_raw(number(&value)?),
                "--uid" => uid = Some(number(&value)?),
                "--gid" => gid = Some(number(&value)?),
                "--groups" => groups = list(&value)?,
                "--port" => port = Some(number(&value)?),
                "--show" => folder = Some(value.into()),
                "--at" => at = Some(value.into()),
                "--hide" => hidden.push(value.into()),
                "--ro" => read.push(value.into()),
                "--rw" => write.push(value.into()),
                _ => return Err(format!("{name:?} is no argument of it")),
            }
        }
        let user = match (uid, gid) {
            (Some(uid), Some(gid)) => Some((uid, gid, groups)),
            (None, None) => None,
            _ => return Err("--uid and --gid come together".to_owned()),
        };
        let shown = match (folder, at) {
            (Some(folder), Some(at)) => Some(Shown { folder, at }),
            (None, None) => None,
            _ => return Err("--show and --at come together".to_owned()),
        };
        if user.is_none() && (shown.is_some() || !hidden.is_empty()) {
            return Err("--show and --hide are for another user".to_owned());
        }
        Ok(Self {
            parent: parent.ok_or("--parent is missing")?,
            user,
            shown,
            hidden,
            read,
            write,
            port: port.ok_or("--port is missing")?,
            program: args.next().ok_or("the program is missing")?.into(),
            args: args.collect(),
        })
    }
}

fn number<T: std::str::FromStr>(value: &OsString) -> Result<T, String> {
    value.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| format!("{value:?} is no such number"))
}

fn list(value: &OsString) -> Result<Vec<u32>, String> {
    let texts = value.to_str().unwrap_or_default().split(',').filter(|text| !text.is_empty());
    texts.map(|text| number(&text.into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_is_read() {
        let policy = Policy {
            parent: rustix::process::getpid(),
            user: Some((1, 2, vec![3, 4])),
            shown: Some(Shown { folder: "/m".into(), at: "--at".into() }),
            hidden: vec!["/v".into(), "--hide".into()],
            read: vec!["/a b".into(), "--rw".into()],
            write: vec!["/c".into()],
            port: 65535,
            program: "/p".into(),
            args: vec!["--".into(), "--port".into(), "1".into()],
        };
        assert_eq!(Policy::parse(policy.to_args().into_iter()), Ok(policy.clone()));
        let nobody = Policy { user: None, shown: None, hidden: vec![], args: vec![], ..policy };
        assert_eq!(Policy::parse(nobody.to_args().into_iter()), Ok(nobody));
    }

    #[test]
    fn what_is_incomplete_is_refused() {
        let parse = |args: &str| Policy::parse(args.split_whitespace().map(OsString::from));
        assert!(parse("--parent 1 --port 5 -- p").is_ok());
        let bad = [
            "",
            "--parent 1 --port 5",
            "--parent 1 --port 5 --",
            "--port 5 -- p",
            "--parent 1 -- p",
            "--parent 0 --port 5 -- p",
            "--parent 1 --port 65536 -- p",
            "--parent 1 --port 5 --uid 1 -- p",
            "--parent 1 --port 5 --else 1 -- p",
            "--parent 1 --port 5 --uid 1 --gid 1 --show /m -- p",
            "--parent 1 --port 5 --show /m --at /n -- p",
            "--parent 1 --port 5 --hide /v -- p",
        ];
        for args in bad {
            assert!(parse(args).is_err(), "{args}");
        }
    }
}
