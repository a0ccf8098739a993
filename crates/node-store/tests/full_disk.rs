//! A real disk of 1 MiB that is really full: what ends jobs works, what takes jobs says so, nothing is lost.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod common;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use common::*;
use node_store::{
    jobs::{Accepted, Jobs, Lease, Moved},
    volume::Volume,
};

/// A tmpfs that is unmounted when this is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Self {
        std::fs::create_dir(at).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(at).status();
        assert!(mount.unwrap().success(), "cannot mount a tmpfs");
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A test that failed may still have files open: the mount goes when they are closed.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
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
    if !rustix::process::geteuid().is_root() {
        // Mounting needs root: in a user namespace this test is.
        let name = "on_a_full_disk_jobs_end_and_nothing_accepted_is_lost";
        let exe = std::env::current_exe().unwrap();
        let inner = Command::new("unshare").arg("-rm").arg(exe).args(["--exact", name]).status();
        assert!(inner.unwrap().success());
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&home.path().join("disk"));
    let folder = disk.0.join("volume");
    let stamp = stamp(node_types::Network::Testnet);
    let volume = Volume::create(&real_disk(), &folder, stamp, 256 << 10, NOW).unwrap();
    let held = jobs(&volume);

    let full_at = accept_until_full(&held, 0);
    assert!(full_at > 10, "{full_at}");
    // Said before the disk is full: as much is free as is kept back for jobs, but for the last group's job.
    let kept_back = (256 << 10) / 2;
    let free = real_disk().free_bytes(&disk.0).unwrap();
    assert!(free > kept_back / 2 && free < kept_back, "{free}");
    // Whatever else is on the disk grows into the last byte.
    let _ = Command::new("dd")
        .args(["if=/dev/zero", "bs=4096", "status=none"])
        .arg(format!("of={}", disk.0.join("other").display()))
        .stderr(Stdio::null())
        .status();
    let offered = |number| held.accept(&job_saying(number, &"x".repeat(4000)), NOW).wait().unwrap();
    assert_eq!(real_disk().free_bytes(&disk.0).unwrap(), 0);
    assert_eq!(offered(full_at), Accepted::Full);
    assert_eq!(offered(0), Accepted::Duplicate, "what is held is not refused");
    assert_eq!(held.accept(&job(0), NOW).wait().unwrap(), Accepted::Conflict);
    for number in 0..5 {
        let Lease::Job(leased) = held.lease(None, None, NOW).wait().unwrap() else { unreachable!() };
        assert_eq!(leased.job.id, id(number));
        assert_eq!(held.cancel(id(number), NOW).wait().unwrap(), Moved::Done);
        assert_eq!(held.acknowledge(id(number), NOW).wait().unwrap(), Moved::Done);
    }
    assert_eq!(held.view().tally().unwrap().jobs, full_at - 5);
    drop((held, volume));

    let volume = Volume::open(&real_disk(), &folder, stamp, 256 << 10, NOW).unwrap();
    let jobs = jobs(&volume);
    assert_eq!(jobs.view().tally().unwrap().jobs, full_at - 5);
    assert!(volume.stopped(node_store::format::Database::Jobs).is_none());
    for number in 0..5 {
        let again = jobs.accept(&job_saying(number, &"x".repeat(4000)), NOW).wait().unwrap();
        assert_eq!(again, Accepted::Duplicate);
    }
    // Room again: jobs are taken again.
    Command::new("rm").arg(disk.0.join("other")).status().unwrap();
    while !jobs.expire(cutoff(job(0).expires_at)).wait().unwrap().is_empty() {}
    assert_eq!(jobs.view().tally().unwrap().jobs, 0);
    let mut next = job(full_at);
    assert_eq!(jobs.accept(&next, NOW).wait().unwrap(), Accepted::Expired, "no job is revived");
    next.expires_at = next.expires_at.plus_ms(1);
    assert_eq!(jobs.accept(&next, NOW).wait().unwrap(), Accepted::New);
}
