//! The configuration snapshot in force, the one before it, the version floor and the keysets.
//!
//! Only [`verify_config`] makes a value that [`Snapshots::apply`] takes, and what it judges by (keyset and floor)
//! is kept here. Such a value does not say by which keyset it was judged, so applying judges it again. It is one
//! transaction: current becomes previous, the floor rises, the inventory expects the new artifacts. A refused
//! update changes nothing and is not stored; the store, which applies with this room, leaves a log record of it.
//!
//! The previous one is the last that passed its health check and verifies: one that never did, or that the disk has
//! changed, is not kept to go back to. Going back never lowers the floor. After a restart digest and signatures are verified again.
//!
//! While the store is open, what is in force is what was verified, in memory, whatever becomes of the disk. [`Snapshots::measure`]
//! reads the disk, and [`Snapshots::mend`] writes there again what was verified.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use node_types::{
    Digest, Network, Timestamp,
    config::NodeConfig,
    inventory::Measured,
    keyset::VerifiedKeyset,
    log::Level,
    verify::{Floor, Refused, Term, Validity, Verified, reverify_stored, verify_config},
};
use rusqlite::Connection;

use crate::{
    inventory,
    reader::{ReadError, Reader},
    writer::{Effect, WriteError, Writer},
};

/// Why the snapshot room refuses.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The document is not what this node may use.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// No keyset was pinned: nothing can be verified.
    #[error("no keyset is pinned yet: pin the network's keyset first")]
    NoKeyset,
    /// Another keyset was pinned.
    #[error(
        "keyset {held} is pinned already, {offered} is another: a volume keeps its network's first keyset"
    )]
    OtherPin {
        /// Digest of the pinned document.
        held: Digest,
        /// Digest of the offered one.
        offered: Digest,
    },
    /// There is nothing to go back to.
    #[error("there is no earlier snapshot to go back to")]
    NoPrevious,
    /// The database did not take it.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The database cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl SnapshotError {
    /// How much it matters that an update was refused; `None` where it was not judged at all.
    pub(crate) const fn refusal_level(&self) -> Option<Level> {
        match self {
            Self::Refused(Refused::Equivocation { .. }) => Some(Level::Error),
            Self::Refused(_) | Self::NoKeyset | Self::OtherPin { .. } => Some(Level::Warn),
            Self::NoPrevious | Self::Write(_) | Self::Read(_) => None,
        }
    }
}

/// What became of a verified snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is in force now.
    New,
    /// It was in force already.
    Already,
    /// It failed its health check before and is not tried again.
    FailedBefore,
}

/// A snapshot or chain of keysets on disk that does not verify any more, found at open.
#[derive(Debug)]
pub struct Unverifiable {
    /// Its digest, as recorded.
    pub digest: Digest,
    /// Why it is not used.
    pub why: Refused,
}

/// The snapshot in force beside what the disk has of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Digest of the snapshot in force.
    pub in_force: Digest,
    /// What is stored; see [`SnapshotView::stored`].
    pub found: Measured,
}

/// A snapshot in force.
#[derive(Debug)]
pub struct InForce {
    /// The document.
    pub config: Verified<NodeConfig>,
    /// When it was applied.
    pub applied_at: Timestamp,
    /// Whether it passed its health check.
    pub good: bool,
}

fn higher(one: Floor, other: Floor) -> Floor {
    if other.version > one.version { other } else { one }
}

/// What is stored of snapshots, as one look found it: every digest and signature verified again.
#[derive(Debug)]
pub struct SnapshotView {
    keysets: Vec<VerifiedKeyset>,
    current: Option<Arc<InForce>>,
    previous: Option<Arc<InForce>>,
    stored: Measured,
    floor: Floor,
    failed: Option<Digest>,
    unverifiable: Vec<Unverifiable>,
}

impl SnapshotView {
    pub(crate) fn load(reader: &Reader, network: Network) -> Result<Self, SnapshotError> {
        let rows = reader.read(read_rows)?;
        let mut unverifiable = Vec::new();
        let mut documents = rows.keysets.iter();
        let keysets = documents.next().map_or(Ok(Vec::new()), |pinned| {
            let pinned = VerifiedKeyset::trust(pinned, network)?;
            VerifiedKeyset::replay(pinned, documents.map(Vec::as_slice))
        });
        // A chain that does not hold pins nothing: the network's keyset is to be pinned again.
        let keysets = keysets.unwrap_or_else(|why| {
            let digest = rows.keysets.first().map_or(Digest::of(b""), |pinned| Digest::of(pinned));
            unverifiable.push(Unverifiable { digest, why });
            Vec::new()
        });
        let (mut stored, mut verified) = (Measured::Absent, [None, None]);
        for row in rows.snapshots {
            let judged = reverify_stored(&row.envelope, row.digest, &keysets, network);
            if row.slot == CURRENT {
                stored = found(&row, &judged);
            }
            match judged {
                Ok(config) => {
                    let snapshot = InForce { config, applied_at: row.applied_at, good: row.good };
                    verified[usize::from(row.slot == PREVIOUS)] = Some(Arc::new(snapshot));
                }
                Err(why) => unverifiable.push(Unverifiable { digest: row.digest, why }),
            }
        }
        let [current, previous] = verified;
        // A damaged current one: the last good one is in force, the floor stays.
        let (current, previous) = if current.is_none() { (previous, None) } else { (current, previous) };
        let floor = current.iter().map(|current| Floor::at(&current.config)).fold(rows.floor, higher);
        Ok(Self { keysets, current, previous, stored, floor, failed: rows.failed, unverifiable })
    }

    /// The snapshot in force.
    #[must_use]
    pub const fn current(&self) -> Option<&Arc<InForce>> {
        self.current.as_ref()
    }

    /// Where the snapshot in force stands at `now`: fresh, stale, or out of force since its offline grace ended.
    #[must_use]
    pub fn validity(&self, now: Timestamp) -> Option<Validity> {
        self.current.as_ref().map(|current| Term::of(current.config.document()).at(now))
    }

    /// The last good one before it.
    #[must_use]
    pub const fn previous(&self) -> Option<&Arc<InForce>> {
        self.previous.as_ref()
    }

    /// What stood where the snapshot in force is kept: its digest where it verified, else that of the bytes that were there.
    #[must_use]
    pub const fn stored(&self) -> Measured {
        self.stored
    }

    /// The highest version ever applied.
    #[must_use]
    pub const fn floor(&self) -> Floor {
        self.floor
    }

    /// The version that was applied last, where it failed its health check and the last good one came back.
    #[must_use]
    pub fn taken_back(&self) -> Option<u64> {
        let newest_failed = self.failed.is_some() && self.failed == self.floor.digest;
        let in_force = self.current.as_ref().map(|current| current.config.digest());
        (newest_failed && in_force != self.failed).then_some(self.floor.version)
    }

    /// The keyset in force.
    #[must_use]
    pub fn keyset(&self) -> Option<&VerifiedKeyset> {
        self.keysets.last()
    }

    /// Stored snapshots that did not verify, to be reported.
    #[must_use]
    pub fn unverifiable(&self) -> &[Unverifiable] {
        &self.unverifiable
    }
}

/// The snapshots of a volume. Calls block until they are on disk, one after another: they are rare.
#[derive(Debug)]
pub struct Snapshots {
    writer: Arc<Writer>,
    reader: Arc<Reader>,
    network: Network,
    view: RwLock<SnapshotView>,
    /// Held from the look that a change goes by until memory says what the disk says.
    turn: Mutex<()>,
}

const CURRENT: u8 = 0;
const PREVIOUS: u8 = 1;

impl Snapshots {
    pub(crate) const fn new(
        writer: Arc<Writer>,
        reader: Arc<Reader>,
        network: Network,
        view: SnapshotView,
    ) -> Self {
        Self { writer, reader, network, view: RwLock::new(view), turn: Mutex::new(()) }
    }

    /// Looks at what is in force now.
    pub fn look<T>(&self, look: impl FnOnce(&SnapshotView) -> T) -> T {
        look(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn take_turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, edit: impl FnOnce(&mut SnapshotView)) {
        edit(&mut self.view.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// The snapshot in force.
    #[must_use]
    pub fn current(&self) -> Option<Arc<InForce>> {
        self.look(|view| view.current.clone())
    }

    /// The last good one before it.
    #[must_use]
    pub fn previous(&self) -> Option<Arc<InForce>> {
        self.look(|view| view.previous.clone())
    }

    /// The highest version ever applied.
    #[must_use]
    pub fn floor(&self) -> Floor {
        self.look(SnapshotView::floor)
    }

    /// The keyset in force.
    #[must_use]
    pub fn keyset(&self) -> Option<VerifiedKeyset> {
        self.look(|view| view.keysets.last().cloned())
    }

    /// Pins the network's first keyset. Pinning the same one again changes nothing.
    ///
    /// # Errors
    /// [`Refused::OtherNetwork`], [`SnapshotError::OtherPin`], [`SnapshotError::Write`].
    pub fn pin(&self, keyset: VerifiedKeyset) -> Result<(), SnapshotError> {
        let _turn = self.take_turn();
        self.require_network(keyset.document().network)?;
        if let Some(held) = self.look(|view| view.keysets.first().map(VerifiedKeyset::digest)) {
            let offered = keyset.digest();
            return if held == offered { Ok(()) } else { Err(SnapshotError::OtherPin { held, offered }) };
        }
        self.keep_keyset(keyset.document().version, keyset.payload().to_vec())?;
        self.change(|view| view.keysets = vec![keyset]);
        Ok(())
    }

    /// Takes the keyset that follows the one in force.
    ///
    /// # Errors
    /// [`Refused`] by its signatures or version; [`SnapshotError::NoKeyset`]; [`SnapshotError::Write`].
    pub fn rotate_keyset(&self, envelope: &[u8]) -> Result<(), SnapshotError> {
        let _turn = self.take_turn();
        let next = self.keyset().ok_or(SnapshotError::NoKeyset)?.rotate(envelope)?;
        self.keep_keyset(next.document().version, envelope.to_vec())?;
        self.change(|view| view.keysets.push(next));
        Ok(())
    }

    fn require_network(&self, found: Network) -> Result<(), Refused> {
        if found == self.network {
            return Ok(());
        }
        Err(Refused::OtherNetwork { found, wanted: self.network })
    }

    fn keep_keyset(&self, version: u64, document: Vec<u8>) -> Result<(), WriteError> {
        // What is stored and does not hold is replaced.
        let first = self.look(|view| view.keysets.is_empty());
        self.writer
            .submit(Effect::Grows, move |tx| {
                if first {
                    tx.execute("DELETE FROM keysets", ())?;
                }
                tx.prepare_cached("INSERT INTO keysets (version, document) VALUES (?1, ?2)")?
                    .execute((version, &document))
                    .map(|_| ())
            })
            .wait()
    }

    /// Raises the floor to its second copy, after the loss of `state.db`.
    pub(crate) fn raise_floor(&self, floor: Floor) -> Result<(), WriteError> {
        let _turn = self.take_turn();
        if floor.version <= self.floor().version {
            return Ok(());
        }
        let digest = floor.digest.map(|digest| digest.as_bytes().to_vec());
        self.writer
            .submit(Effect::Keeps, move |tx| {
                tx.prepare_cached("UPDATE floor SET version = ?1, digest = ?2 WHERE version < ?1")?
                    .execute((floor.version, &digest))
                    .map(|_| ())
            })
            .wait()?;
        self.change(|view| view.floor = floor);
        Ok(())
    }

    /// Judges an offered snapshot by the keyset and the floor in force. Changes nothing.
    ///
    /// # Errors
    /// [`Refused`], [`SnapshotError::NoKeyset`].
    pub fn verify(&self, envelope: &[u8], now: Timestamp) -> Result<Verified<NodeConfig>, SnapshotError> {
        let keyset = self.keyset().ok_or(SnapshotError::NoKeyset)?;
        Ok(verify_config(envelope, &keyset, self.network, self.floor(), now)?)
    }

    /// Judges a verified snapshot by this volume at `now`: it may have been verified against the keyset of another
    /// one, before a rotation, or while it was still valid.
    ///
    /// # Errors
    /// [`Refused`], [`SnapshotError::NoKeyset`].
    pub(crate) fn verify_again(
        &self,
        config: &Verified<NodeConfig>,
        now: Timestamp,
    ) -> Result<(), SnapshotError> {
        // Asked first: that the other network's keys did not sign for this one would say less.
        self.require_network(config.document().network)?;
        self.verify(config.envelope(), now).map(|_| ())
    }

    /// Puts a snapshot in force, in one transaction. It is verified again by this volume's keyset, and the floor is
    /// asked again in the transaction.
    ///
    /// # Errors
    /// [`Refused`] where it was verified for another volume, or is outdated by what was applied, rotated or has
    /// expired in between; [`SnapshotError::NoKeyset`]; [`SnapshotError::Write`].
    pub fn apply(&self, config: Verified<NodeConfig>, now: Timestamp) -> Result<Applied, SnapshotError> {
        let _turn = self.take_turn();
        self.verify_again(&config, now)?;
        if self.current().is_some_and(|held| held.config.digest() == config.digest()) {
            return Ok(Applied::Already);
        }
        let floor = Floor::at(&config);
        let applied = Arc::new(InForce { config, applied_at: now, good: false });
        let last_good = self.look(|view| view.current.clone().filter(|it| it.good).or(view.previous.clone()));
        let (current, previous) = (Arc::clone(&applied), last_good.clone());
        let answer = self
            .writer
            .submit(Effect::Grows, move |tx| apply_in(tx, &current, previous.as_deref(), now))
            .wait()??;
        if answer == Applied::New {
            self.change(|view| {
                (view.current, view.previous, view.floor) = (Some(applied), last_good, floor);
            });
        }
        Ok(answer)
    }

    /// Notes that the snapshot in force passed its health check. Another digest than its is ignored.
    ///
    /// # Errors
    /// [`SnapshotError::Write`].
    pub fn confirm(&self, digest: Digest) -> Result<(), SnapshotError> {
        let _turn = self.take_turn();
        if self.current().is_none_or(|current| current.config.digest() != digest || current.good) {
            return Ok(());
        }
        self.writer
            .submit(Effect::Keeps, move |tx| {
                tx.prepare_cached("UPDATE snapshots SET good = 1 WHERE slot = 0 AND digest = ?1")?
                    .execute([digest.as_bytes()])
                    .map(|_| ())
            })
            .wait()?;
        self.change(|view| {
            let current = view.current.take().map(|current| {
                if current.config.digest() != digest || current.good {
                    return current;
                }
                let (config, applied_at) = (current.config.clone(), current.applied_at);
                Arc::new(InForce { config, applied_at, good: true })
            });
            view.current = current;
        });
        Ok(())
    }

    /// Reads back what the disk has of the snapshot in force, past what this process remembers of the disk; `None` where none
    /// is in force.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn measure(&self) -> Result<Option<Stored>, ReadError> {
        let _turn = self.take_turn();
        let Some(current) = self.current() else { return Ok(None) };
        let rows = self.reader.anew().read(read_rows)?;
        let row = rows.snapshots.into_iter().find(|row| row.slot == CURRENT);
        let found = row.map_or(Measured::Absent, |row| {
            let judge =
                |view: &SnapshotView| reverify_stored(&row.envelope, row.digest, &view.keysets, self.network);
            found(&row, &self.look(judge))
        });
        Ok(Some(Stored { in_force: current.config.digest(), found }))
    }

    /// Writes the snapshot in force and the one before it anew, as they were verified.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn mend(&self) -> Result<(), WriteError> {
        let _turn = self.take_turn();
        let (current, previous) = self.look(|view| (view.current.clone(), view.previous.clone()));
        let Some(current) = current else { return Ok(()) };
        self.writer.submit(Effect::Keeps, move |tx| keep_in(tx, &current, previous.as_deref())).wait()
    }

    /// Goes back to the last good snapshot because the one in force failed its health check. The floor
    /// stays where it is.
    ///
    /// # Errors
    /// [`SnapshotError::NoPrevious`], [`SnapshotError::Write`].
    pub fn roll_back(&self, now: Timestamp) -> Result<Arc<InForce>, SnapshotError> {
        let _turn = self.take_turn();
        let last_good = self.previous().ok_or(SnapshotError::NoPrevious)?;
        let failed = self.current().map(|current| current.config.digest());
        let kept = Arc::clone(&last_good);
        self.writer
            .submit(Effect::Keeps, move |tx| {
                let failed = failed.as_ref().map(Digest::as_bytes);
                tx.execute("UPDATE floor SET failed = ?1", [failed])?;
                keep_in(tx, &kept, None)?;
                inventory::expect_in(tx, &inventory::expected_by(&kept.config), now)
            })
            .wait()?;
        self.change(|view| (view.current, view.failed) = (view.previous.take(), failed));
        Ok(last_good)
    }

    /// Forgets which snapshot failed its health check: where the network still offers that one, it is applied as a new one is.
    /// For whoever has mended what was wrong with the machine. Gives its version; nothing where none was taken back.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn forget_failure(&self) -> Result<Option<u64>, WriteError> {
        let _turn = self.take_turn();
        let Some(version) = self.look(SnapshotView::taken_back) else { return Ok(None) };
        let forgotten = self.writer.submit(Effect::Keeps, |tx| {
            tx.execute("UPDATE floor SET failed = NULL", ())?;
            Ok(())
        });
        forgotten.wait()?;
        self.change(|view| view.failed = None);
        Ok(Some(version))
    }
}

fn apply_in(
    tx: &Connection,
    offered: &InForce,
    last_good: Option<&InForce>,
    now: Timestamp,
) -> rusqlite::Result<Result<Applied, Refused>> {
    let (version, digest) = (offered.config.document().version, offered.config.digest());
    let (floor, failed) = read_floor(tx)?;
    if version < floor.version {
        return Ok(Err(Refused::Older { held: floor.version, offered: version }));
    }
    if let Some(held) = floor.digest.filter(|held| version == floor.version && *held != digest) {
        return Ok(Err(Refused::Equivocation { version, held, offered: digest }));
    }
    if failed == Some(digest) {
        return Ok(Ok(Applied::FailedBefore));
    }
    keep_in(tx, offered, last_good)?;
    tx.execute("UPDATE floor SET version = ?1, digest = ?2", (version, digest.as_bytes()))?;
    inventory::expect_in(tx, &inventory::expected_by(&offered.config), now)?;
    Ok(Ok(Applied::New))
}

/// Writes both slots from what was verified. A row already there is not moved: its bytes may have changed since
/// they were read, and would then be found out at the opening that needs them.
fn keep_in(tx: &Connection, current: &InForce, previous: Option<&InForce>) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM snapshots", ())?;
    for (slot, kept) in [(CURRENT, Some(current)), (PREVIOUS, previous)] {
        let Some(InForce { config, applied_at, good }) = kept else { continue };
        tx.execute(
            "INSERT INTO snapshots (slot, version, digest, envelope, applied_at, good)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            rusqlite::params![
                slot,
                config.document().version,
                config.digest().as_bytes(),
                config.envelope(),
                applied_at.ms(),
                good
            ],
        )?;
    }
    Ok(())
}

fn read_floor(tx: &Connection) -> rusqlite::Result<(Floor, Option<Digest>)> {
    tx.query_row("SELECT version, digest, failed FROM floor", (), |row| {
        let digest = |column| row.get::<_, Option<[u8; 32]>>(column).map(|it| it.map(Digest::from_bytes));
        Ok((Floor { version: row.get(0)?, digest: digest(1)? }, digest(2)?))
    })
}

struct SnapshotRow {
    slot: u8,
    digest: Digest,
    envelope: Vec<u8>,
    applied_at: Timestamp,
    good: bool,
}

/// What a row holds, as it was judged.
fn found(row: &SnapshotRow, judged: &Result<Verified<NodeConfig>, Refused>) -> Measured {
    Measured::Present(judged.as_ref().map_or_else(|_| Digest::of(&row.envelope), Verified::digest))
}

struct Rows {
    keysets: Vec<Vec<u8>>,
    snapshots: Vec<SnapshotRow>,
    floor: Floor,
    failed: Option<Digest>,
}

fn read_rows(tx: &Connection) -> rusqlite::Result<Rows> {
    let keysets = tx
        .prepare("SELECT document FROM keysets ORDER BY version")?
        .query_map((), |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let snapshots = tx
        .prepare("SELECT slot, digest, envelope, applied_at, good FROM snapshots")?
        .query_map((), |row| {
            Ok(SnapshotRow {
                slot: row.get(0)?,
                digest: Digest::from_bytes(row.get(1)?),
                envelope: row.get(2)?,
                applied_at: Timestamp::from_ms(row.get(3)?),
                good: row.get(4)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    let (floor, failed) = read_floor(tx)?;
    Ok(Rows { keysets, snapshots, floor, failed })
}

/// Rows that can be read but make no sense. Digests and signatures are judged by [`SnapshotView::load`].
pub(crate) fn nonsense(tx: &Connection) -> rusqlite::Result<Vec<crate::nonsense::Nonsense>> {
    let mut found = crate::nonsense::floor(tx)?;
    found.extend(crate::nonsense::wrong(tx, "floor", "length(failed) <> 32", "failed = NULL")?);
    Ok(found)
}
