//! Who gets which job when: pure. What carries it out is `core::jobs`.
//!
//! - A waiting job is offered to the connected node that lists its model and has the least to do. The highest priority
//!   goes first, then the oldest.
//! - An offer without an answer comes again. After `reassign_after_ms` the job goes to another node, if there is one.
//! - A job whose node is gone for longer than that likewise. It may then run twice; its end is stored once.
//! - `full` keeps a node out for one `offer_retry_ms`; `rejected`, `conflict` and `expired` for good.
//! - A job that nobody took ends with its time. One that a node holds has as long again as a reassignment takes, so
//!   that its node can report it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use node_types::{
    JobId, NodeId, Timestamp,
    job::{Job, ModelRef},
};

/// Where a job without an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// With nobody.
    Waiting,
    /// Offered, not yet answered.
    Offered {
        /// To whom.
        node: NodeId,
        /// When first.
        since: Timestamp,
        /// When last.
        last: Timestamp,
    },
    /// Accepted.
    Held {
        /// By whom.
        node: NodeId,
    },
}

impl Place {
    /// The node that has it or was offered it.
    #[must_use]
    pub const fn node(&self) -> Option<NodeId> {
        match self {
            Self::Waiting => None,
            Self::Offered { node, .. } | Self::Held { node } => Some(*node),
        }
    }
}

/// How long a node that declined is left in peace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declined {
    /// Until then.
    Until(Timestamp),
    /// It never gets this job.
    ForGood,
}

/// A job that has no end yet.
#[derive(Clone, Debug)]
pub struct Open {
    /// The job.
    pub job: Job,
    /// Where it is.
    pub place: Place,
    /// Who declined it.
    pub declined: BTreeMap<NodeId, Declined>,
    /// When its cancellation was last sent, if it is not wanted any more.
    pub cancelled: Option<Timestamp>,
}

/// A node that is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Jobs that it runs at once; 0 while it runs none.
    pub concurrency: u16,
    /// What it can run.
    pub models: Vec<ModelRef>,
}

/// The nodes.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    /// Connected.
    pub connected: BTreeMap<NodeId, Peer>,
    /// Not connected, since when. A node that is in neither is gone since ever.
    pub gone: BTreeMap<NodeId, Timestamp>,
}

/// How long to wait, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Between two offers to the same node.
    pub offer_retry_ms: u64,
    /// Before a job goes to another node.
    pub reassign_after_ms: u64,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Offer the job to this node, for the first time or again.
    Offer {
        /// The job.
        job: JobId,
        /// The node.
        node: NodeId,
    },
    /// Tell its node again that it is not wanted.
    Cancel {
        /// The job.
        job: JobId,
        /// The node.
        node: NodeId,
    },
    /// Its time has ended.
    Expire {
        /// The job.
        job: JobId,
    },
}

/// What is to be done now, the most urgent first.
#[must_use]
pub fn plan(open: &BTreeMap<JobId, Open>, peers: &Peers, rules: Rules, now: Timestamp) -> Vec<Step> {
    let mut busy: BTreeMap<NodeId, u64> = BTreeMap::new();
    for node in open.values().filter_map(|it| it.place.node()) {
        *busy.entry(node).or_default() += 1;
    }
    let mut urgent: Vec<&Open> = open.values().collect();
    urgent.sort_by_key(|it| (Reverse(it.job.priority), *it.job.id.as_bytes()));
    let mut steps = Vec::new();
    for it in urgent {
        let step = step(it, peers, rules, now, &busy);
        if let Some(Step::Offer { node, .. }) = step
            && it.place.node() != Some(node)
        {
            *busy.entry(node).or_default() += 1;
        }
        steps.extend(step);
    }
    steps
}

fn step(
    it: &Open,
    peers: &Peers,
    rules: Rules,
    now: Timestamp,
    busy: &BTreeMap<NodeId, u64>,
) -> Option<Step> {
    let job = it.job.id;
    let expires_at = it.job.expires_at;
    let elsewhere = |but: Option<NodeId>| {
        let node = best(it, but, peers, now, busy)?;
        Some(Step::Offer { job, node })
    };
    match it.place {
        Place::Held { .. } if now >= expires_at.plus_ms(rules.reassign_after_ms) => {
            Some(Step::Expire { job })
        }
        Place::Waiting | Place::Offered { .. } if now >= expires_at => Some(Step::Expire { job }),
        Place::Waiting => elsewhere(None),
        Place::Offered { node, since, last } => {
            let late = now.since_ms(since) >= rules.reassign_after_ms;
            let other = if late { elsewhere(Some(node)) } else { None };
            let again = peers.connected.contains_key(&node) && now.since_ms(last) >= rules.offer_retry_ms;
            other.or(again.then_some(Step::Offer { job, node }))
        }
        Place::Held { node } => {
            if peers.connected.contains_key(&node) {
                let due = it.cancelled.is_some_and(|last| now.since_ms(last) >= rules.offer_retry_ms);
                return due.then_some(Step::Cancel { job, node });
            }
            let gone_since = peers.gone.get(&node).copied().unwrap_or(Timestamp::EPOCH);
            let lost = now.since_ms(gone_since) >= rules.reassign_after_ms;
            // A job past its time, or not wanted any more, begins nowhere else.
            if lost && it.cancelled.is_none() && now < expires_at { elsewhere(Some(node)) } else { None }
        }
    }
}

/// The node with the least to do for each job that it runs at once.
fn best(
    it: &Open,
    but: Option<NodeId>,
    peers: &Peers,
    now: Timestamp,
    busy: &BTreeMap<NodeId, u64>,
) -> Option<NodeId> {
    let out: BTreeSet<NodeId> = it
        .declined
        .iter()
        .filter(|(_, declined)| match declined {
            Declined::Until(then) => now < *then,
            Declined::ForGood => true,
        })
        .map(|(node, _)| *node)
        .chain(but)
        .collect();
    peers
        .connected
        .iter()
        .filter(|(id, peer)| peer.concurrency > 0 && peer.models.contains(&it.job.model) && !out.contains(id))
        .min_by_key(|(id, peer)| {
            let load = busy.get(id).copied().unwrap_or(0);
            (load.saturating_mul(1_000) / u64::from(peer.concurrency), **id)
        })
        .map(|(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use node_types::{Address, Network, job::Mode, job::Request};
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_ms(1_000_000);
    const RULES: Rules = Rules { offer_retry_ms: 100, reassign_after_ms: 1_000 };

    fn node(number: u8) -> NodeId {
        NodeId::derive(Network::Testnet, &Address::from_bytes([number; 20]))
    }

    fn model() -> ModelRef {
        ModelRef { name: "m".into(), version: "1".into() }
    }

    fn open(number: u8, place: Place) -> Open {
        let job = Job {
            id: JobId::from_bytes([number; 16]),
            network: Network::Testnet,
            model: model(),
            mode: Mode::Chat,
            request: Request::parse(b"{}").unwrap(),
            priority: 0,
            max_tokens: 1,
            expires_at: NOW.plus_ms(60_000),
            attempts_max: 1,
        };
        Open { job, place, declined: BTreeMap::new(), cancelled: None }
    }

    fn peers(connected: &[u8]) -> Peers {
        let peer = Peer { concurrency: 1, models: vec![model()] };
        let connected = connected.iter().map(|number| (node(*number), peer.clone())).collect();
        Peers { connected, gone: BTreeMap::new() }
    }

    fn planned(all: &[Open], peers: &Peers, now: Timestamp) -> Vec<Step> {
        plan(&all.iter().map(|it| (it.job.id, it.clone())).collect(), peers, RULES, now)
    }

    fn alone(it: &Open, peers: &Peers, now: Timestamp) -> Vec<Step> {
        planned(std::slice::from_ref(it), peers, now)
    }

    fn offer(it: &Open, to: u8) -> Step {
        Step::Offer { job: it.job.id, node: node(to) }
    }

    #[test]
    fn a_waiting_job_goes_to_a_connected_node_that_can_run_it() {
        let it = open(1, Place::Waiting);
        assert_eq!(alone(&it, &peers(&[]), NOW), []);
        assert_eq!(alone(&it, &peers(&[7]), NOW), [offer(&it, 7)]);
        let mut idle = peers(&[7]);
        idle.connected.get_mut(&node(7)).unwrap().concurrency = 0;
        assert_eq!(alone(&it, &idle, NOW), []);
        let mut other = peers(&[7]);
        other.connected.get_mut(&node(7)).unwrap().models.clear();
        assert_eq!(alone(&it, &other, NOW), []);
    }

    #[test]
    fn two_jobs_go_to_two_nodes_and_the_higher_priority_goes_first() {
        let (first, mut second) = (open(1, Place::Waiting), open(2, Place::Waiting));
        second.job.priority = 9;
        let steps = planned(&[first.clone(), second.clone()], &peers(&[7, 8]), NOW);
        let nodes: BTreeSet<NodeId> = steps
            .iter()
            .map(|step| match step {
                Step::Offer { node, .. } => *node,
                Step::Cancel { .. } | Step::Expire { .. } => panic!("{step:?}"),
            })
            .collect();
        assert_eq!(nodes.len(), 2);
        assert!(matches!(steps[0], Step::Offer { job, .. } if job == second.job.id));
    }

    #[test]
    fn an_offer_comes_again_until_it_is_answered_and_then_goes_elsewhere() {
        let it = open(1, Place::Offered { node: node(7), since: NOW, last: NOW });
        let both = peers(&[7, 8]);
        assert_eq!(alone(&it, &both, NOW.plus_ms(99)), []);
        assert_eq!(alone(&it, &both, NOW.plus_ms(100)), [offer(&it, 7)]);
        assert_eq!(alone(&it, &both, NOW.plus_ms(1_000)), [offer(&it, 8)]);
        assert_eq!(alone(&it, &peers(&[7]), NOW.plus_ms(1_000)), [offer(&it, 7)]);
    }

    #[test]
    fn a_job_leaves_a_node_only_when_that_is_gone_for_long() {
        let it = open(1, Place::Held { node: node(7) });
        assert_eq!(alone(&it, &peers(&[7, 8]), NOW.plus_ms(50_000)), []);
        let mut without = peers(&[8]);
        without.gone.insert(node(7), NOW);
        assert_eq!(alone(&it, &without, NOW.plus_ms(999)), []);
        assert_eq!(alone(&it, &without, NOW.plus_ms(1_000)), [offer(&it, 8)]);
        let mut cancelled = it.clone();
        cancelled.cancelled = Some(NOW);
        assert_eq!(alone(&cancelled, &without, NOW.plus_ms(1_000)), []);
        let again = Step::Cancel { job: it.job.id, node: node(7) };
        assert_eq!(alone(&cancelled, &peers(&[7]), NOW.plus_ms(100)), [again]);
    }

    #[test]
    fn a_node_that_is_full_is_asked_later_and_one_that_rejects_never() {
        let mut it = open(1, Place::Waiting);
        it.declined.insert(node(7), Declined::Until(NOW.plus_ms(5)));
        assert_eq!(alone(&it, &peers(&[7]), NOW.plus_ms(4)), []);
        assert_eq!(alone(&it, &peers(&[7]), NOW.plus_ms(5)), [offer(&it, 7)]);
        it.declined.insert(node(7), Declined::ForGood);
        assert_eq!(alone(&it, &peers(&[7]), NOW.plus_ms(5)), []);
    }

    #[test]
    fn a_job_ends_with_its_time_and_a_held_one_when_its_node_does_not_report_it() {
        let (waiting, held) = (open(1, Place::Waiting), open(2, Place::Held { node: node(7) }));
        let end = waiting.job.expires_at;
        let ended = [Step::Expire { job: waiting.job.id }];
        assert_eq!(planned(&[waiting.clone(), held.clone()], &peers(&[7]), end), ended);
        assert_eq!(alone(&held, &peers(&[7]), end.plus_ms(999)), []);
        let ended = [Step::Expire { job: held.job.id }];
        assert_eq!(alone(&held, &peers(&[7]), end.plus_ms(1_000)), ended);
    }

    fn any_place() -> impl Strategy<Value = Place> {
        prop_oneof![
            Just(Place::Waiting),
            (0..4_u8, 0..3_000_u64, 0..300_u64).prop_map(|(number, since, last)| {
                let since = Timestamp::from_ms(NOW.ms() - since);
                Place::Offered { node: node(number), since, last: Timestamp::from_ms(NOW.ms() - last) }
            }),
            (0..4_u8).prop_map(|number| Place::Held { node: node(number) }),
        ]
    }

    proptest! {
        /// Given any jobs and nodes; then each job gets one step at the most, and offers go to connected nodes
        /// alone, and never away from a connected node that holds the job.
        #[test]
        fn offers_go_to_connected_nodes_and_take_nothing_away(
            places in prop::collection::vec(any_place(), 0..12),
            connected in prop::collection::vec(0..4_u8, 0..4),
        ) {
            let all: Vec<Open> = places.iter().zip(0..).map(|(place, number)| open(number, *place)).collect();
            let peers = peers(&connected);
            let steps = planned(&all, &peers, NOW);
            let mut seen = BTreeSet::new();
            for step in steps {
                let Step::Offer { job, node } = step else { panic!("{step:?}") };
                prop_assert!(seen.insert(job));
                prop_assert!(peers.connected.contains_key(&node));
                let it = all.iter().find(|it| it.job.id == job).unwrap();
                if let Place::Held { node: holder } = it.place {
                    prop_assert!(!peers.connected.contains_key(&holder));
                }
            }
        }
    }
}
