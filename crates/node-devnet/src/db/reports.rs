//! What nodes say: messages about jobs, log batches, traces, what became of snapshots.

use node_types::{BootId, Digest, JobId, NodeId, Timestamp, message::NodeMessage, trace::Trace};
use rusqlite::{OptionalExtension as _, params};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Answer, Db, parsed, time};

/// A message about a job that counted.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Received {
    pub(crate) node: NodeId,
    pub(crate) kind: String,
    pub(crate) boot_id: BootId,
    pub(crate) seq: u64,
    pub(crate) at: Timestamp,
}

/// A log batch to keep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchRow<'a> {
    pub(crate) chain: &'a str,
    pub(crate) seq: u64,
    pub(crate) header: &'a str,
    /// JSON, one record a line.
    pub(crate) records: Option<&'a str>,
}

/// The last batch of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) seq: u64,
    pub(crate) digest: Digest,
}

impl Db {
    /// Notes a message about a job.
    pub(crate) fn received(&self, message: &NodeMessage, job: &JobId, now: Timestamp) -> Answer<()> {
        let sql = "INSERT INTO messages (job, node, kind, boot, seq, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let (node, boot) = (message.node.to_string(), message.boot_id.to_string());
        let seq = message.seq.cast_signed();
        let arguments = params![job.to_string(), node, message.kind.name(), boot, seq, now.ms()];
        self.connection.prepare_cached(sql)?.execute(arguments).map(drop)
    }

    /// The messages about a job, in the order in which they came.
    pub(crate) fn messages(&self, job: &JobId) -> Answer<Vec<Received>> {
        let sql = "SELECT node, kind, boot, seq, at FROM messages WHERE job = ?1 ORDER BY number";
        self.all(sql, [job.to_string()], |row| {
            Ok(Received {
                node: parsed(row, 0)?,
                kind: row.get(1)?,
                boot_id: parsed(row, 2)?,
                seq: row.get(3).map(i64::cast_unsigned)?,
                at: time(row, 4)?,
            })
        })
    }

    /// The last batch of a node's chain.
    pub(crate) fn last_batch(&self, node: &NodeId, chain: &str) -> Answer<Option<Link>> {
        let sql = "SELECT seq, header FROM batches WHERE node = ?1 AND chain = ?2 ORDER BY seq DESC LIMIT 1";
        let read = |row: &rusqlite::Row<'_>| {
            let header: String = row.get(1)?;
            Ok(Link { seq: row.get(0)?, digest: Digest::of(header.as_bytes()) })
        };
        self.connection.query_row(sql, [&node.to_string(), chain], read).optional()
    }

    /// The header of a batch.
    pub(crate) fn batch_header(&self, node: &NodeId, chain: &str, seq: u64) -> Answer<Option<String>> {
        let sql = "SELECT header FROM batches WHERE node = ?1 AND chain = ?2 AND seq = ?3";
        let arguments = params![node.to_string(), chain, seq];
        self.connection.query_row(sql, arguments, |row| row.get(0)).optional()
    }

    /// Keeps a batch; the same one again is counted.
    pub(crate) fn add_batch(&self, node: &NodeId, batch: &BatchRow<'_>, now: Timestamp) -> Answer<()> {
        let sql =
            "INSERT INTO batches (node, chain, seq, header, records, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                   ON CONFLICT DO UPDATE SET times = times + 1";
        let BatchRow { chain, seq, header, records } = batch;
        let arguments = params![node.to_string(), chain, seq, header, records, now.ms()];
        self.connection.execute(sql, arguments).map(drop)
    }

    /// The newest batches, with their records.
    pub(crate) fn batches(&self, limit: u64) -> Answer<Vec<Value>> {
        let sql =
            "SELECT node, header, records, at, times FROM batches ORDER BY at DESC, rowid DESC LIMIT ?1";
        self.all(sql, [limit], |row| {
            let records: Option<String> = row.get(2)?;
            let records: Option<Vec<Value>> = records
                .map(|lines| lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect());
            Ok(json!({
                "node": row.get::<_, String>(0)?, "header": super::json::<Value>(row, 1)?, "records": records,
                "at": row.get::<_, u64>(3)?, "times": row.get::<_, u64>(4)?,
            }))
        })
    }

    /// Keeps a trace: the same job's again replaces it.
    pub(crate) fn add_trace(&self, node: &NodeId, trace: &Trace, now: Timestamp) -> Answer<()> {
        let sql = "INSERT INTO traces VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT DO UPDATE SET trace = excluded.trace, at = excluded.at";
        // A trace has numbers, texts and lists: it always can be written.
        let text = serde_json::to_string(trace).unwrap_or_default();
        let arguments = params![node.to_string(), trace.job.to_string(), text, now.ms()];
        self.connection.execute(sql, arguments).map(drop)
    }

    /// The newest traces.
    pub(crate) fn traces(&self, limit: u64) -> Answer<Vec<Value>> {
        let sql = "SELECT node, trace, at FROM traces ORDER BY at DESC, rowid DESC LIMIT ?1";
        self.all(sql, [limit], |row| {
            let (node, at): (String, u64) = (row.get(0)?, row.get(2)?);
            Ok(json!({ "node": node, "trace": super::json::<Value>(row, 1)?, "at": at }))
        })
    }

    /// Keeps what became of a snapshot.
    pub(crate) fn add_report(&self, node: &NodeId, report: &str, now: Timestamp) -> Answer<()> {
        let sql = "INSERT INTO reports (node, report, at) VALUES (?1, ?2, ?3)";
        self.connection.execute(sql, params![node.to_string(), report, now.ms()]).map(drop)
    }

    /// What became of snapshots, the newest report first.
    pub(crate) fn reports(&self, limit: u64) -> Answer<Vec<Value>> {
        let sql = "SELECT node, report, at FROM reports ORDER BY number DESC LIMIT ?1";
        self.all(sql, [limit], |row| {
            let (node, at): (String, u64) = (row.get(0)?, row.get(2)?);
            Ok(json!({ "node": node, "report": super::json::<Value>(row, 1)?, "at": at }))
        })
    }
}
