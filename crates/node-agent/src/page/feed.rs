//! The page kept up to date: the report whenever it changed, and the log as it grows, as server-sent events (HTML standard,
//! 9.2).
//!
//! The report is made once a second at the most, and only while somebody listens.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::response::sse::Event;
use futures_util::{Stream, stream};
use node_store::{logs::Query, reader::ReadError};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{MissedTickBehavior, interval},
};

use super::{
    looked,
    records::{Filter, Shown},
};
use crate::{
    node::Node,
    standing::{self, Standing},
};

/// Between two looks.
pub const EVERY: Duration = Duration::from_secs(1);

/// Makes the report again while somebody listens, for as long as it is polled.
pub async fn refresh(node: Arc<Node>, reports: watch::Sender<Option<Arc<Standing>>>) -> Infallible {
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if reports.receiver_count() == 0 {
            continue;
        }
        // Where it cannot be made now, the next one tells; what is wrong is in the log.
        if let Ok(fresh) = looked(&node, |node| standing::of_agent(node)).await {
            reports.send_if_modified(|held| {
                let changed = held.as_ref().is_none_or(|held| differs(held, &fresh));
                if changed {
                    *held = Some(Arc::new(fresh));
                }
                changed
            });
        }
    }
}

/// Whether there is more to tell than that time has passed.
fn differs(held: &Standing, fresh: &Standing) -> bool {
    Standing { time: held.time, ..fresh.clone() } != *held
}

/// What one who listens holds of the page.
#[derive(Debug)]
pub struct Ears {
    /// The reports to come.
    pub reports: watch::Receiver<Option<Arc<Standing>>>,
    /// The page ends.
    pub stop: watch::Receiver<bool>,
    /// The place among those who listen.
    pub place: OwnedSemaphorePermit,
}

/// One who listens.
struct Listener {
    node: Arc<Node>,
    filter: Filter,
    after: u64,
    ears: Ears,
    tick: tokio::time::Interval,
    ready: VecDeque<Event>,
}

/// The events for one who listens: `first`, and what comes from the records that `filter` asks for on.
pub fn events(
    node: Arc<Node>,
    filter: Filter,
    first: &Standing,
    ears: Ears,
) -> impl Stream<Item = Result<Event, Infallible>> + use<> {
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let after = match &filter {
        Filter::Some(query) => query.after.unwrap_or(0),
        Filter::None => 0,
    };
    let ready = report(first).into_iter().collect();
    let listener = Listener { node, filter, after, ears, tick, ready };
    stream::unfold(listener, async |mut listener| {
        let event = listener.next().await?;
        Some((Ok(event), listener))
    })
}

fn report(standing: &Standing) -> Option<Event> {
    Some(Event::default().event("report").data(serde_json::to_string(standing).ok()?))
}

impl Listener {
    /// The next event; nothing once the page ends.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let ticked = tokio::select! {
                changed = self.ears.reports.changed() => {
                    changed.ok()?;
                    false
                }
                _ = self.tick.tick() => true,
                _ = self.ears.stop.wait_for(|stop| *stop) => return None,
            };
            if ticked {
                self.look_at_log().await;
            } else {
                let fresh = self.ears.reports.borrow_and_update().clone();
                self.ready.extend(fresh.and_then(|fresh| report(&fresh)));
            }
        }
    }

    async fn look_at_log(&mut self) {
        let Filter::Some(query) = &self.filter else { return };
        let query = Query { after: Some(self.after), ..query.clone() };
        let newest = Query { after: Some(self.after), limit: Some(1), ..Query::default() };
        let found = looked(&self.node, move |node| {
            let logs = node.store.logs().view();
            // Asked first: what comes between the two is found by the second.
            let newest = logs.query(&newest)?.pop().map(|entry| entry.seq);
            newest.map(|newest| Ok((newest, logs.query(&query)?))).transpose()
        });
        // Where the log cannot be read, the report says so.
        let found: Result<_, ReadError> = found.await;
        let Ok(Some((newest, found))) = found else { return };
        let records: Vec<Shown> = found.into_iter().map(Shown::from).collect();
        // Those that are not asked for are not looked at again either.
        self.after = records.last().map_or(newest, |last| last.seq.max(newest));
        if records.is_empty() {
            return;
        }
        if let Ok(json) = serde_json::to_string(&records) {
            self.ready.push_back(Event::default().event("log").id(self.after.to_string()).data(json));
        }
    }
}
