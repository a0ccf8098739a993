//! Recording workloads, and looking at what power cuts leave of them.

use std::{
    collections::HashSet,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    ops::RangeInclusive,
    str::FromStr,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use sim_disk::{Image, Loss, Recording, SimDisk};

use crate::{
    check::{Promise, check},
    model::Model,
    workload::{Answer, Call, NoAnswer, Node, PROLOGUE, Workload},
};

/// A call and the part of the log that it wrote.
#[derive(Clone, Debug)]
pub struct Step {
    pub call: Call,
    /// Operations before it began.
    pub from: usize,
    /// Operations when it was answered.
    pub to: usize,
    /// What holds after it.
    pub after: Model,
}

/// A workload that was done.
#[derive(Debug)]
pub struct Recorded {
    pub workload: Workload,
    pub disk: SimDisk,
    pub recording: Recording,
    pub begin: Model,
    pub steps: Vec<Step>,
}

/// What the workloads but the creations begin on.
pub fn volume() -> &'static (Image, Model) {
    static VOLUME: OnceLock<(Image, Model)> = OnceLock::new();
    VOLUME.get_or_init(|| {
        let disk = SimDisk::new();
        let mut node = Node::on(&disk, crate::workload::ROOMY);
        let mut model = Model::default();
        for call in PROLOGUE {
            take(&mut node, &mut model, &call, &mut || ());
        }
        drop(node);
        (disk.image(disk.ops(), &Loss::Nothing), model)
    })
}

/// Where a workload begins.
pub fn begin(workload: &Workload) -> Model {
    match workload {
        Workload::Creation { .. } => Model::default(),
        Workload::Short(_) | Workload::Long { .. } => volume().1.clone(),
    }
}

fn take(node: &mut Node, model: &mut Model, call: &Call, answered: &mut dyn FnMut()) {
    let now = model.now;
    let wanted = model.step(call);
    let answer = node.run(call, now, answered).map_err(NoAnswer::text);
    assert_eq!(answer, Ok(wanted.clone()), "the answer to {call:?}");
    if wanted == Answer::Created
        && let Some(store) = &node.store
    {
        model.identity = Some((store.node(), store.volume().stamp().volume));
    }
}

/// Does a workload on a disk that `prepare` has seen.
pub fn record(workload: &Workload, prepare: impl Fn(&SimDisk)) -> Recorded {
    let begin = begin(workload);
    let disk = match workload {
        Workload::Creation { .. } => SimDisk::new(),
        Workload::Short(_) | Workload::Long { .. } => SimDisk::from_image(volume().0.clone()),
    };
    prepare(&disk);
    let mut node = Node::on(&disk, workload.reserve_bytes());
    let (mut model, mut steps) = (begin.clone(), Vec::new());
    let mut ops = workload.ops().into_iter();
    let mut first = workload.first().into_iter();
    loop {
        let call = match first.next() {
            Some(call) => call,
            None => match ops.next() {
                Some(op) => match model.choose(op) {
                    Some(call) => call,
                    None => continue,
                },
                None => break,
            },
        };
        let (from, mut to) = (disk.ops(), 0);
        take(&mut node, &mut model, &call, &mut || to = disk.ops());
        steps.push(Step { call, from, to, after: model.clone() });
    }
    let recording = disk.recording();
    Recorded { workload: workload.clone(), disk, recording, begin, steps }
}

impl Recorded {
    /// What must hold when the power goes at `at`, and a number that is the same where the same is promised.
    pub fn promise(&self, at: usize) -> (usize, Promise) {
        let done = self.steps.iter().take_while(|step| step.to <= at).count();
        let answered = done.checked_sub(1).map_or(&self.begin, |last| &self.steps[last].after);
        let in_flight = self.steps.get(done).filter(|step| at > step.from);
        let mut allowed = vec![answered.clone()];
        allowed.extend(in_flight.map(|step| step.after.clone()));
        allowed.extend(in_flight.and_then(|step| answered.partly(&step.call)));
        let imported = self.workload == Workload::Creation { imported: true };
        (2 * done + usize::from(in_flight.is_some()), Promise { allowed, imported, records: true })
    }

    /// The crash points that no shorter workload has: those of the last operation, and all where there
    /// is no shorter one.
    pub fn new_points(&self) -> RangeInclusive<usize> {
        let last = match &self.workload {
            Workload::Creation { .. } | Workload::Long { .. } => None,
            Workload::Short(_) => self.steps.last(),
        };
        last.map_or(0, |step| step.from)..=self.recording.ops()
    }

    pub fn all_points(&self) -> RangeInclusive<usize> {
        0..=self.recording.ops()
    }

    /// A number that is the same for two recordings that did the same to the disk: the same operations
    /// in the same order on the same places, with the same lengths. Keys and nonces are drawn anew
    /// each time; no operation depends on what they are.
    pub fn shape(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.disk.describe(0..self.recording.ops()).hash(&mut hasher);
        for step in &self.steps {
            (step.from, step.to).hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// Unsynced operations of which every subset is tried.
const ALL_SUBSETS_MAX: usize = 3;

/// What is tried at each crash point.
fn losses(pending: usize, at: usize, drawn: u64) -> Vec<Loss> {
    // Torn writes are among the drawn ones only.
    let torn = (0..drawn).map(|draw| Loss::Subset { seed: at as u64 * 64 + draw });
    if pending <= ALL_SUBSETS_MAX {
        (0..1 << pending).map(|lost| Loss::Without { lost }).chain(torn).collect()
    } else {
        [Loss::Nothing, Loss::Unsynced].into_iter().chain(torn).collect()
    }
}

/// One image of one workload: enough to have it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub workload: Workload,
    pub at: usize,
    pub loss: Loss,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}:", self.workload, self.at)?;
        match self.loss {
            Loss::Nothing => out.write_str("nothing"),
            Loss::Unsynced => out.write_str("unsynced"),
            Loss::Subset { seed } => write!(out, "subset={seed}"),
            Loss::Without { lost } => write!(out, "without={lost}"),
        }
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("{text}: wanted workload:point:loss");
        let mut parts = text.split(':');
        let mut part = || parts.next().ok_or_else(wanted);
        let (workload, at, loss) = (part()?.parse()?, part()?.parse().map_err(|_| wanted())?, part()?);
        let number = |text: &str| text.parse().map_err(|_| wanted());
        let loss = match loss.split_once('=') {
            None if loss == "nothing" => Loss::Nothing,
            None if loss == "unsynced" => Loss::Unsynced,
            Some(("subset", seed)) => Loss::Subset { seed: number(seed)? },
            Some(("without", lost)) => Loss::Without { lost: number(lost)? },
            None | Some(_) => return Err(wanted()),
        };
        Ok(Self { workload, at, loss })
    }
}

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Broken {
    pub place: Place,
    pub why: String,
    /// The calls, and the operations around the crash point.
    pub story: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.why)?;
        for line in &self.story {
            writeln!(out, "    {line}")?;
        }
        write!(out, "POWER_CUT={}", self.place)
    }
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub workloads: usize,
    pub points: usize,
    /// Images that were made.
    pub drawn: usize,
    /// Those that were opened and checked. One is left out if another of the same workload had the
    /// same bytes while the same was promised.
    pub checked: usize,
}

impl Counts {
    pub fn add(&mut self, other: Self) {
        self.workloads += other.workloads;
        self.points += other.points;
        self.drawn += other.drawn;
        self.checked += other.checked;
    }
}

/// Looks at crash points of a recorded workload; `drawn` says how many random losses are tried at each.
pub fn examine(
    recorded: &mut Recorded,
    points: RangeInclusive<usize>,
    drawn: u64,
    counts: &mut Counts,
) -> Result<(), Box<Broken>> {
    counts.workloads += 1;
    let mut seen = HashSet::new();
    for at in points {
        counts.points += 1;
        let (step, promise) = recorded.promise(at);
        for loss in losses(recorded.recording.pending(at).len(), at, drawn) {
            let image = recorded.recording.image(at, &loss);
            counts.drawn += 1;
            if seen.insert((image.hash(), step)) {
                counts.checked += 1;
                // Opening once more after a stop in good order: of one image in four.
                if let Err(why) = check(&image, &promise, counts.checked.is_multiple_of(4)) {
                    let place = Place { workload: recorded.workload.clone(), at, loss };
                    return Err(Box::new(Broken { story: story(recorded, &place), place, why }));
                }
            }
        }
    }
    Ok(())
}

/// Looks at one image again.
pub fn replay(place: &Place) -> (Vec<String>, Result<(), String>) {
    let mut recorded = record(&place.workload, |_| ());
    let image = recorded.recording.image(place.at, &place.loss);
    (story(&mut recorded, place), check(&image, &recorded.promise(place.at).1, true))
}

/// The calls and the operations around a crash point, in words.
fn story(recorded: &mut Recorded, place: &Place) -> Vec<String> {
    let pending = recorded.recording.pending(place.at);
    let mut lines = Vec::new();
    for (index, op) in recorded.disk.describe(0..recorded.recording.ops()).into_iter().enumerate() {
        for step in recorded.steps.iter().filter(|step| step.from == index && step.to > index) {
            lines.push((index, format!("-- {:?}", step.call)));
        }
        let note = if pending.contains(&index) { "  (unsynced)" } else { "" };
        lines.push((index, format!("{op}{note}")));
        if index + 1 == place.at {
            lines.push((index, format!("== the power goes: {:?}", place.loss)));
        }
        for step in recorded.steps.iter().filter(|step| step.to == index + 1) {
            lines.push((index, format!("-- {:?} is answered", step.call)));
        }
    }
    let near = place.at.saturating_sub(40)..place.at + 12;
    lines.into_iter().filter(|(index, _)| near.contains(index)).map(|(_, line)| line).collect()
}

/// Threads that look at images: each waits for those of its store half of the time.
pub fn workers() -> usize {
    2 * thread::available_parallelism().map_or(1, usize::from)
}

/// Looks at the new crash points of every workload, on all cores, until something is broken.
pub fn examine_all(workloads: &[Workload], drawn: u64) -> Result<Counts, Box<Broken>> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let total = Mutex::new((Counts::default(), None));
    thread::scope(|scope| {
        for _ in 0..workers() {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed)
                    && let Some(workload) = workloads.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let mut recorded = record(workload, |_| ());
                    let (points, mut counts) = (recorded.new_points(), Counts::default());
                    let outcome = examine(&mut recorded, points, drawn, &mut counts);
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    match outcome {
                        Ok(()) => total.0.add(counts),
                        Err(broken) => {
                            total.1.get_or_insert(broken);
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let (counts, broken) = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    broken.map_or(Ok(counts), Err)
}
