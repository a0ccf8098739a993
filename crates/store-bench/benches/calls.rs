//! Single calls of the store, one caller, the disk included: `make bench`.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made must stop")]

use std::cell::{Cell, RefCell};

use divan::Bencher;
use node_store::{jobs::Lease, store::Store};
use node_types::{
    JobId,
    job::{Output, Request},
    log::{Kind, Level, Record},
};
use store_bench::home::{self, Folder, NOW};

fn main() {
    divan::main();
}

struct Bench {
    // Closed before its folder goes.
    store: Store,
    next: Cell<u64>,
    _folder: Folder,
}

impl Bench {
    fn new(name: &str) -> Self {
        let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().join("bench/data");
        let folder = Folder::make(&target, name);
        Self { store: home::create(&folder.0), next: Cell::new(0), _folder: folder }
    }

    fn number(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }

    fn accepted(&self) {
        home::fill(&self.store, self.number(), 1);
    }

    fn leased(&self) -> JobId {
        self.accepted();
        let Lease::Job(leased) = self.store.jobs().lease(None, None, &[].into(), NOW).wait().unwrap() else {
            unreachable!("one was accepted just now")
        };
        leased.job.id
    }

    fn finished(&self) -> JobId {
        let id = self.leased();
        let _ = self.store.jobs().finish(id, output(), NOW).wait().unwrap();
        id
    }
}

fn output() -> Output {
    Output { body: home::body(), prompt_tokens: 10, completion_tokens: 10 }
}

#[divan::bench]
fn parse_request(bencher: Bencher<'_, '_>) {
    let body = home::body();
    bencher.bench_local(|| Request::parse(body.as_bytes()));
}

#[divan::bench]
fn accept(bencher: Bencher<'_, '_>) {
    let bench = Bench::new("accept-call");
    let job = RefCell::new(home::job());
    bencher.bench_local(|| {
        let mut job = job.borrow_mut();
        job.id = home::id(bench.number());
        bench.store.jobs().accept(&job, NOW).wait()
    });
}

#[divan::bench]
fn lease(bencher: Bencher<'_, '_>) {
    let bench = Bench::new("lease-call");
    bencher
        .with_inputs(|| bench.accepted())
        .bench_local_values(|()| bench.store.jobs().lease(None, None, &[].into(), NOW).wait());
}

#[divan::bench]
fn finish(bencher: Bencher<'_, '_>) {
    let bench = Bench::new("finish-call");
    bencher
        .with_inputs(|| (bench.leased(), output()))
        .bench_local_values(|(id, output)| bench.store.jobs().finish(id, output, NOW).wait());
}

#[divan::bench]
fn acknowledge(bencher: Bencher<'_, '_>) {
    let bench = Bench::new("acknowledge-call");
    bencher
        .with_inputs(|| bench.finished())
        .bench_local_values(|id| bench.store.jobs().acknowledge(id, NOW).wait());
}

#[divan::bench]
fn log_append(bencher: Bencher<'_, '_>) {
    let bench = Bench::new("append-call");
    let record = Record::new(NOW, Level::Info, Kind::Agent, "a line of the log");
    bencher.with_inputs(|| record.clone()).bench_local_values(|record| bench.store.logs().append(record));
}
