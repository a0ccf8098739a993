//! The log as the page shows it: which records are asked for, and their JSON.

use node_store::logs::{Entry, Query};
use node_types::{
    JobId,
    log::{Kind, Level},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Records that one answer holds at the most, the newest of them.
pub const RECORDS_MAX: u32 = 200;

/// Which records are asked for, as it stands in a URL.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Asked {
    /// After this number.
    after: Option<u64>,
    /// Of this level or higher.
    level: Option<String>,
    /// With this text in message or fields.
    text: Option<String>,
    /// About this job.
    job: Option<String>,
}

/// What is asked for makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadQuestion {
    /// No level.
    #[error("{0:?} is no level: it is trace, debug, info, warn or error")]
    Level(String),
}

/// The answer to a question.
#[derive(Clone, Debug)]
pub enum Filter {
    /// These.
    Some(Query),
    /// None: what stands there as a job's ID is none, or not all of one yet.
    None,
}

impl Asked {
    /// What the store is asked for.
    ///
    /// # Errors
    /// [`BadQuestion`].
    pub fn filter(&self) -> Result<Filter, BadQuestion> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let level =
            given(&self.level).map(|text| text.parse::<Level>().map_err(|_| BadQuestion::Level(text)));
        let job = match given(&self.job).map(|text| text.trim().parse::<JobId>()) {
            Some(Err(_)) => return Ok(Filter::None),
            Some(Ok(job)) => Some(job),
            None => None,
        };
        Ok(Filter::Some(Query {
            level_min: level.transpose()?,
            job,
            text: given(&self.text),
            after: self.after,
            limit: Some(RECORDS_MAX),
            ..Query::default()
        }))
    }
}

/// A record, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shown {
    /// Its number.
    pub seq: u64,
    /// When, as RFC 3339.
    pub at: String,
    /// How bad.
    pub level: Level,
    /// What about.
    pub kind: Kind,
    /// The job that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// In words.
    pub message: String,
    /// What was measured.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub fields: Map<String, Value>,
}

impl From<Entry> for Shown {
    fn from(entry: Entry) -> Self {
        let Entry { seq, record } = entry;
        Self {
            seq,
            at: record.at.to_string(),
            level: record.level,
            kind: record.kind,
            job: record.job,
            message: record.message,
            fields: record.fields.into_iter().collect(),
        }
    }
}

/// As many of the newest records as have room in so many bytes of JSON, oldest first.
#[must_use]
pub fn newest_within(records: Vec<Shown>, room: usize) -> Vec<Shown> {
    let mut left = room;
    let mut kept = Vec::new();
    for record in records.into_iter().rev() {
        let bytes = serde_json::to_string(&record)
            .map_or(usize::MAX, |json| super::document::escaped(&json).len() + 1);
        let Some(rest) = left.checked_sub(bytes) else { break };
        left = rest;
        kept.push(record);
    }
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(seq: u64, message: &str) -> Shown {
        Shown {
            seq,
            at: String::new(),
            level: Level::Info,
            kind: Kind::Agent,
            job: None,
            message: message.to_owned(),
            fields: Map::new(),
        }
    }

    #[test]
    fn a_question_becomes_a_query() {
        let asked = Asked {
            after: Some(7),
            level: Some("warn".to_owned()),
            text: Some("x".to_owned()),
            job: Some(" 0192f0c1-2b3c-7def-8a00-000000000001 ".to_owned()),
        };
        let Ok(Filter::Some(query)) = asked.filter() else { panic!("refused") };
        assert_eq!(
            (query.after, query.level_min, query.limit),
            (Some(7), Some(Level::Warn), Some(RECORDS_MAX))
        );
        assert!(query.job.is_some());
        let Ok(Filter::Some(query)) = Asked { text: Some(String::new()), ..Asked::default() }.filter() else {
            panic!("refused")
        };
        assert_eq!(
            (query.text, query.level_min, query.job),
            (None, None, None),
            "what is empty is not asked for"
        );
    }

    #[test]
    fn half_an_id_matches_nothing_and_no_level_is_refused() {
        assert!(matches!(
            Asked { job: Some("0192".to_owned()), ..Asked::default() }.filter(),
            Ok(Filter::None)
        ));
        let refused = Asked { level: Some("loud".to_owned()), ..Asked::default() }.filter().unwrap_err();
        assert!(refused.to_string().contains("loud"), "{refused}");
    }

    #[test]
    fn the_newest_records_that_have_room_are_kept() {
        let one = serde_json::to_string(&shown(1, "a")).unwrap().len() + 1;
        let kept = newest_within(vec![shown(1, "a"), shown(2, "a"), shown(3, "a")], 2 * one);
        assert_eq!(kept.iter().map(|it| it.seq).collect::<Vec<_>>(), [2, 3]);
        assert!(newest_within(vec![shown(1, "<<<<")], one + 3).is_empty(), "what it takes escaped counts");
    }
}
