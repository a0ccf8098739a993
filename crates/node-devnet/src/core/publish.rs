//! New snapshots and keysets.

use node_types::protocol::{Keysets, NetworkFrame, SnapshotRef};
use node_types::{Digest, NodeId, Timestamp, config::NodeConfig};
use serde_json::Value;

use super::{
    Core, Trouble,
    open::{key_path, template_text},
};
use crate::{
    documents::{self, Published},
    faults::BadSnapshot,
    keys::Signer,
    settings::{ConfigTemplate, REFRESH_MS_MIN, Stamp},
};

impl Core {
    /// The keysets as nodes fetch them.
    pub(crate) fn keysets(&self) -> Result<Keysets, Trouble> {
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes).map_err(|_| Trouble::Impossible("a stored keyset is not UTF-8".into()))
        };
        let mut stored = self.db.keysets()?.into_iter();
        let pinned = text(stored.next().unwrap_or_default())?;
        Ok(Keysets { pinned, rotations: stored.map(text).collect::<Result<_, _>>()? })
    }

    /// The template of the next snapshot: as it is, or changed by a merge patch (RFC 7396).
    pub(crate) fn next_template(&self, patch: Option<&Value>) -> Result<ConfigTemplate, Trouble> {
        patch.map_or_else(|| Ok(self.template.clone()), |patch| patched(&self.template, patch))
    }

    /// The model file at this place, by the newest snapshot or the one before it: a node may still be fetching that one's.
    pub(crate) fn model_file(&self, model: &str, path: &str) -> Result<Option<Digest>, Trouble> {
        let newest = file_of(&self.published.config, model, path);
        if newest.is_some() {
            return Ok(newest);
        }
        let before = self.db.snapshot(self.published.version.saturating_sub(1))?.and_then(Published::read);
        Ok(before.and_then(|before| file_of(&before.config, model, path)))
    }

    /// Publishes the next snapshot: of the template as it is, or changed by a merge patch (RFC 7396).
    pub(crate) fn publish(&mut self, patch: Option<&Value>, now: Timestamp) -> Result<SnapshotRef, Trouble> {
        let template = self.next_template(patch)?;
        let keyset_version = self.db.keysets()?.len();
        let stamp = Stamp {
            network: self.network,
            version: self.published.version + 1,
            keyset_version: u64::try_from(keyset_version).unwrap_or(u64::MAX),
            previous: Some(self.published.digest),
            now,
        };
        let published = documents::snapshot(&self.shelf.fill(&template), stamp, &self.signer)
            .map_err(|error| Trouble::Impossible(format!("no node would take that snapshot: {error}")))?;
        self.db.add_snapshot(published.version, &published.envelope, &template_text(&template), now)?;
        (self.template, self.published) = (template, published);
        self.push_snapshot();
        Ok(self.published.reference())
    }

    /// Rotates the network's key, and publishes the next snapshot under the new one. Gives the keyset's version.
    pub(crate) fn rotate(&mut self, now: Timestamp) -> Result<u64, Trouble> {
        let version = u64::try_from(self.db.keysets()?.len()).unwrap_or(u64::MAX).saturating_add(1);
        let next = Signer::load_or_make(&key_path(&self.keys, version), version)
            .map_err(|error| Trouble::Impossible(error.to_string()))?;
        let document = documents::keyset(self.network, version, self.chain_id, now, &next);
        self.db.add_keyset(version, &documents::rotation(document, &self.signer, &next))?;
        let before = std::mem::replace(&mut self.signer, next);
        let published = self.publish(None, now);
        if published.is_err() {
            // The transaction is undone, so the old key signs on.
            self.signer = before;
        }
        published.map(|_| version)
    }

    /// Offers a bad snapshot, or the good one again.
    pub(super) fn set_bad_snapshot(
        &mut self,
        kind: Option<BadSnapshot>,
        now: Timestamp,
    ) -> Result<(), Trouble> {
        let bad = match kind {
            None => None,
            Some(kind) => {
                let before = match self.published.version.checked_sub(1).filter(|version| *version > 0) {
                    Some(version) => self.db.snapshot(version)?.and_then(Published::read),
                    None => None,
                };
                let (forger, _) = Signer::random().map_err(|error| Trouble::Impossible(error.to_string()))?;
                let (newest, template) = (&self.published, self.shelf.fill(&self.template));
                let bad = documents::bad(kind, newest, before, &template, &self.signer, &forger, now);
                Some(bad.ok_or_else(|| {
                    Trouble::Impossible(
                        "there is no lower version yet: publish a second snapshot first".into(),
                    )
                })?)
            }
        };
        let changed = bad.is_some() || self.bad.is_some();
        self.bad = bad;
        self.faults.bad_snapshot = kind;
        if changed {
            self.push_snapshot();
        }
        Ok(())
    }

    fn push_snapshot(&mut self) {
        let reference = self.offered().reference();
        let nodes: Vec<NodeId> = self.sessions.keys().copied().collect();
        for node in nodes {
            self.say(node, NetworkFrame::Snapshot(reference));
        }
    }
}

fn file_of(config: &NodeConfig, model: &str, path: &str) -> Option<Digest> {
    let mut models = config.models.iter();
    let model = models.find(|it| it.reference().to_string() == model)?;
    model.files.iter().find(|file| file.path == path).map(|file| file.sha256)
}

fn patched(template: &ConfigTemplate, patch: &Value) -> Result<ConfigTemplate, Trouble> {
    let refused = |error: serde_json::Error| {
        Trouble::Impossible(format!("the template, changed so, is no template: {error}"))
    };
    let mut document = serde_json::to_value(template).map_err(refused)?;
    merge(&mut document, patch);
    let changed: ConfigTemplate = serde_json::from_value(document).map_err(refused)?;
    if changed.refresh_after_ms < REFRESH_MS_MIN {
        return Err(Trouble::Impossible(format!("refresh_after_ms must be at least {REFRESH_MS_MIN}")));
    }
    Ok(changed)
}

/// JSON Merge Patch (RFC 7396): objects are merged, `null` removes, anything else replaces.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    if let Value::Object(fields) = target {
        for (name, value) in patch {
            if value.is_null() {
                fields.remove(name);
            } else {
                merge(fields.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Some of the examples of RFC 7396, appendix A.
    #[test]
    fn patches_are_merged_as_rfc_7396_says() {
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
        ] {
            let mut merged = target;
            merge(&mut merged, &patch);
            assert_eq!(merged, result);
        }
    }
}
