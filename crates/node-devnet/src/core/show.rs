//! What the network knows, as JSON for people and tests. Prompts and answers are shown by `job` alone.

use node_types::{JobId, NodeId, Timestamp, protocol::NetworkFrame};
use serde_json::{Map, Value, json};

use super::{Core, Trouble};
use crate::db::{End, JobRow, NodeRow};

impl Core {
    /// Everything in brief.
    pub(crate) fn show_state(&self, now: Timestamp) -> Result<Value, Trouble> {
        let nodes: Vec<Value> =
            self.db.nodes()?.iter().map(|node| self.show_node(node)).collect::<Result<_, _>>()?;
        Ok(json!({
            "network": self.network,
            "chainId": self.chain_id,
            "nowMs": now,
            "keyset": { "version": self.published.config.keyset_version, "signer": self.signer.address() },
            "snapshot": {
                "version": self.published.version,
                "digest": self.published.digest,
                "refreshBy": self.published.config.refresh_by,
                "validUntil": self.published.config.valid_until,
            },
            "nodes": nodes,
            "connected": self.sessions.len(),
            "jobs": object(self.db.job_counts()?),
            "messages": object(self.db.counts("message")?),
            "refused": object(self.db.counts("refused")?),
            "files": self.shelf.show(),
            "faults": self.faults,
        }))
    }

    fn show_node(&self, node: &NodeRow) -> Result<Value, Trouble> {
        let mut shown = serde_json::to_value(node).unwrap_or_default();
        let peer = self.peers.connected.get(&node.id);
        shown["connected"] = json!(peer.is_some());
        shown["concurrency"] = json!(peer.map(|peer| peer.concurrency));
        shown["models"] = json!(peer.map(|peer| &peer.models));
        shown["goneSince"] = json!(self.peers.gone.get(&node.id));
        shown["pong"] =
            json!(self.pongs.get(&node.id).map(|(nonce, at)| json!({ "nonce": nonce, "at": at })));
        let jobs = self.open.values().filter(|it| it.place.node() == Some(node.id)).count();
        shown["openJobs"] = json!(jobs);
        shown["boots"] = json!(self.db.boots(&node.id)?);
        Ok(shown)
    }

    /// The newest jobs, without prompts and answers.
    pub(crate) fn show_jobs(&self, limit: u64) -> Result<Value, Trouble> {
        let jobs: Vec<Value> = self.db.newest_jobs(limit)?.iter().map(JobRow::summary).collect();
        Ok(json!({ "jobs": jobs }))
    }

    /// A job with everything that is known of it, the prompt and the answer too.
    pub(crate) fn show_job(&self, id: &JobId) -> Result<Option<Value>, Trouble> {
        let Some(row) = self.db.job(id)? else { return Ok(None) };
        let messages = self.db.messages(id)?;
        let count = |wanted: &str| messages.iter().filter(|it| it.kind == wanted).count();
        let mut shown = row.summary();
        shown["request"] = json!(row.job.request);
        shown["output"] = json!(match &row.end {
            Some(End::Result(output)) => Some(output),
            Some(End::Failure(_) | End::Expired(_)) | None => None,
        });
        shown["failure"] = json!(match &row.end {
            Some(End::Failure(failure)) => Some(failure),
            Some(End::Result(_) | End::Expired(_)) | None => None,
        });
        shown["standing"] = json!(match &row.end {
            Some(End::Expired(standing)) => *standing,
            Some(End::Result(_) | End::Failure(_)) | None => None,
        });
        shown["offers"] = json!(self.db.offers(id)?);
        shown["resultsReceived"] = json!(count("result"));
        shown["endsReceived"] = json!(messages.iter().filter(|it| Self::is_end(&it.kind)).count());
        shown["messages"] = json!(messages);
        Ok(Some(shown))
    }

    /// How many messages of each kind counted, and how many were refused for what.
    pub(crate) fn show_messages(&self) -> Result<Value, Trouble> {
        Ok(json!({
            "received": object(self.db.counts("message")?),
            "refused": object(self.db.counts("refused")?),
        }))
    }

    /// The newest log batches.
    pub(crate) fn show_logs(&self, limit: u64) -> Result<Value, Trouble> {
        Ok(json!({ "batches": self.db.batches(limit)? }))
    }

    /// The newest traces.
    pub(crate) fn show_traces(&self, limit: u64) -> Result<Value, Trouble> {
        Ok(json!({ "traces": self.db.traces(limit)? }))
    }

    /// What became of snapshots.
    pub(crate) fn show_reports(&self, limit: u64) -> Result<Value, Trouble> {
        Ok(json!({ "reports": self.db.reports(limit)? }))
    }

    /// Pings all nodes that are connected; their pongs show in the state.
    pub(crate) fn ping(&mut self) -> Result<Value, Trouble> {
        let mut nonce = [0; 4];
        getrandom::fill(&mut nonce).map_err(|error| Trouble::Impossible(error.to_string()))?;
        let nonce = u64::from(u32::from_be_bytes(nonce));
        let nodes: Vec<NodeId> = self.sessions.keys().copied().collect();
        for node in &nodes {
            self.say(*node, NetworkFrame::Ping { nonce });
        }
        Ok(json!({ "nonce": nonce, "nodes": nodes }))
    }
}

fn object(pairs: Vec<(String, u64)>) -> Value {
    Value::Object(pairs.into_iter().map(|(name, count)| (name, json!(count))).collect::<Map<_, _>>())
}
