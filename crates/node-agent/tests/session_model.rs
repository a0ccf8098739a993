//! The session against a model of the network that loses, repeats and reorders whatever goes over a connection, and
//! cuts it: whatever happens, every job ends at the network, once, and nothing is left behind.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

#[path = "common/settings.rs"]
mod settings;
#[path = "../../node-types/tests/trust/common.rs"]
#[expect(dead_code, reason = "the trust documents' tests use more of it")]
mod trust;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use node_agent::{
    author::Author,
    network::{Link, Network, NetworkError, Offered, Posted},
    node::Node,
    session, time,
};
use node_store::{
    jobs::{Lease, Moved},
    store::{Options, Store},
};
use node_types::{
    Digest, JobId, Network as Which, Timestamp,
    job::{Failure, FailureKind, Job, Mode, ModelRef, Output, Request},
    message::{Domain, MessageKind},
    protocol::{
        self, Accept, AcceptAnswer, ExpiredJob, FailedJob, Hello, Keysets, NetworkFrame, Readiness,
        ResultOfJob, Signed,
    },
};
use proptest::prelude::*;
use serde_json::json;
use settings::settings;
use tokio::{sync::watch, time::sleep};
use trust::{CHAIN_ID, HOUR_MS, Signer, config, keyset, signed_config, trusted, with};

/// More than a session has on the way at once.
const JOBS: u64 = 80;
/// How long the network may take to become quiet once it loses nothing any more.
const PATIENCE: Duration = Duration::from_secs(120);

/// Of a thousand.
#[derive(Clone, Copy, Debug)]
struct Chaos {
    lose: u64,
    repeat: u64,
    reorder: u64,
    cut: u64,
}

const CALM: Chaos = Chaos { lose: 0, repeat: 0, reorder: 0, cut: 0 };

/// What the network knows.
#[derive(Default)]
struct Known {
    random: u64,
    offered: BTreeMap<JobId, Job>,
    taken: BTreeSet<JobId>,
    /// The first end of each job.
    ends: BTreeMap<JobId, (MessageKind, String)>,
    /// The numbers of all messages that were sent.
    numbers: BTreeSet<u64>,
    wrong: Vec<String>,
}

impl Known {
    /// xorshift64: the same seed gives the same sequence of decisions.
    fn chance(&mut self, of_thousand: u64) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 1000 < of_thousand
    }

    /// Whether nothing more can come: what has not ended was late before anybody took it.
    fn is_complete(&self, now: Timestamp) -> bool {
        let mut open = self.offered.values().filter(|job| !self.ends.contains_key(&job.id));
        open.all(|job| job.expires_at <= now && !self.taken.contains(&job.id))
    }
}

struct Model {
    known: Mutex<Known>,
    chaos: Mutex<Chaos>,
    domain: Domain,
}

struct ModelNetwork(Arc<Model>);

/// A connection, and the frames on their way to the node.
struct ModelLink {
    model: Arc<Model>,
    to_node: Vec<NetworkFrame>,
    /// A message that others overtake.
    late: Option<Signed>,
    cut: bool,
}

fn lost() -> NetworkError {
    NetworkError::Misbehaves("the model cut the connection".to_owned())
}

impl Network for ModelNetwork {
    type Link = ModelLink;

    async fn keysets(&self) -> Result<Keysets, NetworkError> {
        Err(lost())
    }

    async fn snapshot(&self, _: Option<Digest>) -> Result<Offered, NetworkError> {
        Err(lost())
    }

    async fn post<P: Posted>(&self, _: &Signed) -> Result<P::Answer, NetworkError> {
        Err(lost())
    }

    async fn connect(&self) -> Result<ModelLink, NetworkError> {
        Ok(ModelLink { model: Arc::clone(&self.0), to_node: Vec::new(), late: None, cut: false })
    }
}

impl ModelLink {
    fn chance(&self, of: impl Fn(Chaos) -> u64) -> bool {
        let chaos = *self.model.chaos.lock().unwrap();
        self.model.known.lock().unwrap().chance(of(chaos))
    }

    /// Takes a message that arrived, and answers.
    fn arrived(&mut self, message: &Signed) {
        let now = time::reading().unwrap().wall;
        let mut known = self.model.known.lock().unwrap();
        if let Err(error) = message.check(&self.model.domain, now) {
            known.wrong.push(error.to_string());
            return;
        }
        let kind = message.message.kind;
        let end = match kind {
            MessageKind::Hello => {
                message.read::<Hello>().unwrap();
                if self.to_node.is_empty() {
                    let (protocol, snapshot) = (protocol::VERSION, None);
                    self.to_node.push(NetworkFrame::Welcome { protocol, now_ms: now, snapshot });
                }
                return;
            }
            MessageKind::Accept => {
                let accept = message.read::<Accept>().unwrap();
                match accept.answer {
                    AcceptAnswer::New | AcceptAnswer::Duplicate => {
                        known.taken.insert(accept.job);
                    }
                    AcceptAnswer::Expired => {}
                    AcceptAnswer::Conflict | AcceptAnswer::Full | AcceptAnswer::Rejected => {
                        known.wrong.push(format!("{accept:?}"));
                    }
                }
                return;
            }
            MessageKind::Result => message.read::<ResultOfJob>().map(|end| (end.job, end.output.body)),
            MessageKind::Failure => message.read::<FailedJob>().map(|end| (end.job, end.failure.message)),
            MessageKind::Expired => message.read::<ExpiredJob>().map(|end| (end.job, String::new())),
            MessageKind::Register
            | MessageKind::Heartbeat
            | MessageKind::Chunk
            | MessageKind::LogBatch
            | MessageKind::TraceBatch
            | MessageKind::ConfigReport
            | MessageKind::AccountLink
            | MessageKind::Inquiry
            | MessageKind::Pong
            | MessageKind::Leaving => return,
        };
        let (job, text) = end.unwrap();
        if !known.offered.contains_key(&job) {
            known.wrong.push(format!("an end of {job}, which was never offered"));
        }
        if known.ends.get(&job).is_some_and(|held| held.0 == kind && held.1 != text) {
            known.wrong.push(format!("another {kind} of {job} than before"));
        }
        known.ends.entry(job).or_insert((kind, text));
        drop(known);
        self.to_node.push(NetworkFrame::Acknowledged { job, of: kind });
    }

    /// Offers some of what nobody has taken yet and is still worth something.
    fn offer(&mut self) {
        let now = time::reading().unwrap().wall;
        let known = self.model.known.lock().unwrap();
        let open = known.offered.values().filter(|job| {
            job.expires_at > now && !known.taken.contains(&job.id) && !known.ends.contains_key(&job.id)
        });
        let frames: Vec<_> =
            open.take(8).map(|job| NetworkFrame::Job { job: Box::new(job.clone()) }).collect();
        drop(known);
        self.to_node.extend(frames);
    }
}

impl Link for ModelLink {
    async fn send(&mut self, message: &Signed) -> Result<(), NetworkError> {
        let hello = message.message.kind == MessageKind::Hello;
        if self.cut || self.chance(|chaos| chaos.cut) {
            self.cut = true;
            return Err(lost());
        }
        // Over the wire and back.
        let message = Signed::decode(&message.encode()).unwrap();
        if !self.model.known.lock().unwrap().numbers.insert(message.message.seq) {
            self.model.known.lock().unwrap().wrong.push(format!("number {} twice", message.message.seq));
        }
        if !hello && self.late.is_none() && self.chance(|chaos| chaos.reorder) {
            self.late = Some(message);
            return Ok(());
        }
        // Without a hello nobody would talk: that loss is a cut.
        if hello || !self.chance(|chaos| chaos.lose) {
            self.arrived(&message);
        }
        if !hello && self.chance(|chaos| chaos.repeat) {
            self.arrived(&message);
        }
        if let Some(late) = self.late.take() {
            self.arrived(&late);
        }
        Ok(())
    }

    async fn receive(&mut self) -> Option<Result<NetworkFrame, NetworkError>> {
        loop {
            sleep(Duration::from_millis(1)).await;
            if self.cut || self.chance(|chaos| chaos.cut) {
                self.cut = true;
                return Some(Err(lost()));
            }
            if self.to_node.is_empty() {
                self.offer();
                continue;
            }
            let welcome = matches!(self.to_node.first(), Some(NetworkFrame::Welcome { .. }));
            let last = self.to_node.len() - 1;
            let place = if !welcome && self.chance(|chaos| chaos.reorder) { last } else { 0 };
            let frame = if !welcome && self.chance(|chaos| chaos.repeat) {
                self.to_node[place].clone()
            } else {
                self.to_node.remove(place)
            };
            if welcome || !self.chance(|chaos| chaos.lose) {
                return Some(Ok(frame));
            }
        }
    }
}

fn job(number: u64, now: Timestamp) -> Job {
    Job {
        id: format!("00000000-0000-7000-8000-{number:012x}").parse().unwrap(),
        network: Which::Testnet,
        model: ModelRef { name: "gemma-3-270m".to_owned(), version: "1.0.0".to_owned() },
        mode: Mode::Completion,
        request: Request::parse(format!("{{\"prompt\":\"{number}\"}}").as_bytes()).unwrap(),
        priority: 0,
        max_tokens: 8,
        // Every sixth ends before anybody runs it, or while it waits for its acknowledgement.
        expires_at: now.plus_ms(if number.is_multiple_of(6) { 150 } else { HOUR_MS }),
        attempts_max: 3,
    }
}

fn open(home: &Path) -> Store {
    let reading = time::reading().unwrap();
    let store = Store::create(&Options::new(home, Which::Testnet), None, &reading).unwrap();
    store.snapshots().pin(trusted(&keyset(1, 1, &[&Signer::new(1)]))).unwrap();
    let now = reading.wall.ms();
    let mut document = config(1);
    for (field, at) in [("issued_at", now - 1), ("refresh_by", now + HOUR_MS), ("valid_until", now + HOUR_MS)]
    {
        document[field] = json!(at);
    }
    let document =
        with(with(document, "/timings/retry_ms_min", json!(10)), "/timings/retry_ms_max", json!(100));
    store.apply_envelope(&signed_config(&document, &[&Signer::new(1)]), reading.wall).unwrap();
    store
}

/// Stands in for dispatch and rotation: runs what is queued, a little later, and ends what is late.
async fn work(node: Arc<Node>, ran: Arc<Mutex<BTreeMap<JobId, u32>>>, mut stop: watch::Receiver<bool>) {
    let jobs = node.store.jobs();
    while !*stop.borrow_and_update() {
        let now = time::now(&node.store).unwrap();
        if let Lease::Job(leased) = jobs.lease(None, None, &[].into(), now).await.unwrap() {
            let (id, number) = (leased.job.id, leased.job.id.as_bytes()[15]);
            sleep(Duration::from_millis(2)).await;
            let now = time::now(&node.store).unwrap();
            let moved = if number.is_multiple_of(5) {
                jobs.fail(id, Failure::new(FailureKind::Runtime, &format!("failure of {id}")), now).await
            } else {
                let body = format!("answer to {id}");
                jobs.finish(id, Output { body, prompt_tokens: 1, completion_tokens: 2 }, now).await
            };
            if moved.unwrap() == Moved::Done {
                *ran.lock().unwrap().entry(id).or_default() += 1;
            }
            node.ended.notify_one();
        }
        if let Some(deadlines) = time::mark(&node.store).unwrap().cutoff(0)
            && !jobs.expire(deadlines).await.unwrap().is_empty()
        {
            node.ended.notify_one();
        }
        tokio::select! {
            () = sleep(Duration::from_millis(3)) => {}
            _ = stop.changed() => {}
        }
    }
}

async fn whatever_happens(seed: u64, chaos: Chaos) {
    let home = tempfile::tempdir().unwrap();
    let store = Arc::new(open(home.path()));
    let author = Author::new(Arc::clone(&store)).unwrap();
    let (node, chunks) = Node::new(Arc::clone(&store), author, settings(home.path())).unwrap();
    node.set_readiness(Readiness::Active);
    let now = time::now(&store).unwrap();
    let offered = (0..JOBS).map(|number| job(number, now)).map(|job| (job.id, job)).collect();
    let known = Mutex::new(Known { random: seed | 1, offered, ..Known::default() });
    let domain = Domain { network: Which::Testnet, chain_id: CHAIN_ID };
    let model = Arc::new(Model { known, chaos: Mutex::new(chaos), domain });
    let (stop, stopped) = watch::channel(false);
    let network = Arc::new(ModelNetwork(Arc::clone(&model)));
    let talking = tokio::spawn(session::run(Arc::clone(&node), network, chunks, stopped.clone()));
    let ran = Arc::new(Mutex::new(BTreeMap::new()));
    let working = tokio::spawn(work(Arc::clone(&node), Arc::clone(&ran), stopped));

    sleep(Duration::from_millis(300)).await;
    *model.chaos.lock().unwrap() = CALM;
    let quiet = async {
        loop {
            let complete = model.known.lock().unwrap().is_complete(time::reading().unwrap().wall);
            let held = store.view().jobs().tally().unwrap().jobs;
            if complete && held == 0 && store.view().jobs().unreported().unwrap().is_empty() {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, quiet).await;
    stop.send_replace(true);
    talking.await.unwrap();
    working.await.unwrap();

    let known = model.known.lock().unwrap();
    assert!(
        in_time.is_ok(),
        "never quiet: {} of {JOBS} ended, {} taken",
        known.ends.len(),
        known.taken.len()
    );
    assert_eq!(known.wrong, Vec::<String>::new());
    for (id, count) in ran.lock().unwrap().iter() {
        assert_eq!(*count, 1, "{id} came to an end {count} times");
        assert!(known.ends.contains_key(id), "what came of {id} never arrived");
    }
    assert!(known.ends.len() > 40, "too few jobs got through to say anything: {}", known.ends.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_job_ends_at_the_network_once_whatever_is_lost_repeated_reordered_or_cut(
        seed in any::<u64>(), lose in 0_u64..400, repeat in 0_u64..300, reorder in 0_u64..500, cut in 0_u64..60,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(whatever_happens(seed, Chaos { lose, repeat, reorder, cut }));
    }
}
