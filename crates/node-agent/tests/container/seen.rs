//! What the program in a container sees and can do, as it tells it itself.

use node_agent::runtime::Endpoint;
use serde_json::Value;

use super::said;

/// What it told.
pub struct Seen(Value);

/// Asks it.
pub async fn seen(endpoint: &Endpoint) -> Seen {
    Seen(serde_json::from_str(&said(endpoint, "probe", "").await).unwrap())
}

impl Seen {
    pub fn text(&self, name: &str) -> String {
        self.0[name].as_str().unwrap().to_owned()
    }

    /// What stands behind a name in its status, as proc(5) has it.
    fn status(&self, name: &str) -> Vec<String> {
        let status = self.text("status");
        let line = status.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
        line.split_whitespace().skip(1).map(str::to_owned).collect()
    }

    /// The names of its environment's variables, in order.
    pub fn variables(&self) -> Vec<String> {
        let environment = self.text("environment");
        let names = environment.lines().map(|line| line.split('=').next().unwrap().to_owned());
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names
    }

    /// It is nobody, may do nothing, writes nowhere but in its temporary folder, reads the models, and leaves no core.
    pub fn assert_kept_apart(&self) {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(self.status(set), ["0000000000000000"], "{set}");
        }
        assert_eq!(
            (self.status("NoNewPrivs"), self.status("Seccomp")),
            (vec!["1".to_owned()], vec!["2".to_owned()])
        );
        for ids in ["Uid", "Gid"] {
            assert_eq!(self.status(ids), vec!["65534".to_owned(); 4], "{ids}");
        }
        assert_eq!(self.text("processes"), "1", "a process namespace of its own");
        for place in ["write root", "write models", "write model"] {
            assert_eq!(self.text(place), "ReadOnlyFilesystem", "{place}");
        }
        assert_eq!(
            (self.text("write tmp"), self.text("start from tmp")),
            ("done".to_owned(), "PermissionDenied".to_owned())
        );
        assert_eq!((self.text("model"), self.text("engine")), ("the model".to_owned(), String::new()));
        let limits = self.text("limits");
        let cores = limits.lines().find(|line| line.starts_with("Max core")).unwrap();
        assert_eq!(cores.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
    }
}
