//! Jobs, from the request to the one end that is stored.

use node_types::{
    JobId, NodeId, Timestamp,
    job::{Failure, Job, Output},
    message::MessageKind,
    protocol::AcceptAnswer,
    trace::Standing,
};
use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Answer, Db, json as read_json, optional_time, parsed, time};

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    /// With an answer.
    Result(Output),
    /// Without one.
    Failure(Failure),
    /// Its time ended first: where it stood, if a node says so.
    Expired(Option<Standing>),
}

impl End {
    /// The kind of message that says so.
    pub(crate) const fn kind(&self) -> MessageKind {
        match self {
            Self::Result(_) => MessageKind::Result,
            Self::Failure(_) => MessageKind::Failure,
            Self::Expired(_) => MessageKind::Expired,
        }
    }
}

/// A job and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct JobRow {
    pub(crate) job: Job,
    pub(crate) place: String,
    pub(crate) node: Option<NodeId>,
    pub(crate) cancelled: bool,
    pub(crate) created_at: Timestamp,
    pub(crate) taken_at: Option<Timestamp>,
    pub(crate) ended_at: Option<Timestamp>,
    pub(crate) end: Option<End>,
    pub(crate) end_node: Option<NodeId>,
}

impl JobRow {
    /// Without prompt and answer.
    pub(crate) fn summary(&self) -> Value {
        let job = &self.job;
        json!({
            "id": job.id, "model": job.model, "mode": job.mode, "priority": job.priority,
            "maxTokens": job.max_tokens, "expiresAt": job.expires_at, "place": self.place, "node": self.node,
            "cancelled": self.cancelled, "createdAt": self.created_at, "takenAt": self.taken_at,
            "endedAt": self.ended_at, "end": self.end.as_ref().map(|end| end.kind()), "endNode": self.end_node,
        })
    }
}

const COLUMNS: &str =
    "SELECT job, place, node, cancelled, created_at, taken_at, ended_at, end, end_node FROM jobs";

fn row(row: &rusqlite::Row<'_>) -> Answer<JobRow> {
    let node = |column| -> Answer<Option<NodeId>> {
        row.get::<_, Option<String>>(column)?.map(|_| parsed(row, column)).transpose()
    };
    let end: Option<String> = row.get(7)?;
    Ok(JobRow {
        job: read_json(row, 0)?,
        place: row.get(1)?,
        node: node(2)?,
        cancelled: row.get(3)?,
        created_at: time(row, 4)?,
        taken_at: optional_time(row, 5)?,
        ended_at: optional_time(row, 6)?,
        end: end.map(|_| read_json(row, 7)).transpose()?,
        end_node: node(8)?,
    })
}

impl Db {
    /// Keeps a job that nobody has yet.
    pub(crate) fn add_job(&self, job: &Job, now: Timestamp) -> Answer<()> {
        let sql = "INSERT INTO jobs (id, job, place, created_at) VALUES (?1, ?2, 'waiting', ?3)";
        self.connection.execute(sql, params![job.id.to_string(), text(job), now.ms()]).map(drop)
    }

    /// A job.
    pub(crate) fn job(&self, id: &JobId) -> Answer<Option<JobRow>> {
        let sql = format!("{COLUMNS} WHERE id = ?1");
        self.connection.prepare_cached(&sql)?.query_row([id.to_string()], row).optional()
    }

    /// The jobs without an end.
    pub(crate) fn open_jobs(&self) -> Answer<Vec<JobRow>> {
        self.all(&format!("{COLUMNS} WHERE place <> 'ended' ORDER BY id"), [], row)
    }

    /// The newest jobs.
    pub(crate) fn newest_jobs(&self, limit: u64) -> Answer<Vec<JobRow>> {
        self.all(&format!("{COLUMNS} ORDER BY created_at DESC, id DESC LIMIT ?1"), [limit], row)
    }

    /// How many jobs are where; ended ones by their end.
    pub(crate) fn job_counts(&self) -> Answer<Vec<(String, u64)>> {
        let sql = "SELECT coalesce(end_kind, place), count(*) FROM jobs GROUP BY 1 ORDER BY 1";
        self.all(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// Notes that a job was offered to a node.
    pub(crate) fn offered(&self, job: &JobId, node: &NodeId, now: Timestamp) -> Answer<()> {
        let sql = "INSERT INTO offers (job, node, times, first_at, last_at) VALUES (?1, ?2, 1, ?3, ?3)
                   ON CONFLICT DO UPDATE SET times = times + 1, last_at = excluded.last_at";
        let (job, node) = (job.to_string(), node.to_string());
        self.connection.execute(sql, params![job, node, now.ms()])?;
        let sql = "UPDATE jobs SET place = 'offered', node = ?2 WHERE id = ?1 AND place <> 'ended'";
        self.connection.execute(sql, [job, node]).map(drop)
    }

    /// Whether a job was ever offered to a node.
    pub(crate) fn was_offered(&self, job: &JobId, node: &NodeId) -> Answer<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM offers WHERE job = ?1 AND node = ?2)";
        self.connection.query_row(sql, [job.to_string(), node.to_string()], |row| row.get(0))
    }

    /// Notes a node's answer to an offer.
    pub(crate) fn answered(
        &self,
        job: &JobId,
        node: &NodeId,
        answer: AcceptAnswer,
        reason: Option<&str>,
    ) -> Answer<()> {
        let name = serde_json::to_value(answer).ok().and_then(|it| it.as_str().map(str::to_owned));
        let sql = "UPDATE offers SET answer = ?3, reason = ?4 WHERE job = ?1 AND node = ?2";
        self.connection.execute(sql, params![job.to_string(), node.to_string(), name, reason]).map(drop)
    }

    /// The offers of a job, as JSON.
    pub(crate) fn offers(&self, job: &JobId) -> Answer<Vec<Value>> {
        let sql = "SELECT node, times, first_at, last_at, answer, reason FROM offers WHERE job = ?1 ORDER BY first_at";
        self.all(sql, [job.to_string()], |row| {
            Ok(json!({
                "node": row.get::<_, String>(0)?, "times": row.get::<_, u64>(1)?,
                "firstAt": row.get::<_, u64>(2)?, "lastAt": row.get::<_, u64>(3)?,
                "answer": row.get::<_, Option<String>>(4)?, "reason": row.get::<_, Option<String>>(5)?,
            }))
        })
    }

    /// A node has the job.
    pub(crate) fn taken(&self, job: &JobId, node: &NodeId, now: Timestamp) -> Answer<()> {
        let sql = "UPDATE jobs SET place = 'held', node = ?2, taken_at = coalesce(taken_at, ?3)
                   WHERE id = ?1 AND place <> 'ended'";
        self.connection.execute(sql, params![job.to_string(), node.to_string(), now.ms()]).map(drop)
    }

    /// Nobody has the job any more.
    pub(crate) fn released(&self, job: &JobId) -> Answer<()> {
        let sql = "UPDATE jobs SET place = 'waiting', node = NULL WHERE id = ?1 AND place <> 'ended'";
        self.connection.execute(sql, [job.to_string()]).map(drop)
    }

    /// The job is not wanted any more.
    pub(crate) fn cancelled(&self, job: &JobId) -> Answer<()> {
        self.connection.execute("UPDATE jobs SET cancelled = 1 WHERE id = ?1", [job.to_string()]).map(drop)
    }

    /// Stores a job's end. The first one stays: `false` where there is one.
    pub(crate) fn end(&self, job: &JobId, by: Option<NodeId>, end: &End, now: Timestamp) -> Answer<bool> {
        let sql = "UPDATE jobs SET place = 'ended', ended_at = ?2, end_kind = ?3, end_node = ?4, end = ?5
                   WHERE id = ?1 AND place <> 'ended'";
        let by = by.map(|node| node.to_string());
        let arguments = params![job.to_string(), now.ms(), end.kind().name(), by, text(end)];
        Ok(self.connection.execute(sql, arguments)? == 1)
    }
}

fn text(value: &impl Serialize) -> String {
    // Jobs and ends are structs of texts and numbers: they always can be written.
    serde_json::to_string(value).unwrap_or_default()
}
