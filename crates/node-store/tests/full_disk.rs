//! A small real disk that is really full: what ends jobs works, what takes jobs says so, nothing is lost.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod common;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use common::*;
use node_store::{
    backup,
    jobs::{Accepted, Jobs, Lease, Moved},
    keys::{KekSources, NodeKey, Source},
    logs::Query,
    store::{Options, Store},
    volume::Volume,
    writer::{Ticket, WriteError},
};
use node_types::{
    Network,
    log::{Kind, Level, Record},
    trace::Standing,
};

/// A tmpfs that is unmounted when this is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, size: &str) -> Self {
        std::fs::create_dir(at).unwrap();
        let size = format!("size={size}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).status();
        assert!(mount.unwrap().success(), "cannot mount a tmpfs");
        Self(at.to_owned())
    }

    /// Whatever else is on the disk grows into the last byte.
    fn fill(&self) {
        let _ = Command::new("dd")
            .args(["if=/dev/zero", "bs=4096", "status=none"])
            .arg(format!("of={}", self.0.join("other").display()))
            .stderr(Stdio::null())
            .status();
        assert_eq!(real_disk().free_bytes(&self.0).unwrap(), 0);
    }

    fn empty(&self) {
        assert!(Command::new("rm").arg(self.0.join("other")).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A test that failed may still have files open: the mount goes when they are closed.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Mounting needs root: where this test is not, it runs itself in a user namespace, and this is false.
fn may_mount(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    let exe = std::env::current_exe().unwrap();
    let inner = Command::new("unshare").arg("-rm").arg(exe).args(["--exact", test]).status();
    assert!(inner.unwrap().success());
    false
}

fn accept_until_full(jobs: &Jobs, from: u64) -> u64 {
    let prompt = "x".repeat(4000);
    for number in from..from + 10_000 {
        match jobs.accept(&job_saying(number, &prompt), NOW).wait() {
            Ok(Accepted::New) => {}
            Ok(Accepted::Full) => return number,
            other => unreachable!("{other:?}"),
        }
    }
    unreachable!("10,000 jobs of 4 KiB fit on a disk of 1 MiB")
}

#[test]
fn on_a_full_disk_jobs_end_and_nothing_accepted_is_lost() {
    if !may_mount("on_a_full_disk_jobs_end_and_nothing_accepted_is_lost") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&home.path().join("disk"), "1m");
    let folder = disk.0.join("volume");
    let stamp = stamp(Network::Testnet);
    let volume = Volume::create(&real_disk(), &folder, stamp, 256 << 10, NOW).unwrap();
    let held = jobs(&volume);

    let full_at = accept_until_full(&held, 0);
    assert!(full_at > 10, "{full_at}");
    // Said before the disk is full: as much is free as is kept back for jobs, but for the last group's job.
    let kept_back = (256 << 10) / 2;
    let free = real_disk().free_bytes(&disk.0).unwrap();
    assert!(free > kept_back / 2 && free < kept_back, "{free}");
    disk.fill();
    let offered = |number| held.accept(&job_saying(number, &"x".repeat(4000)), NOW).wait().unwrap();
    assert_eq!(offered(full_at), Accepted::Full);
    assert_eq!(offered(0), Accepted::Duplicate, "what is held is not refused");
    assert_eq!(held.accept(&job(0), NOW).wait().unwrap(), Accepted::Conflict);
    for number in 0..5 {
        let Lease::Job(leased) = held.lease(None, None, &[].into(), NOW).wait().unwrap() else {
            unreachable!()
        };
        assert_eq!(leased.job.id, id(number));
        assert_eq!(held.cancel(id(number), NOW).wait().unwrap(), Moved::Done);
        assert_eq!(held.acknowledge(id(number), NOW).wait().unwrap(), Moved::Done);
    }
    assert_eq!(held.view().tally().unwrap().jobs, full_at - 5);
    drop((held, volume));

    // What its end gave back is taken by others, also the room of a lock that an earlier release left without a byte.
    let lock = folder.join("LOCK");
    assert!(Command::new("truncate").args(["-s", "0"]).arg(lock).status().unwrap().success());
    disk.fill();
    let volume = Volume::open(&real_disk(), &folder, stamp, 256 << 10, NOW).unwrap();
    let jobs = jobs(&volume);
    assert_eq!(jobs.view().tally().unwrap().jobs, full_at - 5);
    assert!(volume.stopped(node_store::format::Database::Jobs).is_none());
    for number in 0..5 {
        let again = jobs.accept(&job_saying(number, &"x".repeat(4000)), NOW).wait().unwrap();
        assert_eq!(again, Accepted::Duplicate);
    }
    // Room again: jobs are taken again.
    disk.empty();
    while !jobs.expire(cutoff(job(0).expires_at)).wait().unwrap().is_empty() {}
    assert_eq!(jobs.view().tally().unwrap().jobs, 0);
    let mut next = job(full_at);
    assert_eq!(jobs.accept(&next, NOW).wait().unwrap(), Accepted::Expired, "no job is revived");
    next.expires_at = next.expires_at.plus_ms(1);
    assert_eq!(jobs.accept(&next, NOW).wait().unwrap(), Accepted::New);
}

fn lease(jobs: &Jobs) -> u64 {
    let Lease::Job(leased) = jobs.lease(None, None, &[].into(), NOW).wait().unwrap() else { unreachable!() };
    leased.job.id.as_bytes()[15].into()
}

/// Once, an answer was kept out of the reserve, and acknowledgements that came together needed room for all
/// that they delete: the reserve was gone, and no space ever came back.
#[test]
fn on_a_full_disk_large_answers_wait_and_all_acknowledgements_at_once_succeed() {
    if !may_mount("on_a_full_disk_large_answers_wait_and_all_acknowledgements_at_once_succeed") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&home.path().join("disk"), "64m");
    let reserve = 16 << 20;
    let answer = || output(&"y".repeat(2 << 20));
    // Three times what is kept back for jobs.
    let answered = 12;
    let volume =
        Volume::create(&real_disk(), &disk.0.join("volume"), stamp(Network::Testnet), reserve, NOW).unwrap();
    let jobs = jobs(&volume);
    for number in 0..2 * answered {
        assert_eq!(jobs.accept(&job(number), NOW).wait().unwrap(), Accepted::New);
        assert_eq!(lease(&jobs), number);
        if number < answered {
            assert_eq!(jobs.finish(id(number), answer(), NOW).wait().unwrap(), Moved::Done);
        }
    }
    disk.fill();
    // The log's own file has room for some.
    let refused = (answered..2 * answered).find(|number| {
        let answer = jobs.finish(id(*number), answer(), NOW).wait();
        assert!(matches!(answer, Ok(Moved::Done) | Err(WriteError::Full { .. })), "{answer:?}");
        answer.is_err()
    });
    let refused = refused.unwrap();
    assert_eq!(jobs.view().explain(id(refused)).unwrap().unwrap().now, Ok(Standing::Running));
    // In one commit: it gives up the reserve, whose place no answer may take.
    let (too_large, small) =
        (jobs.finish(id(refused), answer(), NOW), jobs.cancel(id(2 * answered - 1), NOW));
    assert!(matches!(too_large.wait(), Err(WriteError::Full { .. })));
    assert_eq!(small.wait().unwrap(), Moved::Done);
    assert!(real_disk().free_bytes(&disk.0).unwrap() > 0);
    for _ in 0..answered {
        let again = jobs.finish(id(refused), answer(), NOW).wait();
        assert!(matches!(again, Err(WriteError::Full { .. })), "{again:?}");
    }

    let all: Vec<_> = (0..refused).map(|number| jobs.acknowledge(id(number), NOW)).collect();
    let failed: Vec<_> = (0..).zip(all.into_iter().map(Ticket::wait)).filter(|(_, it)| it.is_err()).collect();
    assert!(failed.is_empty(), "of {refused}: {failed:?}");

    disk.empty();
    let kept = jobs.finish(id(refused), answer(), NOW).wait().unwrap();
    assert_eq!(kept, Moved::Done, "the caller kept the answer");
}

/// Once, all that was acknowledged or too old went in one commit, which needed as much room in the write-ahead log
/// and had nothing kept back: logs that filled a disk stayed there for ever.
#[test]
fn on_a_full_disk_logs_are_acknowledged_and_expire_and_give_their_space_back() {
    if !may_mount("on_a_full_disk_logs_are_acknowledged_and_expire_and_give_their_space_back") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&home.path().join("disk"), "64m");
    let reserve = 16 << 20;
    let folder = disk.0.join("volume");
    let volume = Volume::create(&real_disk(), &folder, stamp(Network::Testnet), reserve, NOW).unwrap();
    let logs = volume.logs(32 << 20);
    let append = || {
        for number in 0..4000 {
            logs.append(Record::new(NOW, Level::Info, Kind::Agent, format!("{number}{}", "x".repeat(4000))));
            if number % 500 == 0 {
                logs.flush().wait().unwrap();
            }
        }
        logs.flush().wait().unwrap();
    };
    let fill_disk = || {
        volume.erase();
        assert!(std::fs::metadata(folder.join("logs.db")).unwrap().len() > 12 << 20);
        disk.fill();
    };
    let freed = || {
        // The log is emptied within the delay.
        (0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            real_disk().free_bytes(&disk.0).unwrap() > 12 << 20
        })
    };
    append();
    fill_disk();
    while logs.expire(cutoff(NOW.plus_ms(1))).wait().unwrap() > 0 {}
    assert!(freed(), "expired records take their space still");
    assert!(logs.view().query(&Query::default()).unwrap().is_empty());

    disk.empty();
    volume.erase();
    append();
    let sealed = std::iter::from_fn(|| logs.seal().wait().unwrap()).last().unwrap();
    fill_disk();
    while logs.acknowledge(sealed.header.seq).wait().unwrap() > 0 {}
    assert!(freed(), "acknowledged records take their space still");
    assert!(logs.view().batches(1).unwrap().is_empty());
}

/// When a disk is full one wants a backup. Its parts once stood in the home, whatever disk it was written to.
#[test]
fn of_a_home_on_a_full_disk_a_backup_is_made_on_another() {
    if !may_mount("of_a_home_on_a_full_disk_a_backup_is_made_on_another") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&folder.path().join("disk"), "8m");
    let mut options = Options::new(&disk.0.join("home"), Network::Testnet);
    options.kek.secret_file = None;
    options.reserve_bytes = 256 << 10;
    let store = Store::create(&options, Some(NodeKey::generate().unwrap()), &at(NOW)).unwrap();
    store.jobs().set_rules(Some(rules()));
    for number in 0..20 {
        let accepted = store.jobs().accept(&job_saying(number, &"x".repeat(4000)), NOW);
        assert_eq!(accepted.wait().unwrap(), Accepted::New);
    }
    let elsewhere = folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let phrase = folder.path().join("phrase");
    node_store::disk::write_new(&*options.disk, &phrase, b"correct horse").unwrap();
    let mut sources = KekSources::new(&elsewhere);
    sources.passphrase_file = Some(phrase);
    let kek = sources.load(&*options.disk, Source::Passphrase).unwrap();
    let backed_up = |name: &str| {
        let archive = elsewhere.join(name);
        backup::create(&options, &archive, Some(&kek), "0.1.0", NOW).unwrap();
        let verified = backup::verify(&archive, Some(&sources), &elsewhere).unwrap();
        assert_eq!((verified.held.jobs, verified.keys_open), (20, Some(true)), "{name}");
    };
    disk.fill();
    backed_up("beside-the-agent");
    drop(store);
    disk.fill();
    backed_up("without-an-agent");
    let names = |path: &Path| real_disk().list(path).unwrap();
    assert_eq!(names(&elsewhere), ["beside-the-agent", "without-an-agent"], "nothing else is left");
    assert_eq!(names(&options.home), ["testnet"]);
    let within = disk.0.join("full");
    let refused = backup::create(&options, &within, None, "0.1.0", NOW).unwrap_err();
    assert!(matches!(refused, backup::BackupError::NoRoom { .. }), "{refused}");
}
