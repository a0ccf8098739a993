//! Jobs: taken in, offered, ended. What is to be done when is decided in `assign`.

use std::collections::{BTreeMap, BTreeSet};

use node_types::{
    JobId, NodeId, Timestamp,
    job::{Failure, FailureKind, Job, Mode, ModelRef, Request},
    message::{MessageKind, NodeMessage},
    protocol::{Accept, AcceptAnswer, Chunk, Claim, NetworkFrame},
    trace::Outcome,
};
use tokio::sync::mpsc;

use super::{Core, Event, Trouble};
use crate::{
    assign::{self, Declined, Open, Place, Step},
    db::End,
};

/// What somebody wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) mode: Mode,
    pub(crate) model: ModelRef,
    pub(crate) request: Request,
    pub(crate) priority: u8,
    pub(crate) ttl_ms: u64,
    pub(crate) max_tokens: u32,
}

impl Core {
    /// Takes a job in. Who watches hears of it from the beginning.
    pub(crate) fn submit(
        &mut self,
        order: Order,
        watcher: Option<mpsc::UnboundedSender<Event>>,
        now: Timestamp,
    ) -> Result<JobId, Trouble> {
        let mut random = [0; 10];
        getrandom::fill(&mut random)
            .map_err(|_| Trouble::Impossible("the operating system gives no random numbers".to_owned()))?;
        let job = Job {
            id: id_at(now, random),
            network: self.network,
            model: order.model,
            mode: order.mode,
            request: order.request,
            priority: order.priority,
            max_tokens: order.max_tokens,
            expires_at: now.plus_ms(order.ttl_ms),
            attempts_max: self.published.config.limits.attempts_max,
        };
        let id = job.id;
        self.db.add_job(&job, now)?;
        let open = Open { job, place: Place::Waiting, declined: BTreeMap::new(), cancelled: None };
        self.open.insert(id, open);
        if let Some(watcher) = watcher {
            self.watchers.entry(id).or_default().push(watcher);
        }
        Ok(id)
    }

    /// Whether there is anything to do.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        now >= self.published.config.refresh_by
            || !assign::plan(&self.open, &self.peers, self.rules, now).is_empty()
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Timestamp) -> Result<(), Trouble> {
        if now >= self.published.config.refresh_by {
            self.publish(None, now)?;
        }
        for step in assign::plan(&self.open, &self.peers, self.rules, now) {
            match step {
                Step::Offer { job, node } => self.offer(job, node, now)?,
                Step::Cancel { job, node } => {
                    if let Some(it) = self.open.get_mut(&job) {
                        it.cancelled = Some(now);
                    }
                    self.say(node, NetworkFrame::Cancel { job });
                }
                Step::Expire { job } => {
                    self.close_job(job, None, &End::Expired(None), now)?;
                }
            }
        }
        Ok(())
    }

    fn offer(&mut self, id: JobId, node: NodeId, now: Timestamp) -> Result<(), Trouble> {
        self.db.offered(&id, &node, now)?;
        let Some(it) = self.open.get_mut(&id) else { return Ok(()) };
        let since = match it.place {
            Place::Offered { node: before, since, .. } if before == node => since,
            Place::Waiting | Place::Offered { .. } | Place::Held { .. } => now,
        };
        it.place = Place::Offered { node, since, last: now };
        let job = Box::new(it.job.clone());
        self.say(node, NetworkFrame::Job { job });
        Ok(())
    }

    /// A node answers an offer.
    pub(super) fn accepted(
        &mut self,
        message: &NodeMessage,
        accept: &Accept,
        now: Timestamp,
    ) -> Result<(), Trouble> {
        let (node, id) = (message.node, accept.job);
        self.db.received(message, &id, now)?;
        self.db.answered(&id, &node, accept.answer, accept.reason.as_deref())?;
        let Some(it) = self.open.get_mut(&id) else {
            // It was cancelled or ended meanwhile, or another node was faster.
            if accept.answer.is_taken() && self.db.job(&id)?.is_some_and(|row| row.cancelled) {
                self.say(node, NetworkFrame::Cancel { job: id });
            }
            return Ok(());
        };
        let awaited = matches!(it.place, Place::Offered { node: asked, .. } if asked == node);
        let declined = match accept.answer {
            AcceptAnswer::New | AcceptAnswer::Duplicate => None,
            AcceptAnswer::Full => Some(Declined::Until(now.plus_ms(self.rules.offer_retry_ms))),
            AcceptAnswer::Conflict | AcceptAnswer::Expired | AcceptAnswer::Rejected => {
                Some(Declined::ForGood)
            }
        };
        match declined {
            None if awaited => {
                it.place = Place::Held { node };
                self.db.taken(&id, &node, now)?;
                self.tell(id, Event::Taken(node));
            }
            // A late answer to an offer that went elsewhere: whoever ends it first has done it.
            None => {}
            Some(declined) => {
                it.declined.insert(node, declined);
                if awaited {
                    it.place = Place::Waiting;
                    self.db.released(&id)?;
                }
            }
        }
        Ok(())
    }

    /// A part of a streamed answer: for who watches, kept nowhere.
    pub(super) fn streamed(
        &mut self,
        message: &NodeMessage,
        chunk: Chunk,
        now: Timestamp,
    ) -> Result<(), Trouble> {
        self.db.received(message, &chunk.job, now)?;
        if self.open.get(&chunk.job).is_some_and(|it| it.place.node() == Some(message.node)) {
            self.tell(chunk.job, Event::Chunk(message.node, chunk));
        }
        Ok(())
    }

    /// A node says how a job ended. It is acknowledged whether it is news or not.
    pub(super) fn ended(
        &mut self,
        message: &NodeMessage,
        job: JobId,
        end: &End,
        now: Timestamp,
    ) -> Result<(), Trouble> {
        self.db.received(message, &job, now)?;
        // The end of a job that this node was never offered is nobody's.
        if self.db.was_offered(&job, &message.node)? {
            self.close_job(job, Some(message.node), end, now)?;
        }
        self.say(message.node, NetworkFrame::Acknowledged { job, of: end.kind() });
        Ok(())
    }

    /// What a node is told of a job that it asks about; nothing of one that it was never offered.
    pub(super) fn claim(&self, job: &JobId, node: &NodeId) -> Result<Claim, Trouble> {
        if !self.db.was_offered(job, node)? {
            return Ok(Claim::Unknown);
        }
        if let Some(it) = self.open.get(job) {
            return Ok(if it.place.node() == Some(*node) { Claim::Yours } else { Claim::NotYours });
        }
        let end = self.db.job(job)?.and_then(|row| row.end);
        Ok(end.map_or(Claim::Unknown, |end| Claim::Ended {
            outcome: match end {
                End::Result(_) => Outcome::Answered,
                End::Failure(_) => Outcome::Failed,
                End::Expired(_) => Outcome::Expired,
            },
        }))
    }

    /// A node holds these jobs and no others: what else it was given was lost there, and is offered anew.
    pub(super) fn give_back(
        &mut self,
        node: NodeId,
        held: &BTreeSet<JobId>,
        now: Timestamp,
    ) -> Result<(), Trouble> {
        let lost = self.open.iter().filter(|(id, it)| it.place.node() == Some(node) && !held.contains(id));
        let lost: Vec<(JobId, bool)> = lost.map(|(id, it)| (*id, it.cancelled.is_some())).collect();
        for (id, cancelled) in lost {
            if cancelled {
                let failure = Failure::new(FailureKind::Cancelled, "cancelled; its node lost it");
                self.close_job(id, None, &End::Failure(failure), now)?;
                continue;
            }
            self.db.released(&id)?;
            if let Some(it) = self.open.get_mut(&id) {
                it.place = Place::Waiting;
            }
        }
        Ok(())
    }

    /// Stores a job's end, if it is the first.
    fn close_job(
        &mut self,
        job: JobId,
        by: Option<NodeId>,
        end: &End,
        now: Timestamp,
    ) -> Result<(), Trouble> {
        if self.db.end(&job, by, end, now)? {
            self.open.remove(&job);
            self.tell(job, Event::Ended(end.clone(), by));
        }
        Ok(())
    }

    /// A job is not wanted any more. What nobody has taken ends at once; else its node ends it. `false` where it has
    /// ended, `None` where there is no such job.
    pub(crate) fn cancel(&mut self, id: JobId, now: Timestamp) -> Result<Option<bool>, Trouble> {
        let Some(it) = self.open.get_mut(&id) else {
            return Ok(self.db.job(&id)?.map(|_| false));
        };
        it.cancelled = Some(now);
        let place = it.place;
        self.db.cancelled(&id)?;
        if let Some(node) = place.node() {
            self.say(node, NetworkFrame::Cancel { job: id });
        }
        match place {
            Place::Held { .. } => {}
            Place::Waiting | Place::Offered { .. } => {
                let failure = Failure::new(FailureKind::Cancelled, "cancelled before a node took it");
                self.close_job(id, None, &End::Failure(failure), now)?;
            }
        }
        Ok(Some(true))
    }

    /// How often a job's end has come, of whatever kind.
    pub(super) fn is_end(kind: &str) -> bool {
        [MessageKind::Result, MessageKind::Failure, MessageKind::Expired].iter().any(|it| it.name() == kind)
    }
}

/// A UUID of version 7 (RFC 9562, section 5.7): milliseconds since 1970, then random bits.
fn id_at(now: Timestamp, random: [u8; 10]) -> JobId {
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&now.ms().to_be_bytes()[2..]);
    bytes[6..].copy_from_slice(&random);
    bytes[6] = 0x70 | (bytes[6] & 0x0f);
    bytes[8] = 0x80 | (bytes[8] & 0x3f);
    JobId::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_ids_are_uuids_of_version_7_that_sort_by_time() {
        let now = Timestamp::from_ms(0x0123_4567_89ab);
        assert_eq!(id_at(now, [0xff; 10]).to_string(), "01234567-89ab-7fff-bfff-ffffffffffff");
        assert!(id_at(now, [0xff; 10]).as_bytes() < id_at(now.plus_ms(1), [0; 10]).as_bytes());
    }
}
