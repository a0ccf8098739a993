//! Nodes, their starts and the numbers of their messages.

use node_types::{Address, BootId, NodeId, Timestamp};
use rusqlite::{OptionalExtension as _, params};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Answer, Db, optional_time, parsed, time};

/// A node as the network knows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeRow {
    pub(crate) id: NodeId,
    pub(crate) address: Address,
    pub(crate) agent: String,
    pub(crate) registered_at: Timestamp,
    pub(crate) registrations: u64,
    pub(crate) boot_id: Option<String>,
    pub(crate) heartbeat: Option<Value>,
    pub(crate) heartbeat_at: Option<Timestamp>,
    pub(crate) account: Option<String>,
    pub(crate) account_at: Option<Timestamp>,
}

/// What a message's start is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Boot {
    /// The latest.
    Latest,
    /// One that was never seen.
    New,
    /// One before the latest.
    Earlier,
}

impl Db {
    /// Registers a node, or notes that it registered again.
    pub(crate) fn register(&self, id: &NodeId, address: &Address, agent: &str, now: Timestamp) -> Answer<()> {
        let sql = "INSERT INTO nodes (id, address, agent, registered_at) VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT DO UPDATE SET agent = excluded.agent, registrations = registrations + 1";
        let arguments = params![id.to_string(), address.to_string(), agent, now.ms()];
        self.connection.execute(sql, arguments).map(drop)
    }

    /// All nodes.
    pub(crate) fn nodes(&self) -> Answer<Vec<NodeRow>> {
        let sql =
            "SELECT id, address, agent, registered_at, registrations, boot, heartbeat, heartbeat_at, account,
                   account_at FROM nodes ORDER BY registered_at, id";
        self.all(sql, [], |row| {
            let heartbeat: Option<String> = row.get(6)?;
            Ok(NodeRow {
                id: parsed(row, 0)?,
                address: parsed(row, 1)?,
                agent: row.get(2)?,
                registered_at: time(row, 3)?,
                registrations: row.get(4)?,
                boot_id: row.get(5)?,
                heartbeat: heartbeat.and_then(|text| serde_json::from_str(&text).ok()),
                heartbeat_at: optional_time(row, 7)?,
                account: row.get(8)?,
                account_at: optional_time(row, 9)?,
            })
        })
    }

    /// Whether a node is registered.
    pub(crate) fn is_registered(&self, id: &NodeId) -> Answer<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM nodes WHERE id = ?1)";
        self.connection.prepare_cached(sql)?.query_row([id.to_string()], |row| row.get(0))
    }

    /// What a start of a node is.
    pub(crate) fn boot(&self, node: &NodeId, boot: &BootId) -> Answer<Boot> {
        let (node, boot) = (node.to_string(), boot.to_string());
        let sql = "SELECT boot FROM nodes WHERE id = ?1";
        let latest: Option<Option<String>> =
            self.connection.prepare_cached(sql)?.query_row([&node], |row| row.get(0)).optional()?;
        let Some(latest) = latest else { return Ok(Boot::New) };
        if latest.as_ref() == Some(&boot) {
            return Ok(Boot::Latest);
        }
        let sql = "SELECT EXISTS (SELECT 1 FROM boots WHERE node = ?1 AND boot = ?2)";
        let known = self.connection.query_row(sql, [&node, &boot], |row| row.get(0))?;
        Ok(if known { Boot::Earlier } else { Boot::New })
    }

    /// A new start of a registered node replaces the one before.
    pub(crate) fn begin_boot(&self, node: &NodeId, boot: &BootId, now: Timestamp) -> Answer<()> {
        let (node, boot) = (node.to_string(), boot.to_string());
        let sql = "INSERT INTO boots VALUES (?1, ?2, ?3)";
        self.connection.execute(sql, params![node, boot, now.ms()])?;
        self.connection.execute("UPDATE nodes SET boot = ?2 WHERE id = ?1", [node, boot]).map(drop)
    }

    /// All starts of a node, the latest one last.
    pub(crate) fn boots(&self, node: &NodeId) -> Answer<Vec<Value>> {
        let sql = "SELECT boot, since FROM boots WHERE node = ?1 ORDER BY since";
        self.all(sql, [node.to_string()], |row| {
            Ok(json!({ "bootId": row.get::<_, String>(0)?, "since": row.get::<_, u64>(1)? }))
        })
    }

    /// The numbers of a node's messages that are remembered.
    pub(crate) fn seqs(&self, node: &NodeId) -> Answer<Vec<u64>> {
        self.all("SELECT seq FROM seqs WHERE node = ?1", [node.to_string()], |row| {
            row.get(0).map(i64::cast_unsigned)
        })
    }

    /// Remembers a number, and forgets those below the floor.
    pub(crate) fn add_seq(&self, node: &NodeId, seq: u64, floor: u64) -> Answer<()> {
        let (node, seq) = (node.to_string(), seq.cast_signed());
        let sql = "INSERT OR IGNORE INTO seqs VALUES (?1, ?2)";
        self.connection.prepare_cached(sql)?.execute(params![node, seq])?;
        // Numbers above 2^63 are below 0 here: no node comes that far, and one that says so keeps its rows.
        let sql = "DELETE FROM seqs WHERE node = ?1 AND seq BETWEEN 0 AND ?2 - 1";
        self.connection.prepare_cached(sql)?.execute(params![node, floor.cast_signed()]).map(drop)
    }

    /// Keeps a node's last heartbeat.
    pub(crate) fn set_heartbeat(&self, node: &NodeId, heartbeat: &str, now: Timestamp) -> Answer<()> {
        let sql = "UPDATE nodes SET heartbeat = ?2, heartbeat_at = ?3 WHERE id = ?1";
        self.connection.execute(sql, params![node.to_string(), heartbeat, now.ms()]).map(drop)
    }

    /// Keeps the account that a node works for.
    pub(crate) fn set_account(&self, node: &NodeId, account: Option<&str>, now: Timestamp) -> Answer<()> {
        let sql = "UPDATE nodes SET account = ?2, account_at = ?3 WHERE id = ?1";
        self.connection.execute(sql, params![node.to_string(), account, now.ms()]).map(drop)
    }
}
