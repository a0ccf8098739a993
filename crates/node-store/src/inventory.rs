//! The inventory: what the snapshot expects of each artifact, what was installed, what is there now, and
//! every change of state.
//!
//! Judging is [`node_types::inventory::judge`]; this room keeps the values and the history. Reading and
//! hashing files is not done here. A new snapshot replaces the expectations; an artifact that nothing
//! expects, that was never installed and is not there leaves the inventory, its history stays.
//!
//! Limits: the history keeps the last [`HISTORY_MAX`] changes.

use std::{collections::BTreeMap, sync::Arc};

use node_types::{
    Digest, Timestamp,
    config::{NodeConfig, Runtime},
    inventory::{ArtifactId, ArtifactKind, ArtifactState, Facts, Measured, judge},
    verify::Verified,
};
use rusqlite::{Connection, OptionalExtension, Row, types::Type};

use crate::{
    clock::Cutoff,
    nonsense::{Nonsense, bad_rows, wrong},
    reader::{ReadError, Reader},
    writer::{Effect, Ticket, Writer},
};

/// Changes of state that are kept.
pub const HISTORY_MAX: u64 = 10_000;

/// The configuration's name as an artifact.
const CONFIGURATION: &str = "node_config";

/// The configuration in force as an artifact.
#[must_use]
pub fn configuration() -> ArtifactId {
    ArtifactId { kind: ArtifactKind::Configuration, name: CONFIGURATION.to_owned() }
}

/// What a snapshot expects.
pub(crate) type Expected = BTreeMap<ArtifactId, Digest>;

/// The artifacts that a snapshot names: its model files, its runtime and the folder beside it, the Agents that it
/// approves, and itself.
pub(crate) fn expected_by(config: &Verified<NodeConfig>) -> Expected {
    let document = config.document();
    let mut expected = Expected::new();
    for model in &document.models {
        for file in &model.files {
            let name = format!("{}/{}", model.reference(), file.path);
            expected.insert(ArtifactId { kind: ArtifactKind::ModelFile, name }, file.sha256);
        }
    }
    if let Some(digest) = document.runtime.digest() {
        let kind = match &document.runtime {
            Runtime::Container { .. } => ArtifactKind::RuntimeImage,
            Runtime::External { .. } | Runtime::Process { .. } => ArtifactKind::RuntimeBinary,
        };
        expected.insert(ArtifactId { kind, name: document.runtime.engine().to_owned() }, digest);
    }
    if let Runtime::Process { engine, environment: Some(environment), .. } = &document.runtime {
        let id = ArtifactId { kind: ArtifactKind::RuntimeEnvironment, name: engine.clone() };
        expected.insert(id, environment.digest);
    }
    for agent in &document.updates.agents {
        expected.insert(agent.artifact(), agent.digest);
    }
    expected.insert(configuration(), config.digest());
    expected
}

/// An artifact and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Which.
    pub id: ArtifactId,
    /// The three values.
    pub facts: Facts,
    /// When it was last measured.
    pub measured_at: Option<Timestamp>,
    /// What the values say.
    pub state: ArtifactState,
}

/// A change of an artifact's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at: Timestamp,
    /// Which.
    pub id: ArtifactId,
    /// Its state before; `None` when it was new.
    pub was: Option<ArtifactState>,
    /// Its state since.
    pub became: ArtifactState,
    /// The values that say so.
    pub facts: Facts,
}

/// What rotation decides by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HashFacts {
    /// Artifacts that are expected.
    pub expected: u64,
    /// The snapshot that expects them.
    pub expected_by: Option<Digest>,
    /// Expected ones that were not measured for long or never, longest first, at most 256; none while time
    /// is held.
    pub due: Vec<ArtifactId>,
    /// The expected container images.
    pub containers: Vec<ArtifactId>,
}

/// What can be asked about the inventory, beside a running Agent too.
#[derive(Clone, Debug)]
pub struct InventoryView {
    reader: Arc<Reader>,
}

#[expect(clippy::missing_errors_doc, reason = "each fails with ReadError where the database cannot be read")]
impl InventoryView {
    pub(crate) const fn new(reader: Arc<Reader>) -> Self {
        Self { reader }
    }

    /// All artifacts, by kind and name.
    pub fn list(&self) -> Result<Vec<Artifact>, ReadError> {
        self.reader.read(|tx| {
            tx.prepare_cached(&format!("SELECT {ARTIFACT} FROM artifacts"))?
                .query_map((), artifact)?
                .collect()
        })
    }

    /// What rotation decides by: artifacts not measured since `before`, none while time is held.
    pub(crate) fn rotation_facts(&self, before: Option<Cutoff>) -> Result<HashFacts, ReadError> {
        self.reader.read(|tx| {
            let ids = |sql: &str, values: &dyn rusqlite::ToSql| {
                tx.prepare_cached(sql)?
                    .query_map([values], |row| id_of(row, 0))?
                    .collect::<rusqlite::Result<Vec<_>>>()
            };
            let due = match before {
                Some(before) => ids(
                    "SELECT kind, name FROM artifacts
                     WHERE expected NOT NULL AND (measured_at IS NULL OR measured_at <= ?1)
                     ORDER BY measured_at, kind, name LIMIT 256",
                    &before.at().ms(),
                )?,
                None => Vec::new(),
            };
            let configuration: Option<Option<[u8; 32]>> = tx
                .prepare_cached("SELECT expected FROM artifacts WHERE kind = ?1 AND name = ?2")?
                .query_row((ArtifactKind::Configuration.name(), CONFIGURATION), |row| row.get(0))
                .optional()?;
            Ok(HashFacts {
                expected: tx
                    .prepare_cached("SELECT count(*) FROM artifacts WHERE expected NOT NULL")?
                    .query_row((), |row| row.get(0))?,
                expected_by: configuration.flatten().map(Digest::from_bytes),
                due,
                containers: ids(
                    "SELECT kind, name FROM artifacts WHERE expected NOT NULL AND kind = ?1",
                    &ArtifactKind::RuntimeImage.name(),
                )?,
            })
        })
    }

    /// The changes of one artifact, or of all, oldest first; at most [`HISTORY_MAX`].
    pub fn history(&self, id: Option<&ArtifactId>) -> Result<Vec<Change>, ReadError> {
        self.reader.read(|tx| {
            let (kind, name) = id.map(|id| (id.kind.name(), id.name.as_str())).unzip();
            tx.prepare_cached(&format!(
                "SELECT {CHANGE} FROM artifact_history
                 WHERE (?1 IS NULL OR kind = ?1) AND (?2 IS NULL OR name = ?2) ORDER BY seq"
            ))?
            .query_map((kind, name), past)?
            .collect()
        })
    }
}

/// The inventory of a volume.
#[derive(Debug)]
pub struct Inventory {
    writer: Arc<Writer>,
    view: InventoryView,
}

impl Inventory {
    pub(crate) const fn new(writer: Arc<Writer>, view: InventoryView) -> Self {
        Self { writer, view }
    }

    /// What can be asked about it.
    #[must_use]
    pub const fn view(&self) -> &InventoryView {
        &self.view
    }

    /// Notes what was installed. Returns the artifact's state.
    pub fn record(&self, id: ArtifactId, installed: Digest, now: Timestamp) -> Ticket<ArtifactState> {
        self.writer.submit(Effect::Grows, move |tx| {
            change(tx, &id, now, |facts| facts.recorded = Some(installed)).map(|(state, _)| state)
        })
    }

    /// Notes what is there now. Returns the artifact's state before and since.
    pub fn measure(
        &self,
        id: ArtifactId,
        found: Measured,
        now: Timestamp,
    ) -> Ticket<(ArtifactState, Option<ArtifactState>)> {
        self.writer.submit(Effect::Grows, move |tx| {
            let answer = change(tx, &id, now, |facts| facts.measured = Some(found))?;
            tx.prepare_cached("UPDATE artifacts SET measured_at = ?3 WHERE kind = ?1 AND name = ?2")?
                .execute((id.kind.name(), &id.name, now.ms()))?;
            Ok(answer)
        })
    }

    /// Expects again what a snapshot names, and drops what it does not list: for a snapshot that came into
    /// force without being applied. Applying does this in its own transaction.
    pub(crate) fn expect(&self, config: &Verified<NodeConfig>, now: Timestamp) -> Ticket<()> {
        let expected = expected_by(config);
        self.writer.submit(Effect::Keeps, move |tx| expect_in(tx, &expected, now))
    }

    /// Notes that an artifact was removed on purpose: it counts as not installed and not there.
    pub fn remove(&self, id: ArtifactId, now: Timestamp) -> Ticket<()> {
        self.writer.submit(Effect::Shrinks, move |tx| {
            change(tx, &id, now, |facts| {
                facts.recorded = None;
                facts.measured = Some(Measured::Absent);
            })?;
            drop_unknown(tx)
        })
    }
}

/// Replaces the expectations by those of a snapshot that is being applied.
pub(crate) fn expect_in(tx: &Connection, expected: &Expected, now: Timestamp) -> rusqlite::Result<()> {
    let known: Vec<ArtifactId> = tx
        .prepare_cached("SELECT kind, name FROM artifacts")?
        .query_map((), |row| id_of(row, 0))?
        .collect::<rusqlite::Result<_>>()?;
    for id in known.iter().filter(|id| !expected.contains_key(id)) {
        change(tx, id, now, |facts| facts.expected = None)?;
    }
    for (id, digest) in expected {
        change(tx, id, now, |facts| facts.expected = Some(*digest))?;
    }
    drop_unknown(tx)
}

fn drop_unknown(tx: &Connection) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "DELETE FROM artifacts
         WHERE expected IS NULL AND recorded IS NULL AND (measured IS NULL OR length(measured) = 0)",
    )?
    .execute(())
    .map(|_| ())
}

/// Edits an artifact's values, judges them, and notes a change of state. Returns the state since and
/// before.
fn change(
    tx: &Connection,
    id: &ArtifactId,
    now: Timestamp,
    edit: impl FnOnce(&mut Facts),
) -> rusqlite::Result<(ArtifactState, Option<ArtifactState>)> {
    let held: Option<(Facts, ArtifactState)> = tx
        .prepare_cached(
            "SELECT expected, recorded, measured, state FROM artifacts WHERE kind = ?1 AND name = ?2",
        )?
        .query_row((id.kind.name(), &id.name), |row| {
            Ok((facts_of(row, 0)?, state_of(3, &row.get::<_, String>(3)?)?))
        })
        .optional()?;
    let (mut facts, was) = held.map_or((Facts::default(), None), |(facts, was)| (facts, Some(was)));
    edit(&mut facts);
    let state = judge(&facts);
    let blob = |digest: Option<Digest>| digest.map(|digest| digest.as_bytes().to_vec());
    let measured = facts.measured.map(|measured| match measured {
        Measured::Present(digest) => digest.as_bytes().to_vec(),
        Measured::Absent => Vec::new(),
    });
    let (expected, recorded) = (blob(facts.expected), blob(facts.recorded));
    tx.prepare_cached(
        "INSERT INTO artifacts (kind, name, expected, recorded, measured, state)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO UPDATE SET expected = ?3, recorded = ?4, measured = ?5, state = ?6",
    )?
    .execute((id.kind.name(), &id.name, &expected, &recorded, &measured, state.name()))?;
    if was != Some(state) {
        tx.prepare_cached(
            "INSERT INTO artifact_history (at, kind, name, was, became, expected, recorded, measured)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(rusqlite::params![
            now.ms(),
            id.kind.name(),
            id.name,
            was.map(ArtifactState::name),
            state.name(),
            expected,
            recorded,
            measured
        ])?;
        let newest = u64::try_from(tx.last_insert_rowid()).unwrap_or(0);
        tx.prepare_cached("DELETE FROM artifact_history WHERE seq <= ?1")?
            .execute([newest.saturating_sub(HISTORY_MAX)])?;
    }
    Ok((state, was))
}

const ARTIFACT: &str = "kind, name, expected, recorded, measured, measured_at, state";
const CHANGE: &str = "seq, kind, name, expected, recorded, measured, at, was, became";

fn artifact(row: &Row<'_>) -> rusqlite::Result<Artifact> {
    Ok(Artifact {
        id: id_of(row, 0)?,
        facts: facts_of(row, 2)?,
        measured_at: row.get::<_, Option<u64>>(5)?.map(Timestamp::from_ms),
        state: state_of(6, &row.get::<_, String>(6)?)?,
    })
}

fn past(row: &Row<'_>) -> rusqlite::Result<Change> {
    let was: Option<String> = row.get(7)?;
    Ok(Change {
        id: id_of(row, 1)?,
        facts: facts_of(row, 3)?,
        at: Timestamp::from_ms(row.get(6)?),
        was: was.map(|text| state_of(7, &text)).transpose()?,
        became: state_of(8, &row.get::<_, String>(8)?)?,
    })
}

/// Rows that can be read but make no sense. Where an artifact is left out, the snapshot in force is to name
/// its artifacts again: rotation does that when the configuration is not expected.
pub(crate) fn nonsense(tx: &Connection) -> rusqlite::Result<Vec<Nonsense>> {
    let select = format!("SELECT {ARTIFACT} FROM artifacts");
    let delete = "DELETE FROM artifacts WHERE kind = ?1 AND name = ?2";
    let mut found = bad_rows(tx, &select, delete, |row| artifact(row).map(|_| ()))?;
    if !found.is_empty() {
        let (kind, name) = (ArtifactKind::Configuration.name(), CONFIGURATION);
        let condition = format!("kind = '{kind}' AND name = '{name}'");
        found.extend(wrong(tx, "artifacts", &condition, "expected = NULL")?);
    }
    let select = format!("SELECT {CHANGE} FROM artifact_history");
    let delete = "DELETE FROM artifact_history WHERE seq = ?1";
    found.extend(bad_rows(tx, &select, delete, |row| past(row).map(|_| ()))?);
    Ok(found)
}

fn unreadable(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

fn id_of(row: &Row<'_>, column: usize) -> rusqlite::Result<ArtifactId> {
    let kind: String = row.get(column)?;
    Ok(ArtifactId {
        kind: kind.parse().map_err(|error| unreadable(column, error))?,
        name: row.get(column + 1)?,
    })
}

fn state_of(column: usize, text: &str) -> rusqlite::Result<ArtifactState> {
    ArtifactState::ALL
        .into_iter()
        .find(|state| state.name() == text)
        .ok_or_else(|| unreadable(column, std::io::Error::other(format!("{text:?} is no artifact state"))))
}

fn facts_of(row: &Row<'_>, column: usize) -> rusqlite::Result<Facts> {
    let digest = |bytes: [u8; 32]| Digest::from_bytes(bytes);
    let measured: Option<Vec<u8>> = row.get(column + 2)?;
    Ok(Facts {
        expected: row.get::<_, Option<[u8; 32]>>(column)?.map(digest),
        recorded: row.get::<_, Option<[u8; 32]>>(column + 1)?.map(digest),
        measured: match measured {
            None => None,
            Some(bytes) if bytes.is_empty() => Some(Measured::Absent),
            Some(bytes) => {
                let bytes = <[u8; 32]>::try_from(bytes)
                    .map_err(|_| unreadable(column + 2, std::io::Error::other("a digest has 32 bytes")))?;
                Some(Measured::Present(Digest::from_bytes(bytes)))
            }
        },
    })
}
