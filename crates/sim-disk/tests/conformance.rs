//! The disk in memory answers as the real one does.
//!
//! The same steps run on both, and every answer must be equal: what was found, the kind of error and
//! its number. Left out is what the two cannot share: the length of a folder, the room that is free,
//! what a link leads to (in memory nowhere, so the links here lead nowhere), syncs of folders that
//! are none, which the real disk lets pass, and a folder that [`Disk::rename_new`] should move into
//! itself: the real disk takes that answer of the kernel for a flag it does not know, tries a hard
//! link, and says what that says.

use std::{
    ffi::OsString,
    fmt, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use node_store::disk::{Disk, EntryKind, Lock, Locked, RealDisk, replace, write_new};
use proptest::{collection::vec, prelude::*, sample::select, test_runner::RngSeed};
use sim_disk::SimDisk;

/// One call on a disk; paths are relative to the folder that the steps run in.
#[derive(Clone, Debug)]
enum Step {
    CreateDir(&'static str),
    CreateFile(&'static str, usize),
    Entry(&'static str),
    Link(&'static str),
    List(&'static str),
    Lock(&'static str, &'static str),
    Read(&'static str, u64),
    Remove(&'static str),
    Rename(&'static str, &'static str),
    RenameNew(&'static str, &'static str),
    Replace(&'static str, usize),
    Reserve(&'static str, u64),
    SyncFile(&'static str),
    /// Lets go of the lock that was taken first.
    Unlock,
    WriteNew(&'static str, usize),
}

/// A disk, the folder that the steps run in, and the locks they hold.
struct Side<'a> {
    disk: &'a dyn Disk,
    root: PathBuf,
    link: &'a dyn Fn(&Path) -> io::Result<()>,
    locks: Vec<Box<dyn Lock>>,
}

impl Side<'_> {
    fn run(&mut self, step: &Step) -> String {
        let at = |path: &str| if path.is_empty() { self.root.clone() } else { self.root.join(path) };
        let bytes = |length: usize| (0..length).map(|number| number as u8).collect::<Vec<_>>();
        match step {
            Step::CreateDir(path) => answer(self.disk.create_dir(&at(path))),
            Step::CreateFile(path, length) => answer(self.disk.create_file(&at(path), &bytes(*length))),
            Step::Entry(path) => answer(self.disk.entry(&at(path)).map(|found| {
                found.map(|entry| {
                    let length = (entry.kind == EntryKind::File).then_some(entry.bytes);
                    (entry.kind, entry.mode, entry.uid == self.disk.uid(), length)
                })
            })),
            Step::Link(path) => answer((self.link)(&at(path))),
            Step::List(path) => answer(self.disk.list(&at(path))),
            Step::Lock(path, holder) => match self.disk.lock(&at(path), holder) {
                Ok(Locked::Ours { lock, last }) => {
                    self.locks.push(lock);
                    format!("ours after {last:?}")
                }
                Ok(Locked::Theirs(holder)) => format!("theirs: {holder:?}"),
                Err(error) => answer::<()>(Err(error)),
            },
            Step::Read(path, bytes_max) => answer(self.disk.read(&at(path), *bytes_max)),
            Step::Remove(path) => answer(self.disk.remove(&at(path))),
            Step::Rename(from, to) => answer(self.disk.rename(&at(from), &at(to))),
            Step::RenameNew(from, to) => answer(self.disk.rename_new(&at(from), &at(to))),
            Step::Replace(path, length) => answer(replace(self.disk, &at(path), &bytes(*length))),
            Step::Reserve(path, length) => answer(self.disk.reserve(&at(path), *length)),
            Step::SyncFile(path) => answer(self.disk.sync_file(&at(path))),
            Step::Unlock => {
                if self.locks.is_empty() {
                    return String::new();
                }
                answer(self.locks.remove(0).clear())
            }
            Step::WriteNew(path, length) => answer(write_new(self.disk, &at(path), &bytes(*length))),
        }
    }

    /// Everything below the folder, in words.
    fn everything(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        let mut open = vec![self.root.clone()];
        while let Some(path) = open.pop() {
            let entry = self.disk.entry(&path).unwrap().unwrap();
            let (names, bytes): (Vec<OsString>, _) = match entry.kind {
                EntryKind::Folder => (self.disk.list(&path).unwrap(), None),
                EntryKind::File => (Vec::new(), self.disk.read(&path, u64::MAX).unwrap()),
                EntryKind::Link | EntryKind::Other => (Vec::new(), None),
            };
            let shown = path.strip_prefix(&self.root).unwrap().display();
            found.push(format!("{shown}: {:?} {:o} {bytes:?}", entry.kind, entry.mode));
            open.extend(names.iter().map(|name| path.join(name)));
        }
        found
    }
}

fn answer<T: fmt::Debug>(result: io::Result<T>) -> String {
    match result {
        Ok(found) => format!("{found:?}"),
        Err(error) => format!("{:?} {:?}", error.kind(), error.raw_os_error()),
    }
}

/// Runs the steps on both disks; gives the answers, which are equal.
fn on_both(steps: &[Step]) -> Vec<String> {
    let home = tempfile::tempdir().unwrap();
    let sim = SimDisk::new();
    let (real_root, sim_root) = (home.path().join("disk"), PathBuf::from("/disk"));
    RealDisk.create_dir(&real_root).unwrap();
    sim.create_dir(&sim_root).unwrap();
    let mut real =
        Side { disk: &RealDisk, root: real_root, link: &|path| symlink("nowhere", path), locks: Vec::new() };
    let mut simulated =
        Side { disk: &sim, root: sim_root, link: &|path| sim.put_link(path), locks: Vec::new() };
    let mut answers = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        let expected = real.run(step);
        assert_eq!(simulated.run(step), expected, "{step:?}, number {number} of {steps:?}");
        answers.push(expected);
    }
    assert_eq!(simulated.everything(), real.everything(), "after {steps:?}");
    answers
}

use Step::*;

#[test]
fn a_new_file_replaces_nothing() {
    let answers = on_both(&[
        CreateFile("file", 3),
        CreateFile("file", 5),
        Read("file", 3),
        CreateDir("file"),
        CreateDir("folder"),
        CreateDir("folder"),
        CreateFile("folder", 0),
        Link("link"),
        CreateFile("link", 1),
        CreateDir("link"),
        Link("file"),
        CreateFile("missing/file", 1),
        CreateDir("missing/folder"),
        CreateFile("file/below", 1),
        CreateDir("file/below"),
        CreateFile("link/below", 1),
    ]);
    assert_eq!(answers[..3], ["()", "AlreadyExists Some(17)", "Some([0, 1, 2])"]);
}

#[test]
fn new_files_and_folders_are_ours_alone() {
    let answers = on_both(&[
        CreateFile("file", 5000),
        CreateDir("folder"),
        Reserve("reserve", 10),
        Lock("lock", "me"),
        Entry("file"),
        Entry("folder"),
        Entry("reserve"),
        Entry("lock"),
    ]);
    assert_eq!(answers[4], "Some((File, 384, true, Some(5000)))");
    assert_eq!(answers[5], "Some((Folder, 448, true, None))");
}

#[test]
fn what_is_missing_is_an_answer_and_what_is_in_the_way_an_error() {
    on_both(&[
        CreateFile("file", 1),
        CreateDir("folder"),
        Link("link"),
        Entry("missing"),
        Entry("missing/below"),
        Entry("file/below"),
        Entry("link"),
        Entry("link/below"),
        Read("missing", 10),
        Read("missing/below", 10),
        Read("file/below", 10),
        Read("folder", 10),
        Read("link", 10),
        Read("link/below", 10),
        List("missing"),
        List("missing/below"),
        List("file"),
        List("file/below"),
        List("link"),
        SyncFile("missing"),
        SyncFile("file/below"),
        SyncFile("folder"),
        SyncFile("link"),
        SyncFile("file"),
    ]);
}

#[test]
fn a_file_is_read_up_to_the_limit() {
    let answers = on_both(&[
        CreateFile("file", 4097),
        CreateFile("empty", 0),
        Read("file", 4096),
        Read("file", 0),
        Read("empty", 0),
        Read("file", 4097),
    ]);
    assert_eq!(answers[2], "FileTooLarge None");
}

#[test]
fn names_are_listed_in_order() {
    let answers = on_both(&[
        CreateFile("b", 0),
        CreateDir("a"),
        Link("B"),
        CreateFile("a.b", 0),
        CreateFile("a/z", 0),
        List(""),
        List("a"),
    ]);
    assert_eq!(answers[5], r#"["B", "a", "a.b", "b"]"#);
}

#[test]
fn removing_takes_files_and_links_and_no_folders() {
    on_both(&[
        CreateFile("file", 1),
        CreateDir("folder"),
        Link("link"),
        Remove("missing"),
        Remove("missing/below"),
        Remove("file/below"),
        Remove("link/below"),
        Remove("folder"),
        Remove("link"),
        Remove("file"),
        Entry("file"),
        List(""),
    ]);
}

#[test]
fn a_rename_replaces_what_it_may() {
    on_both(&[
        CreateFile("one", 1),
        CreateFile("two", 2),
        Rename("one", "two"),
        Entry("one"),
        Read("two", 10),
        Rename("two", "two"),
        CreateDir("folder"),
        CreateDir("empty"),
        CreateFile("folder/file", 3),
        Rename("two", "folder"),
        Rename("folder", "two"),
        Rename("empty", "folder"),
        Rename("folder", "empty"),
        Read("empty/file", 10),
        Link("link"),
        Rename("link", "two"),
        Entry("two"),
        Rename("two", "link"),
        CreateFile("three", 4),
        Rename("three", "link"),
        Read("link", 10),
        Rename("empty", "empty"),
        List(""),
    ]);
}

#[test]
fn a_rename_that_may_not_replace_does_not() {
    let answers = on_both(&[
        CreateFile("one", 1),
        CreateFile("two", 2),
        CreateDir("folder"),
        Link("link"),
        RenameNew("one", "two"),
        RenameNew("one", "one"),
        RenameNew("one", "folder"),
        RenameNew("one", "link"),
        RenameNew("missing", "two"),
        RenameNew("folder", "one"),
        Read("two", 10),
        RenameNew("one", "folder/one"),
        Read("folder/one", 10),
        RenameNew("folder", "moved"),
        Read("moved/one", 10),
    ]);
    assert_eq!(answers[4], "AlreadyExists Some(17)");
}

/// Both folders are looked up before the last names are: a rename that is wrong in two ways answers
/// what is wrong with a folder.
#[test]
fn a_rename_looks_at_both_folders_first() {
    let answers = on_both(&[
        CreateFile("file", 1),
        Link("link"),
        Rename("missing", "file/below"),
        Rename("missing", "nowhere/below"),
        Rename("missing", "link/below"),
        Rename("file/below", "nowhere/below"),
        Rename("nowhere/below", "file/below"),
        RenameNew("missing", "file/below"),
        Rename("missing", "file"),
        Rename("file", "file/below"),
    ]);
    assert_eq!(answers[2], "NotADirectory Some(20)");
}

#[test]
fn a_folder_is_moved_neither_into_nor_over_itself() {
    let answers = on_both(&[
        CreateDir("a"),
        CreateDir("a/b"),
        CreateDir("a/b/c"),
        CreateFile("a/file", 1),
        Rename("a", "a/new"),
        Rename("a", "a/b"),
        Rename("a", "a/file"),
        Rename("a", "a/b/c/new"),
        RenameNew("a", "a/b"),
        Rename("a/b", "a"),
        Rename("a/file", "a"),
        Rename("a/b/c", "a"),
        RenameNew("a/file", "a"),
        Rename("a/b/c", "a/b"),
        Rename("a/b/c", "c"),
        Rename("c", "a/b"),
        List("a"),
    ]);
    assert_eq!(answers[4], "InvalidInput Some(22)");
    assert_eq!(answers[11], "DirectoryNotEmpty Some(39)");
}

#[test]
fn reserving_sets_the_length_and_keeps_the_bytes() {
    on_both(&[
        Reserve("new", 5000),
        Read("new", 5000),
        CreateFile("file", 10),
        Reserve("file", 12),
        Read("file", 100),
        Reserve("file", 4),
        Reserve("file", 8),
        Read("file", 100),
        Reserve("file", 0),
        Read("file", 100),
        CreateDir("folder"),
        Link("link"),
        Reserve("folder", 1),
        Reserve("link", 1),
        Reserve("missing/file", 1),
        Reserve("file/below", 1),
    ]);
}

#[test]
fn a_lock_has_one_holder() {
    let answers = on_both(&[
        Lock("lock", "first"),
        Lock("lock", "second"),
        Read("lock", 10),
        Unlock,
        Lock("lock", "2nd"),
        Read("lock", 10),
        Lock("lock", "third"),
        // The lock is on the file, not on its name.
        Rename("lock", "moved"),
        Lock("moved", "fourth"),
        Lock("lock", "fifth"),
        Remove("lock"),
        Lock("lock", "sixth"),
        Lock("lock", "seventh"),
        Unlock,
        Unlock,
        Lock("lock", "eighth"),
        Unlock,
        Lock("lock", "ninth"),
    ]);
    assert_eq!(answers[..2], [r#"ours after """#, r#"theirs: "first""#]);
}

#[test]
fn a_lock_file_that_says_strange_things_is_told_alike() {
    on_both(&[
        CreateDir("folder"),
        Link("link"),
        Lock("folder", "me"),
        Lock("link", "me"),
        Lock("missing/lock", "me"),
        Lock("long", "123456789 123456789 123456789 123456789 123456789 123456789 1234567890"),
        Lock("long", "me"),
        Lock("blank", " \n me \n"),
        Lock("blank", "me"),
        Lock("torn", "123456789 123456789 123456789 123456789 123456789 123456789 123\u{e4}"),
        Lock("torn", "me"),
    ]);
}

#[test]
fn whole_files_are_written_alike() {
    on_both(&[
        WriteNew("file", 100),
        WriteNew("file", 200),
        Read("file", 1000),
        Replace("file", 300),
        Read("file", 1000),
        Replace("new", 1),
        CreateDir("folder"),
        Replace("folder", 1),
        WriteNew("folder", 1),
        WriteNew("missing/file", 1),
        List(""),
    ]);
}

#[test]
fn room_is_asked_about_where_there_is_something() {
    let disk = SimDisk::new();
    disk.put(Path::new("/folder/file"), b"x").unwrap();
    let home = tempfile::tempdir().unwrap();
    for (real, simulated) in [("", "/folder"), ("missing", "/missing"), ("missing/below", "/missing/below")] {
        let expected = RealDisk.free_bytes(&home.path().join(real)).map(|_| ());
        assert_eq!(answer(disk.free_bytes(Path::new(simulated)).map(|_| ())), answer(expected));
    }
}

/// Few names, so that steps meet; folders and what is in them share names.
const PATHS: [&str; 12] =
    ["a", "b", "c", "a/a", "a/b", "b/a", "b/b", "c/a", "a/a/a", "a/a/b", "b/a/a", "b/a/b/a"];

fn step() -> impl Strategy<Value = Step> {
    let path = || select(&PATHS[..]);
    let length = || select(vec![0, 1, 511, 4096, 5000]);
    prop_oneof![
        6 => path().prop_map(CreateDir),
        5 => (path(), length()).prop_map(|(path, length)| CreateFile(path, length)),
        2 => path().prop_map(Entry),
        1 => path().prop_map(Link),
        2 => path().prop_map(List),
        2 => (path(), select(vec!["me", "you", ""])).prop_map(|(path, holder)| Lock(path, holder)),
        2 => (path(), select(vec![0, 511, 10_000])).prop_map(|(path, bytes_max)| Read(path, bytes_max)),
        3 => path().prop_map(Remove),
        6 => (path(), path()).prop_map(|(from, to)| Rename(from, to)),
        4 => (path(), path())
            .prop_filter("into itself", |(from, to)| from == to || !Path::new(to).starts_with(from))
            .prop_map(|(from, to)| RenameNew(from, to)),
        2 => (path(), select(vec![0, 1, 4096, 9000])).prop_map(|(path, bytes)| Reserve(path, bytes)),
        1 => Just(Unlock),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_steps_are_answered_alike(steps in vec(step(), 1..80)) {
        on_both(&steps);
    }
}
