//! The runtime's program and environment, where the Agent starts it.

use std::{collections::BTreeMap, io, time::Duration};

use node_types::{
    Digest,
    inventory::{ArtifactId, Measured},
    log::{Kind, Level},
};
use tokio::time::Instant;

use crate::{
    artifacts::Named,
    blocking::blocking,
    inventory::{Noted, note},
    node::Node,
};

/// What is known of them under one snapshot. They are read where their stamps say that they may have changed.
#[derive(Default)]
pub struct RuntimeFiles {
    /// What each looked like when it was read last.
    stamps: BTreeMap<ArtifactId, Digest>,
    /// When that is looked at again; `None` until they were read.
    next: Option<Instant>,
    /// Which of them is not what the snapshot approves, in words.
    wrong: BTreeMap<ArtifactId, String>,
}

/// What was read of them.
pub struct RuntimeRead {
    read: Vec<Read>,
    next: Instant,
}

struct Read {
    named: Named,
    stamp: Option<Digest>,
    found: io::Result<Measured>,
}

impl RuntimeFiles {
    /// Whether they were read.
    #[must_use]
    pub const fn are_known(&self) -> bool {
        self.next.is_some()
    }

    /// What one of them is instead of what the snapshot approves.
    #[must_use]
    pub fn wrong(&self) -> Option<&str> {
        self.wrong.values().next().map(String::as_str)
    }

    /// Whether it is time to look at them.
    #[must_use]
    pub fn are_due(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| next <= now)
    }

    /// This one is read at the next look.
    pub fn read_again(&mut self, id: &ArtifactId) {
        self.stamps.remove(id);
        self.next = self.next.map(|_| Instant::now());
    }

    /// Reads those of `named` that may have changed.
    pub fn read(&self, named: Vec<Named>) -> impl Future<Output = RuntimeRead> + Send + use<> {
        let stamps = self.stamps.clone();
        async move {
            let (mut read, mut took) = (Vec::new(), Duration::ZERO);
            for named in named {
                let (known, asked) = (stamps.get(&named.id).copied(), named.clone());
                let began = Instant::now();
                // What is not there has no stamp; reading it says so.
                let stamp = blocking(move || asked.stamp()).await.ok();
                took += began.elapsed();
                if stamp.is_some() && known == stamp {
                    continue;
                }
                let asked = named.clone();
                let found = blocking(move || asked.measure()).await;
                read.push(Read { named, stamp, found });
            }
            RuntimeRead { read, next: Instant::now() + stamps_wait(took) }
        }
    }

    /// Takes note of what was read. What cannot be read is not what the snapshot approves.
    pub async fn note(&mut self, node: &Node, read: RuntimeRead) {
        for Read { named, stamp, found } in read.read {
            let (id, path) = (named.id, named.path.display());
            match stamp.filter(|_| found.is_ok()) {
                Some(stamp) => self.stamps.insert(id.clone(), stamp),
                None => self.stamps.remove(&id),
            };
            let is = match &found {
                Ok(Measured::Present(found)) if *found == named.expected => None,
                Ok(Measured::Present(found)) => Some(format!("is {found}")),
                Ok(Measured::Absent) => Some("is missing".to_owned()),
                Err(error) => Some(format!("cannot be read ({error})")),
            };
            let noted = match (&is, found) {
                (None, _) => Noted::right(named.expected, true),
                (Some(_), found) => Noted::other(found.unwrap_or(Measured::Absent)),
            };
            match is {
                None => self.wrong.remove(&id),
                Some(is) => {
                    let text = format!("{path} {is}, the snapshot approves {}", named.expected);
                    self.wrong.insert(id.clone(), text)
                }
            };
            if let Err(error) = note(&node.store, &node.journal, id, noted).await {
                node.journal.failed(Level::Error, Kind::Runtime, "cannot note what was read", &error);
            }
        }
        self.next = Some(read.next);
    }
}

/// How long until the stamps of the runtime's files are looked at again, where a look took so long: 10 seconds, and more where
/// there is so much to look at that it would take more than half a percent of the time; 10 minutes at most.
fn stamps_wait(took: Duration) -> Duration {
    took.saturating_mul(200).clamp(Duration::from_secs(10), Duration::from_secs(600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_of_many_files_is_looked_at_less_often() {
        let wait = |took_ms| stamps_wait(Duration::from_millis(took_ms)).as_secs();
        assert_eq!([wait(0), wait(50), wait(500), wait(3000), wait(60_000)], [10, 10, 100, 600, 600]);
    }
}
