//! Calls that fail on command, and a disk that gets full.

use std::{
    io::{self, ErrorKind},
    path::Path,
};

use node_store::disk::Disk;
use sim_disk::{Call, Fault, Lasts, Loss, SimDisk};

fn at(path: &str) -> &Path {
    Path::new(path)
}

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.put(at("/file"), b"bytes").unwrap();
    disk
}

/// For each of five reads, whether it failed.
fn five_reads(disk: &SimDisk, path: &str) -> [bool; 5] {
    [(); 5].map(|()| disk.read(at(path), 10).is_err())
}

#[test]
fn the_nth_call_fails_once() {
    let disk = disk();
    disk.read(at("/file"), 10).unwrap();
    disk.fail(3, Call::Read, Fault::IoErr, Lasts::Once);
    assert_eq!(five_reads(&disk, "/file"), [false, false, true, false, false], "counted from then");
    assert_eq!((disk.calls(Call::Read), disk.calls(Call::Any), disk.failed_calls()), (6, 6, 1));
}

#[test]
fn the_nth_call_and_all_after_it_fail_until_healed() {
    let disk = disk();
    disk.fail(3, Call::Read, Fault::IoErr, Lasts::Persistent);
    assert_eq!(five_reads(&disk, "/file"), [false, false, true, true, true]);
    disk.heal();
    assert_eq!(five_reads(&disk, "/file"), [false; 5]);
    assert_eq!(disk.failed_calls(), 3);
}

#[test]
fn only_calls_on_the_path_are_counted() {
    let disk = disk();
    disk.put(at("/folder/other"), b"x").unwrap();
    disk.fail_at("/other", 2, Call::Read, Fault::IoErr, Lasts::Once);
    assert_eq!(five_reads(&disk, "/file"), [false; 5]);
    assert_eq!(five_reads(&disk, "/folder/other"), [false, true, false, false, false]);
}

#[test]
fn each_kind_of_call_fails_alone_and_changes_nothing() {
    type Act = fn(&SimDisk) -> io::Result<()>;
    let acts: [(Call, ErrorKind, Act); 13] = [
        (Call::Open, ErrorKind::StorageFull, |disk| disk.create_file(at("/new"), b"")),
        (Call::Open, ErrorKind::StorageFull, |disk| disk.create_dir(at("/new"))),
        (Call::Open, ErrorKind::StorageFull, |disk| disk.lock(at("/new"), "me").map(|_| ())),
        (Call::Read, ErrorKind::Other, |disk| disk.read(at("/file"), 10).map(|_| ())),
        (Call::Read, ErrorKind::Other, |disk| disk.entry(at("/file")).map(|_| ())),
        (Call::Read, ErrorKind::Other, |disk| disk.list(at("/")).map(|_| ())),
        (Call::Read, ErrorKind::Other, |disk| disk.free_bytes(at("/")).map(|_| ())),
        (Call::Write, ErrorKind::StorageFull, |disk| disk.rename(at("/file"), at("/new"))),
        (Call::Write, ErrorKind::StorageFull, |disk| disk.rename_new(at("/file"), at("/new"))),
        (Call::Sync, ErrorKind::Other, |disk| disk.sync_file(at("/file"))),
        (Call::Sync, ErrorKind::Other, |disk| disk.sync_dir(at("/"))),
        (Call::Truncate, ErrorKind::StorageFull, |disk| disk.reserve(at("/file"), 9000)),
        (Call::Delete, ErrorKind::Other, |disk| disk.remove(at("/file"))),
    ];
    let kinds = [Call::Open, Call::Read, Call::Write, Call::Sync, Call::Truncate, Call::Delete];
    for (number, (call, when_full, act)) in acts.into_iter().enumerate() {
        let disk = disk();
        let before = disk.image(disk.ops(), &Loss::Nothing).hash();
        for (plan, fault) in [(call, Fault::IoErr), (Call::Any, Fault::IoErr), (call, Fault::NoSpace)] {
            disk.fail(1, plan, fault, Lasts::Once);
            let error = act(&disk).unwrap_err();
            let io_error = error.raw_os_error() == Some(5);
            assert!(io_error || (fault == Fault::NoSpace && error.kind() == when_full), "{number}: {error}");
            assert_eq!(io_error, fault == Fault::IoErr || when_full == ErrorKind::Other, "{number}");
            assert_eq!(disk.image(disk.ops(), &Loss::Nothing).hash(), before, "{number}");
        }
        assert_eq!((disk.calls(call), disk.calls(Call::Any), disk.failed_calls()), (3, 3, 3), "{number}");
        let other = kinds.into_iter().find(|other| *other != call && *other != Call::Write).unwrap();
        disk.fail(1, other, Fault::IoErr, Lasts::Persistent);
        act(&disk).unwrap();
    }
}

#[test]
fn a_write_that_fails_leaves_the_new_file_empty() {
    let disk = disk();
    disk.fail(1, Call::Write, Fault::IoErr, Lasts::Once);
    disk.create_file(at("/new"), b"bytes").unwrap_err();
    assert_eq!(disk.contents(at("/new")).unwrap(), b"");
}

#[test]
fn a_full_disk_takes_what_fits_and_says_so() {
    let disk = SimDisk::new();
    disk.set_capacity(3 * 4096 + 4095);
    assert_eq!(disk.free_bytes(at("/")).unwrap(), 3 * 4096);
    disk.create_file(at("/one"), &[1; 4097]).unwrap();
    assert_eq!((disk.used_bytes(), disk.free_bytes(at("/")).unwrap()), (2 * 4096, 4096));

    let error = disk.create_file(at("/two"), &[2; 5000]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(disk.contents(at("/two")).unwrap(), [2; 4096]);
    assert_eq!(disk.reserve(at("/three"), 1).unwrap_err().kind(), ErrorKind::StorageFull);
    disk.create_file(at("/empty"), b"").unwrap();
    disk.rename(at("/empty"), at("/moved")).unwrap();

    disk.remove(at("/one")).unwrap();
    assert_eq!(disk.free_bytes(at("/")).unwrap(), 2 * 4096);
    disk.reserve(at("/three"), 8192).unwrap();
    assert_eq!(disk.free_bytes(at("/")).unwrap(), 0);
    // A reserve is let go to make room.
    disk.reserve(at("/three"), 0).unwrap();
    disk.create_file(at("/four"), &[4; 8192]).unwrap();
}

#[test]
fn a_removed_file_gives_its_room_back_when_it_is_closed() {
    let disk = SimDisk::new();
    let lock = disk.lock(at("/lock"), "me").unwrap();
    disk.remove(at("/lock")).unwrap();
    assert_eq!(disk.used_bytes(), 4096);
    drop(lock);
    assert_eq!(disk.used_bytes(), 0);
}

#[test]
fn files_of_others_are_not_ours_to_open() {
    let disk = disk();
    disk.chmod(at("/file"), 0o400, disk.uid()).unwrap();
    assert_eq!(disk.read(at("/file"), 10).unwrap().unwrap(), b"bytes");
    assert_eq!(disk.sync_file(at("/file")).unwrap_err().kind(), ErrorKind::PermissionDenied);
    disk.chmod(at("/file"), 0o600, disk.uid() + 1).unwrap();
    assert_eq!(disk.read(at("/file"), 10).unwrap_err().kind(), ErrorKind::PermissionDenied);
    disk.chmod(at("/"), 0o500, disk.uid()).unwrap();
    assert_eq!(disk.create_file(at("/new"), b"").unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(disk.remove(at("/file")).unwrap_err().kind(), ErrorKind::PermissionDenied);
}
