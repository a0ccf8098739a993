//! The node's binding: the account it works for, the sequence of its messages, and the clock's mark.
//!
//! All of it lies in `state.db`, so that it survives the loss of `jobs.db` and `logs.db`. The node's ID and
//! address are not kept here: they follow from the key ([`NodeId::derive`](node_types::NodeId::derive)) and
//! are stamped in every database. No balance, reward or token state is ever kept.

use std::{ops::Range, sync::Arc};

use node_types::{Address, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    clock::Mark,
    nonsense::{Nonsense, bad_rows},
    reader::{ReadError, Reader},
    writer::{Effect, Ticket, Writer},
};

/// Sequence numbers that are reserved at once unless the caller asks otherwise.
pub const SEQUENCE_BLOCK: u32 = 1000;
/// The longest e-mail address in bytes (RFC 5321, section 4.5.3.1.3: a path of 256 with its brackets).
pub const EMAIL_BYTES_MAX: usize = 254;
/// The longest proof of a link in bytes.
pub const PROOF_BYTES_MAX: usize = 4 << 10;

/// The last message number that was reserved.
const MESSAGE_SEQ: &str = "message_seq";
/// The last incident after which numbers were passed over.
const SEQUENCE_SKIPPED: &str = "sequence_skipped";

/// The account a node works for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Account {
    /// A wallet, by its EVM address.
    Wallet(Address),
    /// A person or company, by e-mail address.
    Email(String),
}

/// Why an account link is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLink {
    /// Not an e-mail address.
    #[error("{0:?} is not an e-mail address: write name@domain, at most {EMAIL_BYTES_MAX} bytes")]
    Email(String),
    /// The proof is too long.
    #[error("the proof has {0} bytes, at most {PROOF_BYTES_MAX} are kept")]
    Proof(usize),
}

/// That a node works for an account.
///
/// Deserializing checks what [`AccountLink::new`] checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct AccountLink {
    account: Account,
    linked_at: Timestamp,
    proof: String,
}

/// A link as it is written down.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    account: Account,
    linked_at: Timestamp,
    proof: String,
}

impl TryFrom<Unchecked> for AccountLink {
    type Error = BadLink;

    fn try_from(link: Unchecked) -> Result<Self, BadLink> {
        Self::new(link.account, link.linked_at, link.proof)
    }
}

impl AccountLink {
    /// A link and what proves it: the network's receipt or the account's signature, as text.
    ///
    /// # Errors
    /// [`BadLink`].
    pub fn new(account: Account, linked_at: Timestamp, proof: String) -> Result<Self, BadLink> {
        if let Account::Email(email) = &account {
            let plain = email.bytes().all(|byte| byte.is_ascii_graphic() || !byte.is_ascii());
            let parts =
                email.rsplit_once('@').filter(|(name, domain)| !name.is_empty() && !domain.is_empty());
            if !plain || parts.is_none() || email.len() > EMAIL_BYTES_MAX {
                return Err(BadLink::Email(email.clone()));
            }
        }
        if proof.len() > PROOF_BYTES_MAX {
            return Err(BadLink::Proof(proof.len()));
        }
        Ok(Self { account, linked_at, proof })
    }

    /// The account.
    #[must_use]
    pub const fn account(&self) -> &Account {
        &self.account
    }

    /// When it was linked.
    #[must_use]
    pub const fn linked_at(&self) -> Timestamp {
        self.linked_at
    }

    /// What proves it.
    #[must_use]
    pub fn proof(&self) -> &str {
        &self.proof
    }
}

/// What can be asked about the binding, beside a running Agent too.
#[derive(Clone, Debug)]
pub struct BindingView {
    reader: Arc<Reader>,
}

#[expect(clippy::missing_errors_doc, reason = "each fails with ReadError where the database cannot be read")]
impl BindingView {
    pub(crate) const fn new(reader: Arc<Reader>) -> Self {
        Self { reader }
    }

    /// The account link, if there is one.
    pub fn account(&self) -> Result<Option<AccountLink>, ReadError> {
        self.reader.read(|tx| read(tx, "SELECT link FROM account"))
    }

    /// The clock's mark as it was persisted last.
    pub fn clock_mark(&self) -> Result<Option<Mark>, ReadError> {
        self.reader.read(|tx| read(tx, "SELECT mark FROM clock"))
    }
}

/// The binding of a volume.
#[derive(Debug)]
pub struct Binding {
    writer: Arc<Writer>,
    view: BindingView,
}

impl Binding {
    pub(crate) const fn new(writer: Arc<Writer>, view: BindingView) -> Self {
        Self { writer, view }
    }

    /// What can be asked about it.
    #[must_use]
    pub const fn view(&self) -> &BindingView {
        &self.view
    }

    /// Links the node to an account, in place of any earlier one.
    pub fn link(&self, link: AccountLink) -> Ticket<()> {
        self.writer.submit(Effect::Grows, move |tx| {
            let sql = "INSERT INTO account (one, link) VALUES (1, ?1) ON CONFLICT DO UPDATE SET link = ?1";
            write(tx, sql, &link)
        })
    }

    /// Takes the link away. Returns the one there was.
    pub fn unlink(&self) -> Ticket<Option<AccountLink>> {
        self.writer.submit(Effect::Shrinks, |tx| {
            let held = read(tx, "SELECT link FROM account")?;
            tx.execute("DELETE FROM account", ())?;
            Ok(held)
        })
    }

    /// Reserves the next `count` sequence numbers of the node's messages, from 1 on. Once answered, none
    /// of them is ever given again; what a crash leaves unused is skipped.
    pub fn reserve_sequence(&self, count: u32) -> Ticket<Range<u64>> {
        self.writer.submit(Effect::Keeps, move |tx| {
            let end: u64 = tx
                .prepare_cached(
                    "INSERT INTO counters (name, value) VALUES (?2, 1 + ?1)
                     ON CONFLICT DO UPDATE SET value = value + ?1 RETURNING value",
                )?
                .query_row((count, MESSAGE_SEQ), |row| row.get(0))?;
            Ok(end - u64::from(count)..end)
        })
    }

    /// After damage to or loss of `state.db` the numbers that were reserved may be forgotten: goes on far above
    /// any of them, once for each incident. `known` is the latest moment known; a thousand numbers a
    /// millisecond since 1970 were never reserved.
    pub(crate) fn skip_sequence(&self, known: Timestamp) -> Ticket<()> {
        self.writer.submit(Effect::Keeps, move |tx| {
            let incidents: u64 =
                tx.query_row("SELECT ifnull(max(seq), 0) FROM incidents", (), |row| row.get(0))?;
            let skipped: Option<u64> = tx
                .query_row("SELECT value FROM counters WHERE name = ?1", [SEQUENCE_SKIPPED], |row| row.get(0))
                .optional()?;
            if skipped.unwrap_or(0) >= incidents {
                return Ok(());
            }
            pass_sequence(tx, known)?;
            raise(tx, SEQUENCE_SKIPPED, incidents)
        })
    }

    /// Goes on far above any number that was reserved before `known`, for a copy that cannot know which were: a thousand
    /// numbers a millisecond since 1970 were never reserved.
    pub fn pass_sequence(&self, known: Timestamp) -> Ticket<()> {
        self.writer.submit(Effect::Keeps, move |tx| pass_sequence(tx, known))
    }

    /// Persists the clock's mark. One that lies before the mark held is not kept.
    pub fn keep_clock_mark(&self, mark: Mark) -> Ticket<()> {
        self.writer.submit(Effect::Keeps, move |tx| {
            let held: Option<Mark> = read(tx, "SELECT mark FROM clock")?;
            if held.is_some_and(|held| held.now > mark.now) {
                return Ok(());
            }
            let sql = "INSERT INTO clock (one, mark) VALUES (1, ?1) ON CONFLICT DO UPDATE SET mark = ?1";
            write(tx, sql, &mark)
        })
    }
}

/// The latest moment whose numbers are passed over, 2200-01-01: numbers go up to 2^53, and one wrong time must not use them up.
const KNOWN_MS_MAX: u64 = 7_258_118_400_000;

/// [`Binding::pass_sequence`] in a file that is not in use yet.
pub(crate) fn pass_sequence(tx: &Connection, known: Timestamp) -> rusqlite::Result<()> {
    raise(tx, MESSAGE_SEQ, known.ms().min(KNOWN_MS_MAX) * 1000)
}

fn raise(tx: &Connection, counter: &str, least: u64) -> rusqlite::Result<()> {
    let sql = "INSERT INTO counters (name, value) VALUES (?1, ?2)
               ON CONFLICT DO UPDATE SET value = max(value, ?2)";
    tx.prepare_cached(sql)?.execute((counter, least)).map(|_| ())
}

/// The clock's mark in a file that is not in use yet.
pub(crate) fn clock_mark(tx: &Connection) -> rusqlite::Result<Option<Mark>> {
    read(tx, "SELECT mark FROM clock")
}

/// Rows that can be read but make no sense.
pub(crate) fn nonsense(tx: &Connection) -> rusqlite::Result<Vec<Nonsense>> {
    let mark = |row: &Row<'_>| parse::<Mark>(&row.get::<_, String>(0)?).map(|_| ());
    let link = |row: &Row<'_>| parse::<AccountLink>(&row.get::<_, String>(0)?).map(|_| ());
    let counter = |row: &Row<'_>| {
        let known = [MESSAGE_SEQ, SEQUENCE_SKIPPED].contains(&row.get::<_, String>(0)?.as_str());
        if known { row.get::<_, u64>(1).map(|_| ()) } else { Err(rusqlite::Error::InvalidQuery) }
    };
    let mut found = bad_rows(tx, "SELECT mark FROM clock", "DELETE FROM clock", mark)?;
    found.extend(bad_rows(tx, "SELECT link FROM account", "DELETE FROM account", link)?);
    let (select, delete) = ("SELECT name, value FROM counters", "DELETE FROM counters WHERE name = ?1");
    found.extend(bad_rows(tx, select, delete, counter)?);
    Ok(found)
}

fn parse<T: DeserializeOwned>(text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
    })
}

fn read<T: DeserializeOwned>(tx: &Connection, sql: &str) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = tx.prepare_cached(sql)?.query_row((), |row| row.get(0)).optional()?;
    text.map(|text| parse(&text)).transpose()
}

fn write<T: Serialize>(tx: &Connection, sql: &str, value: &T) -> rusqlite::Result<()> {
    let text = serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    tx.prepare_cached(sql)?.execute([text]).map(|_| ())
}
