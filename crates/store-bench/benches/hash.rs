//! Reading and hashing model files against the disk, the processor and the usual tools, and judging sealed files
//! without reading them: `make bench`.
//!
//! `cargo bench -p store-bench --bench hash -- [--dir FOLDER] [--gib N]`. What is hashed is a file of N GiB (2 unless
//! said) that is not in memory; the tools run in turns with it (A B C A B C ...).
#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made must stop")]
#![expect(clippy::print_stdout, reason = "it says what it leaves out")]
#![expect(clippy::disallowed_methods, reason = "it measures time, and its baselines are plain files")]

use std::{
    fs::{self, File},
    io::{Read, Write},
    num::NonZeroU64,
    ops::ControlFlow,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Instant,
};

use node_store::{hash, models::Standing, store::Store};
use node_types::{
    Digest,
    config::{ModelFile, PIECE_BYTES},
};
use rustix::fs::{Advice, AtFlags, CWD, StatxFlags, StatxTimestamp, fadvise, statx};
use serde_json::json;
use store_bench::{
    home::{self, Folder, NOW},
    measure::{median, ratio},
    report::{Aim, Report, Row},
};

const TURNS: usize = 3;
const MIB: usize = 1 << 20;
const AHEAD_BYTES: u64 = 8 << 20;
const FILES: u64 = 200;
const FILES_BYTES: u64 = 500_000_000_000;
const JUDGEMENTS: usize = 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let value = |name: &str| {
        let place = arguments.iter().position(|argument| argument == name)?;
        arguments.get(place + 1).cloned()
    };
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    let folder = value("--dir").map_or_else(|| target.join("bench/data"), PathBuf::from);
    fs::create_dir_all(&folder).unwrap();
    let folder = Folder::make(&folder.canonicalize().unwrap(), "hash-bench");
    let mut report = Report::default();
    hashing(&folder.0, value("--gib").map_or(2, |gib| gib.parse().unwrap()), &mut report);
    judging(&folder.0, &mut report);
    report.write(&target.join("bench/hash.json"));
}

fn hashing(folder: &Path, gib: usize, report: &mut Report) {
    let path = folder.join("weights");
    fill(&path, gib * 1024);
    let bytes = fs::metadata(&path).unwrap().len();
    let block = vec![1; 64 * MIB];
    let tools: Vec<(&str, &[&str])> =
        [("sha256sum", [].as_slice()), ("openssl", &["dgst", "-sha256"]), ("b3sum", &[])]
            .into_iter()
            .filter(|(tool, _)| {
                let mut asked = Command::new(tool);
                asked.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
                let there = asked.status().is_ok();
                if !there {
                    report.note(format!("{tool} is not on PATH: left out"));
                }
                there
            })
            .collect();
    let (mut ours, mut read, mut sha256, mut both) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let hash_in_memory = || {
        for _ in 0..bytes / block.len() as u64 {
            std::hint::black_box(Digest::of(std::hint::black_box(&block)));
        }
    };
    let mut theirs = vec![Vec::new(); tools.len()];
    // The first turn warms up, but for the file.
    for turn in 0..=TURNS {
        let note = |into: &mut Vec<f64>, took: f64| {
            if turn > 0 {
                into.push(bytes as f64 / took / 1e6);
            }
        };
        note(&mut read, cold(&path, read_all));
        note(
            &mut ours,
            cold(&path, |file| {
                let found = hash::file(file, &mut |_| ControlFlow::Continue(())).unwrap().unwrap();
                assert_eq!(found.bytes, bytes);
            }),
        );
        note(&mut sha256, timed(hash_in_memory));
        note(
            &mut both,
            cold(&path, |file| {
                thread::scope(|scope| {
                    scope.spawn(|| read_all(file));
                    hash_in_memory();
                });
            }),
        );
        for ((tool, arguments), rates) in tools.iter().zip(&mut theirs) {
            note(
                rates,
                cold(&path, |_| {
                    let done = Command::new(tool).args(*arguments).arg(&path).stdout(Stdio::null()).status();
                    assert!(done.unwrap().success(), "{tool}");
                }),
            );
        }
    }
    fs::remove_file(&path).unwrap();
    Report::head(&format!("hashing {gib} GiB that are not in memory"));
    let bound: Vec<f64> = read.iter().zip(&sha256).map(|(read, sha256)| read.min(*sha256)).collect();
    let slower = if median(read.clone()) < median(sha256.clone()) { "the disk" } else { "SHA-256, one core" };
    report.row(
        Row::new("SHA-256 and BLAKE3 of each piece", median(ours.clone()), "MB/s")
            .times(ratio(&ours, &bound), &format!("the slower of both below: {slower}"))
            .aim(Aim::RatioAtLeast(0.9)),
    );
    report.row(
        Row::new("the same file read while SHA-256 runs in memory", median(both.clone()), "MB/s")
            .times(ratio(&both, &ours), "ours"),
    );
    report.row(Row::new("the disk: reading alone", median(read), "MB/s"));
    report.row(Row::new("the processor: SHA-256 in memory, one core", median(sha256), "MB/s"));
    for ((tool, _), rates) in tools.iter().zip(theirs) {
        report.row(Row::new(*tool, median(rates.clone()), "MB/s").times(ratio(&rates, &ours), "ours"));
    }
}

/// Bytes that no file system stores as nothing.
fn fill(path: &Path, mib: usize) {
    let mut file = File::create(path).unwrap();
    let (mut state, mut block) = (1_u64, vec![0_u8; MIB]);
    for _ in 0..mib {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block).unwrap();
    }
    file.sync_all().unwrap();
}

/// As fast as the disk gives it: asked for as far ahead as hashing asks. Without that it is a quarter of it on some disks.
fn read_all(mut file: &File) {
    let mut block = vec![0; MIB];
    fadvise(file, 0, None, Advice::Sequential).unwrap();
    for at in (0_u64..).step_by(MIB) {
        if at.is_multiple_of(AHEAD_BYTES) {
            fadvise(file, at + AHEAD_BYTES, NonZeroU64::new(AHEAD_BYTES), Advice::WillNeed).unwrap();
        }
        // A short read asks a little early.
        if file.read(&mut block).unwrap() == 0 {
            return;
        }
    }
}

/// Seconds that something takes with a file of which nothing is in memory.
fn cold(path: &Path, work: impl FnOnce(&File)) -> f64 {
    let file = File::open(path).unwrap();
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    timed(|| work(&file))
}

fn timed(work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64()
}

fn judging(folder: &Path, report: &mut Report) {
    let home = Folder::make(folder, "judging");
    let store = home::create(&home.0);
    let at = seal_by_hand(&store);
    drop(store);
    // Only root may; without, the inodes are in memory.
    let dropped = fs::write("/proc/sys/vm/drop_caches", "2").is_ok();
    let store = home::open(&home.0);
    let view = store.models().view();
    let judge = || {
        timed(|| {
            let stands = view.stand_all().unwrap();
            assert_eq!(stands.len() as u64, FILES, "{}", at.display());
            assert!(stands.iter().all(|(_, stands)| *stands == Standing::Sealed), "{stands:?}");
        }) * 1e3
    };
    let first = judge();
    let again = median((0..JUDGEMENTS).map(|_| judge()).collect());
    Report::head("judging 200 sealed files of together 500 GB");
    let what = if dropped { "the first time, inodes not in memory" } else { "the first time" };
    report.row(Row::new(what, first, "ms").aim(Aim::AtMost(10.0)));
    report.row(Row::new("again, as every second", again, "ms").aim(Aim::AtMost(10.0)));
}

/// Sparse files with the rows that hashing them would give: reading 500 GB is what a seal saves.
fn seal_by_hand(store: &Store) -> PathBuf {
    let models = store.models();
    let sha256 = Digest::of(b"weights");
    let wanted = ModelFile { path: "weights".into(), bytes: 7, sha256, pieces_blake3: Vec::new() };
    let partial = models.begin(&wanted, NOW).unwrap();
    partial.write(0, 0, b"weights").unwrap();
    partial.note(0, 7, NOW).unwrap();
    partial.finish(NOW, &mut |_| ControlFlow::Continue(())).unwrap();
    let raw = rusqlite::Connection::open(store.volume().folder().join("state.db")).unwrap();
    let mark: String = raw.query_row("SELECT mark FROM files", (), |row| row.get(0)).unwrap();
    let mut mark: serde_json::Value = serde_json::from_str(&mark).unwrap();
    models.remove(sha256, None).unwrap();
    let bytes = FILES_BYTES / FILES;
    let tx = raw.unchecked_transaction().unwrap();
    for number in 0..FILES {
        let sha256 = Digest::of(&number.to_le_bytes());
        let path = models.path(sha256);
        File::create(&path).unwrap().set_len(bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let seen = statx(CWD, &path, AtFlags::empty(), wanted).unwrap();
        let time = |time: StatxTimestamp| json!([time.tv_sec, time.tv_nsec]);
        let seal = mark["sealed"].as_object_mut().unwrap();
        let mut set = |name: &str, value| assert!(seal.insert(name.to_owned(), value).is_some(), "{name}");
        set("inode", seen.stx_ino.into());
        set("bytes", bytes.into());
        set("modified", time(seen.stx_mtime));
        set("changed", time(seen.stx_ctime));
        set("born", time(seen.stx_btime));
        let pieces = vec![0_u8; usize::try_from(32 * bytes.div_ceil(PIECE_BYTES)).unwrap()];
        tx.execute(
            "INSERT INTO files (sha256, bytes, pieces, installed_at, verified_at, mark) VALUES (?1, ?2, ?3, 1, 1, ?4)",
            (sha256.as_bytes(), bytes, pieces, mark.to_string()),
        )
        .unwrap();
    }
    tx.commit().unwrap();
    println!("\n{FILES} sparse files in {}", models.folder().display());
    models.folder().to_owned()
}
