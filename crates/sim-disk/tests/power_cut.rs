//! What a power cut leaves, worked out by hand for small scripts; and what holds for any steps.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use node_store::disk::{Disk, EntryKind, Locked, replace, write_new};
use proptest::{collection::vec, prelude::*, sample::select, test_runner::RngSeed};
use sim_disk::{Call, Caller, Fault, Image, Lasts, Loss, SimDisk, SyncKind};

const SEEDS: u64 = 400;

fn at(path: &str) -> &Path {
    Path::new(path)
}

/// What a cut now leaves of the unsynced: nothing.
fn synced(disk: &SimDisk) -> Image {
    disk.image(disk.ops(), &Loss::Unsynced)
}

/// What cuts now can leave.
fn images(disk: &SimDisk) -> impl Iterator<Item = Image> {
    let (mut recording, end) = (disk.recording(), disk.ops());
    (0..SEEDS).map(move |seed| recording.image(end, &Loss::Subset { seed }))
}

/// Every set of losses tried, what stands at each of the paths.
fn every_subset(disk: &SimDisk, paths: &[&str]) -> BTreeSet<Vec<Option<String>>> {
    let (mut recording, end) = (disk.recording(), disk.ops());
    let pending = recording.pending(end).len();
    assert!(pending < 10, "{pending} operations are pending: too many to try");
    let read = |image: &Image, path: &&str| Some(String::from_utf8(image.read(at(path))?).unwrap());
    (0..1 << pending)
        .map(|lost| recording.image(end, &Loss::Without { lost }))
        .map(|image| paths.iter().map(|path| read(&image, path)).collect())
        .collect()
}

fn row<const N: usize>(texts: [Option<&str>; N]) -> Vec<Option<String>> {
    texts.map(|text| text.map(str::to_owned)).to_vec()
}

#[test]
fn what_was_not_synced_may_be_lost_and_what_was_is_there() {
    let disk = SimDisk::new();
    disk.create_file(at("/kept"), b"kept").unwrap();
    disk.create_file(at("/lost"), b"lost").unwrap();
    disk.sync_file(at("/kept")).unwrap();
    disk.sync_dir(at("/")).unwrap();

    assert_eq!(synced(&disk).read(at("/kept")).unwrap(), b"kept");
    assert_eq!(synced(&disk).read(at("/lost")).unwrap(), b"", "the name is durable, the bytes are not");
    assert_eq!(disk.image(disk.ops(), &Loss::Nothing).read(at("/lost")).unwrap(), b"lost");
    let seen: BTreeSet<_> = images(&disk).map(|image| image.read(at("/lost")).unwrap()).collect();
    assert!(seen.contains(&b"lost"[..]) && seen.contains(&b""[..]), "{seen:?}");
    assert!(images(&disk).all(|image| image.read(at("/kept")).unwrap() == b"kept"));
}

#[test]
fn a_cut_takes_nothing_back_in_time() {
    let disk = SimDisk::new();
    disk.create_file(at("/file"), b"bytes").unwrap();
    let written = disk.ops();
    disk.sync_file(at("/file")).unwrap();
    disk.sync_dir(at("/")).unwrap();

    assert_eq!(disk.crash_points(), 0..=4);
    assert!(synced(&disk).read(at("/file")).is_some());
    assert!(disk.image(written, &Loss::Unsynced).read(at("/file")).is_none(), "before the syncs");
    assert_eq!(disk.image(0, &Loss::Nothing).paths(), [at("/")]);
    assert_eq!(
        disk.describe(0..9),
        ["0: create /file", "1: write /file 0+5", "2: sync file /file", "3: sync folder /"]
    );
}

#[test]
fn a_file_whose_folder_was_not_synced_may_vanish() {
    let disk = SimDisk::new();
    disk.create_file(at("/file"), b"bytes").unwrap();
    disk.sync_file(at("/file")).unwrap();

    assert_eq!(every_subset(&disk, &["/file"]), BTreeSet::from([row([None]), row([Some("bytes")])]));
    disk.sync_dir(at("/")).unwrap();
    assert_eq!(every_subset(&disk, &["/file"]), BTreeSet::from([row([Some("bytes")])]));
}

#[test]
fn a_sync_of_one_folder_says_nothing_about_another() {
    let disk = SimDisk::new();
    disk.create_dir(at("/a")).unwrap();
    disk.create_file(at("/a/file"), b"").unwrap();
    disk.sync_dir(at("/a")).unwrap();
    assert_eq!(synced(&disk).paths(), [at("/")], "the folder itself has no durable name");

    disk.sync_dir(at("/")).unwrap();
    assert_eq!(synced(&disk).paths(), [at("/"), at("/a"), at("/a/file")]);
    disk.create_file(at("/a/new"), b"").unwrap();
    disk.sync_dir(at("/")).unwrap();
    assert_eq!(synced(&disk).paths(), [at("/"), at("/a"), at("/a/file")]);
}

#[test]
fn a_rename_is_durable_after_the_sync_of_its_folder_and_whole_before() {
    let disk = SimDisk::new();
    disk.put(at("/old"), b"old").unwrap();
    disk.put(at("/new"), b"new").unwrap();
    disk.rename(at("/new"), at("/old")).unwrap();

    let (before, after) = (row([Some("old"), Some("new")]), row([Some("new"), None]));
    assert_eq!(every_subset(&disk, &["/old", "/new"]), BTreeSet::from([before, after.clone()]));
    disk.sync_dir(at("/")).unwrap();
    assert_eq!(every_subset(&disk, &["/old", "/new"]), BTreeSet::from([after]));
}

#[test]
fn a_rename_between_folders_waits_for_both() {
    for first in ["/a", "/b"] {
        let disk = SimDisk::new();
        disk.put(at("/a/file"), b"x").unwrap();
        disk.put(at("/b/other"), b"y").unwrap();
        disk.rename(at("/a/file"), at("/b/file")).unwrap();
        disk.sync_dir(at(first)).unwrap();

        let (before, after) = (row([Some("x"), None]), row([None, Some("x")]));
        let found = every_subset(&disk, &["/a/file", "/b/file"]);
        assert_eq!(found, BTreeSet::from([before, after.clone()]), "{first} was synced");
        disk.sync_dir(at("/a")).unwrap();
        disk.sync_dir(at("/b")).unwrap();
        assert_eq!(every_subset(&disk, &["/a/file", "/b/file"]), BTreeSet::from([after]));
    }
}

/// Once the removal was applied when its folder was synced, before the rename that it came after:
/// the sync of the other folder then brought the file back, with everything synced.
#[test]
fn a_durable_removal_is_not_undone_by_the_rename_before_it() {
    let disk = SimDisk::new();
    disk.put(at("/a/file"), b"x").unwrap();
    disk.put(at("/b/other"), b"y").unwrap();
    disk.rename(at("/a/file"), at("/b/file")).unwrap();
    disk.remove(at("/b/file")).unwrap();
    disk.sync_dir(at("/b")).unwrap();
    assert_eq!(
        every_subset(&disk, &["/a/file", "/b/file"]),
        BTreeSet::from([row([Some("x"), None]), row([None, None])])
    );

    disk.sync_dir(at("/a")).unwrap();
    assert_eq!(every_subset(&disk, &["/a/file", "/b/file"]), BTreeSet::from([row([None, None])]));
}

#[test]
fn a_removed_file_may_come_back_until_the_folder_is_synced() {
    let disk = SimDisk::new();
    disk.put(at("/file"), b"x").unwrap();
    disk.remove(at("/file")).unwrap();
    assert_eq!(every_subset(&disk, &["/file"]), BTreeSet::from([row([Some("x")]), row([None])]));
    disk.sync_dir(at("/")).unwrap();
    assert_eq!(every_subset(&disk, &["/file"]), BTreeSet::from([row([None])]));
}

#[test]
fn every_subset_of_few_losses_is_tried() {
    let disk = SimDisk::new();
    disk.create_file(at("/a"), b"A").unwrap();
    disk.create_file(at("/b"), b"B").unwrap();
    let (mut recording, end) = (disk.recording(), disk.ops());
    assert_eq!(recording.pending(end), [0, 2, 1, 3], "names first: create a, create b, write a, write b");

    let states = |text| [None, Some(""), Some(text)];
    let expected = states("A").into_iter().flat_map(|a| states("B").map(|b| row([a, b]))).collect();
    assert_eq!(every_subset(&disk, &["/a", "/b"]), expected);
    let image = recording.image(end, &Loss::Without { lost: 0b0100 });
    assert_eq!((image.read(at("/a")).unwrap(), image.read(at("/b")).unwrap()), (vec![], b"B".to_vec()));
    let image = recording.image(end, &Loss::Without { lost: 0b0010 });
    assert_eq!((image.read(at("/a")).unwrap(), image.read(at("/b"))), (b"A".to_vec(), None));
}

/// The bytes of a file before and after a write, in sectors; which of them each image has.
fn arrived(disk: &SimDisk, path: &str, old: u8, new: u8) -> BTreeSet<Vec<bool>> {
    let sector = |bytes: &[u8]| {
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "torn inside a sector");
        assert!([old, new].contains(&bytes[0]));
        bytes[0] == new
    };
    images(disk).map(|image| image.read(at(path)).unwrap().chunks(512).map(sector).collect()).collect()
}

#[test]
fn a_write_tears_between_sectors_and_never_inside_one() {
    let disk = SimDisk::new();
    disk.create_file(at("/file"), &[7; 4 * 512 + 100]).unwrap();
    disk.sync_dir(at("/")).unwrap();

    let found = arrived(&disk, "/file", 0, 7);
    assert!(found.contains(&vec![]), "all lost: {found:?}");
    assert!(found.contains(&vec![true; 5]), "all arrived: {found:?}");
    assert!(found.contains(&vec![true, true]), "cut off: {found:?}");
    assert!(found.contains(&vec![false; 5]), "the length without the bytes: {found:?}");
    assert!(found.contains(&vec![true, true, true, false, false]), "the first sectors: {found:?}");
    assert!(found.iter().any(|sectors| sectors.starts_with(&[false, true])), "out of order: {found:?}");
}

#[test]
fn only_what_was_written_tears() {
    let disk = SimDisk::new();
    disk.put(at("/lock"), &[7; 3 * 512]).unwrap();
    drop(disk.lock(at("/lock"), &"new".repeat(300)).unwrap());
    for image in images(&disk) {
        let bytes = image.read(at("/lock")).unwrap();
        if bytes.len() == 3 * 512 {
            assert!(bytes[900..].iter().all(|byte| *byte == 7), "nobody wrote there");
        }
    }
}

#[test]
fn after_a_failed_sync_the_bytes_stay_in_doubt() {
    let disk = SimDisk::new();
    disk.create_file(at("/file"), b"old").unwrap();
    disk.sync_dir(at("/")).unwrap();
    disk.fail(1, Call::Sync, Fault::IoErr, Lasts::Once);
    disk.sync_file(at("/file")).unwrap_err();
    disk.sync_file(at("/file")).unwrap();
    assert_eq!(every_subset(&disk, &["/file"]), BTreeSet::from([row([Some("")]), row([Some("old")])]));

    // What comes after the failed sync is made durable by the next one; what was before is not.
    disk.reserve(at("/file"), 5).unwrap();
    let lost_or_not = BTreeSet::from([row([Some("\0\0\0\0\0")]), row([Some("old\0\0")])]);
    assert!(every_subset(&disk, &["/file"]).contains(&row([Some("old")])), "the length is still pending");
    disk.sync_file(at("/file")).unwrap();
    assert_eq!(every_subset(&disk, &["/file"]), lost_or_not);
    disk.sync_file(at("/file")).unwrap();
    assert_eq!(every_subset(&disk, &["/file"]), lost_or_not);
}

#[test]
fn whole_files_are_old_or_new_and_durable_when_told() {
    let disk = SimDisk::new();
    disk.put(at("/old"), b"old").unwrap();
    let start = disk.ops();
    replace(&disk, at("/old"), b"replaced").unwrap();
    let replaced = disk.ops();
    write_new(&disk, at("/new"), b"new").unwrap();

    let mut recording = disk.recording();
    for point in start..=disk.ops() {
        for seed in 0..50 {
            let image = recording.image(point, &Loss::Subset { seed });
            let (old, new) = (image.read(at("/old")).unwrap(), image.read(at("/new")));
            assert!(old == b"replaced" || (old == b"old" && point < replaced), "{point} {old:?}");
            let told = point == disk.ops();
            assert!(new.as_deref() == Some(b"new") || (new.is_none() && !told), "{point} {new:?}");
        }
    }
}

#[test]
fn a_lie_about_a_sync_loses_what_was_told_to_be_durable() {
    for kind in [SyncKind::File, SyncKind::Dir] {
        let disk = SimDisk::new();
        disk.lie_about(move |site| site.caller == Caller::Files && site.kind == kind);
        write_new(&disk, at("/file"), b"bytes").unwrap();
        assert!(images(&disk).any(|image| image.read(at("/file")).as_deref() != Some(b"bytes")), "{kind:?}");
        assert!(disk.sync_sites().iter().all(|seen| seen.lies == u64::from(seen.site.kind == kind)));
    }
}

#[test]
fn syncs_are_counted_by_place_and_need() {
    let disk = SimDisk::new();
    disk.create_dir(at("/0123456789abcdef")).unwrap();
    for path in ["/0123456789abcdef/batch-1.log", "/0123456789abcdef/batch-22.log"] {
        disk.create_file(at(path), b"x").unwrap();
        disk.sync_file(at(path)).unwrap();
        disk.sync_file(at(path)).unwrap();
    }
    disk.sync_dir(at("/")).unwrap();
    disk.sync_dir(at("/")).unwrap();
    let seen: Vec<_> = disk
        .sync_sites()
        .into_iter()
        .map(|seen| (seen.site.kind, seen.site.path, seen.calls, seen.needed, seen.lies))
        .collect();
    let files = (SyncKind::File, PathBuf::from("/*/batch-*.log"), 4, 2, 0);
    assert_eq!(seen, [files, (SyncKind::Dir, PathBuf::from("/"), 2, 1, 0)]);
}

#[test]
fn what_a_cut_left_is_a_disk_again() {
    let disk = SimDisk::new();
    disk.create_file(at("/file"), &[1; 5000]).unwrap();
    disk.put_link(at("/link")).unwrap();
    disk.chmod(at("/file"), 0o644, 7).unwrap();
    let Locked::Ours { lock: _held, .. } = disk.lock(at("/lock"), "me").unwrap() else {
        unreachable!("a new disk")
    };
    let image = disk.image(disk.ops(), &Loss::Nothing);

    let again = SimDisk::from_image(image.clone());
    assert_ne!(again.vfs_name(), disk.vfs_name());
    assert_eq!((again.ops(), again.used_bytes()), (0, disk.used_bytes()));
    assert_eq!(synced(&again).hash(), image.hash(), "everything on it is durable");
    let entry = again.entry(at("/file")).unwrap().unwrap();
    assert_eq!((entry.mode, entry.uid, entry.bytes), (0o644, 7, 5000));
    assert_eq!(again.entry(at("/link")).unwrap().unwrap().kind, EntryKind::Link);
    assert!(matches!(again.lock(at("/lock"), "another").unwrap(), Locked::Ours { .. }), "the lock went");
    again.create_file(at("/new"), b"x").unwrap();
    assert!(disk.entry(at("/new")).unwrap().is_none(), "the disks share nothing");
    assert!(image.read(at("/new")).is_none());
    assert_ne!(again.image(again.ops(), &Loss::Nothing).hash(), image.hash());
}

/// One change, or a sync.
#[derive(Clone, Debug)]
enum Step {
    Create(&'static str, usize),
    CreateDir(&'static str),
    FailSync(&'static str),
    Remove(&'static str),
    Rename(&'static str, &'static str),
    Reserve(&'static str, u64),
    Sync(&'static str),
    SyncDir(&'static str),
}

fn run(disk: &SimDisk, step: &Step) {
    // Many steps make no sense where they stand; what they do then is nothing.
    let _ = match step {
        Step::Create(path, length) => disk.create_file(at(path), &vec![1; *length]),
        Step::CreateDir(path) => disk.create_dir(at(path)),
        Step::FailSync(path) => {
            disk.fail(1, Call::Sync, Fault::IoErr, Lasts::Once);
            let failed = disk.sync_file(at(path));
            disk.heal();
            failed
        }
        Step::Remove(path) => disk.remove(at(path)),
        Step::Rename(from, to) => disk.rename(at(from), at(to)),
        Step::Reserve(path, length) => disk.reserve(at(path), *length),
        Step::Sync(path) => disk.sync_file(at(path)),
        Step::SyncDir(path) => disk.sync_dir(at(path)),
    };
}

fn sync_everything(disk: &SimDisk) {
    for path in disk.image(disk.ops(), &Loss::Nothing).paths() {
        match disk.entry(&path).unwrap().unwrap().kind {
            EntryKind::Folder => disk.sync_dir(&path).unwrap(),
            EntryKind::File => disk.sync_file(&path).unwrap(),
            EntryKind::Link | EntryKind::Other => {}
        }
    }
}

const PATHS: [&str; 8] = ["/a", "/b", "/c", "/a/a", "/a/b", "/b/a", "/b/b", "/a/a/a"];

fn step() -> impl Strategy<Value = Step> {
    let path = || select(&PATHS[..]);
    prop_oneof![
        4 => path().prop_map(Step::CreateDir),
        4 => (path(), select(vec![0, 1, 1000, 5000])).prop_map(|(path, length)| Step::Create(path, length)),
        1 => path().prop_map(Step::FailSync),
        3 => path().prop_map(Step::Remove),
        5 => (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
        2 => (path(), select(vec![0, 700, 9000])).prop_map(|(path, bytes)| Step::Reserve(path, bytes)),
        2 => path().prop_map(Step::Sync),
        3 => select(vec!["/", "/a", "/b"]).prop_map(Step::SyncDir),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150,
        rng_seed: RngSeed::Fixed(2),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn images_agree_with_one_another(steps in vec(step(), 1..50)) {
        let disk = SimDisk::new();
        let mut seen = Vec::new();
        for step in &steps {
            run(&disk, step);
            seen.push((disk.ops(), disk.image(disk.ops(), &Loss::Nothing).hash()));
        }
        let mut recording = disk.recording();
        prop_assert_eq!(recording.ops(), disk.ops());
        for (point, hash) in seen.into_iter().rev() {
            prop_assert_eq!(recording.image(point, &Loss::Nothing).hash(), hash);
            prop_assert_eq!(recording.image(point, &Loss::Without { lost: 0 }).hash(), hash);
            let unsynced = recording.image(point, &Loss::Unsynced).hash();
            if recording.pending(point).len() <= 64 {
                prop_assert_eq!(recording.image(point, &Loss::Without { lost: u64::MAX }).hash(), unsynced);
            }
            for loss in [Loss::Unsynced, Loss::Subset { seed: 1 }, Loss::Without { lost: 0b1010 }] {
                let image = recording.image(point, &loss);
                prop_assert_eq!(image.hash(), disk.image(point, &loss).hash(), "the same image twice");
                let again = SimDisk::from_image(image.clone());
                prop_assert_eq!(synced(&again).hash(), image.hash());
            }
        }
    }

    #[test]
    fn after_syncs_of_everything_nothing_is_lost(
        steps in vec(step().prop_filter("doubt stays", |step| !matches!(step, Step::FailSync(_))), 1..50),
    ) {
        let disk = SimDisk::new();
        for step in &steps {
            run(&disk, step);
        }
        sync_everything(&disk);
        let whole = disk.image(disk.ops(), &Loss::Nothing).hash();
        prop_assert_eq!(synced(&disk).hash(), whole);
    }
}
