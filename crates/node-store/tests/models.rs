//! Model files: fetched in pieces, verified whole, kept once, repaired, removed; and what a crash leaves of them.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must fail")]
#![expect(clippy::disallowed_methods, reason = "changes files behind the store's back")]
#![expect(clippy::print_stdout, reason = "says what this machine cannot show")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::ControlFlow,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
};

use common::{NOW, create, model, open};
use node_store::{
    models::{
        Finished, Measurement, Models, ModelsError, Partial, Scrub, Scrubbed, Standing, Strangers, WasteKind,
    },
    volume::Volume,
};
use node_types::{
    Digest, Timestamp,
    config::{ModelFile, PIECE_BYTES, PieceHash},
    job::ModelRef,
    models::ModelState,
};

/// A file of two pieces, the second a few bytes long.
const TAIL: &[u8] = b"the last bytes of the weights";

struct Home {
    // Closed before its folder goes.
    volume: Volume,
    models: Models,
    folder: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let volume = create(&folder.path().join("volume"));
        Self { models: volume.models(), volume, folder }
    }

    fn reopened(self) -> Self {
        let Self { volume, models, folder } = self;
        drop((volume, models));
        let volume = open(&folder.path().join("volume"));
        Self { models: volume.models(), volume, folder }
    }

    /// Without the store's knowledge: another connection to its database.
    fn sql(&self, sql: &str) {
        let raw = rusqlite::Connection::open(self.volume.folder().join("state.db")).unwrap();
        assert!(raw.execute(sql, ()).unwrap() > 0, "{sql}");
    }

    fn partial_path(&self, sha256: Digest) -> PathBuf {
        self.models.folder().join("partial").join(sha256.hex())
    }
}

fn wanted(content: &[u8]) -> ModelFile {
    let pieces = content.chunks(usize::try_from(PIECE_BYTES).unwrap());
    let hash = |piece: &[u8]| PieceHash::from_bytes(blake3::hash(piece).into());
    ModelFile {
        path: "weights.gguf".into(),
        bytes: content.len() as u64,
        sha256: Digest::of(content),
        pieces_blake3: pieces.map(hash).collect(),
    }
}

fn two_pieces() -> Vec<u8> {
    let mut content = vec![0; usize::try_from(PIECE_BYTES).unwrap()];
    content[..4].copy_from_slice(b"GGUF");
    content.extend_from_slice(TAIL);
    content
}

fn on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn fetch(partial: &Partial, content: &[u8], now: Timestamp) {
    for index in (0..partial.pieces()).filter(|index| partial.received(*index) < partial.piece_bytes(*index))
    {
        let start = usize::try_from(index * PIECE_BYTES).unwrap();
        let piece = &content[start..start + usize::try_from(partial.piece_bytes(index)).unwrap()];
        let (first, rest) = piece.split_at(piece.len() / 2);
        partial.write(index, 0, first).unwrap();
        partial.write(index, first.len() as u64, rest).unwrap();
        partial.note(index, piece.len() as u64, now).unwrap();
    }
}

fn install(models: &Models, content: &[u8]) -> Digest {
    let wanted = wanted(content);
    let partial = models.begin(&wanted, NOW).unwrap();
    fetch(&partial, content, NOW);
    assert_eq!(partial.finish(NOW, &mut on).unwrap(), Finished::Installed);
    wanted.sha256
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// Changes bytes of a file that nobody may write to.
fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
    drop(file);
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
}

#[test]
fn a_file_gets_its_name_after_all_of_it_was_verified() {
    let home = Home::new();
    let (models, content) = (&home.models, two_pieces());
    let wanted = wanted(&content);
    assert!(!models.folder().exists(), "made with the first file");
    let partial = models.begin(&wanted, NOW).unwrap();
    assert_eq!((partial.bytes(), partial.pieces()), (wanted.bytes, 2));
    assert_eq!([0, 1, 2].map(|piece| partial.piece_bytes(piece)), [PIECE_BYTES, TAIL.len() as u64, 0]);
    assert_eq!(partial.expected_piece(1), Some(wanted.pieces_blake3[1]));
    fetch(&partial, &content, NOW.plus_ms(5));
    assert!(partial.is_complete());
    let begun = models.view().partials().unwrap();
    assert_eq!((begun.len(), begun[0].received, begun[0].bytes), (1, wanted.bytes, wanted.bytes));
    assert_eq!((begun[0].started_at, begun[0].touched_at), (NOW, NOW.plus_ms(5)));
    assert_eq!(models.view().stand(wanted.sha256).unwrap(), Standing::Missing);

    let mut seen = Vec::new();
    let mut progress = |bytes| {
        seen.push(bytes);
        ControlFlow::Continue(())
    };
    assert_eq!(partial.finish(NOW.plus_ms(7), &mut progress).unwrap(), Finished::Installed);
    assert!(seen.is_sorted() && seen.last() == Some(&wanted.bytes), "{seen:?}");

    let path = models.path(wanted.sha256);
    assert_eq!(fs::read(&path).unwrap(), content);
    assert_eq!(mode(&path), 0o444);
    let folder = models.folder();
    let folders = [folder.to_owned(), folder.join("partial"), folder.join("quarantine")];
    assert_eq!(folders.map(|folder| mode(&folder)), [0o755, 0o700, 0o700]);
    assert_eq!(models.view().stand(wanted.sha256).unwrap(), Standing::Sealed);
    assert_eq!(models.view().partials().unwrap(), []);
    assert!(!home.partial_path(wanted.sha256).exists());
    let held = models.view().files().unwrap().remove(0);
    assert_eq!((held.sha256, held.bytes, held.sealed), (wanted.sha256, wanted.bytes, true));
    assert_eq!((held.installed_at, held.verified_at), (NOW.plus_ms(7), NOW.plus_ms(7)));
    assert_eq!((held.pieces, held.scrub), (wanted.pieces_blake3, Scrub::default()));
    let home = home.reopened();
    assert_eq!(home.models.view().stand_all().unwrap(), [(wanted.sha256, Standing::Sealed)]);
}

#[test]
fn an_empty_file_is_a_file() {
    let home = Home::new();
    let sha256 = install(&home.models, b"");
    assert_eq!(home.models.view().stand(sha256).unwrap(), Standing::Sealed);
    assert_eq!(home.models.scrub_piece(sha256, NOW).unwrap(), Scrubbed::Good { done: true });
}

#[test]
fn what_was_noted_is_there_after_a_restart_and_nothing_else() {
    let home = Home::new();
    let content = two_pieces();
    let wanted = wanted(&content);
    let partial = home.models.begin(&wanted, NOW).unwrap();
    partial.write(0, 0, &content[..1000]).unwrap();
    partial.note(0, 1000, NOW).unwrap();
    partial.write(0, 1000, &[7; 500]).unwrap();
    partial.write(1, 0, TAIL).unwrap();
    partial.note(1, TAIL.len() as u64, NOW).unwrap();
    partial.reset(1).unwrap();
    drop(partial);
    let home = home.reopened();
    let partial = home.models.begin(&wanted, NOW).unwrap();
    assert_eq!((partial.received(0), partial.received(1), partial.received_all()), (1000, 0, 1000));
    assert_eq!(partial.rehash(0).unwrap().finalize(), blake3::hash(&content[..1000]));
    assert!(!partial.is_complete());
    assert!(matches!(
        partial.finish(NOW, &mut on),
        Err(ModelsError::Incomplete { received: 1000, bytes, .. }) if bytes == wanted.bytes
    ));
    let partial = home.models.begin(&wanted, NOW).unwrap();
    fetch(&partial, &content, NOW);
    assert_eq!(partial.finish(NOW, &mut on).unwrap(), Finished::Installed);
}

#[test]
fn nothing_is_written_beyond_a_piece() {
    let home = Home::new();
    let content = two_pieces();
    let partial = home.models.begin(&wanted(&content), NOW).unwrap();
    let tail = TAIL.len() as u64;
    for (piece, at, bytes) in
        [(1, tail, 1), (1, 0, TAIL.len() + 1), (0, PIECE_BYTES - 1, 2), (2, 0, 0), (1, u64::MAX, 2)]
    {
        let refused = partial.write(piece, at, &vec![1; bytes]);
        assert!(matches!(refused, Err(ModelsError::Outside { .. })), "{piece} {at} {bytes}: {refused:?}");
    }
    assert!(
        matches!(partial.note(1, tail + 1, NOW), Err(ModelsError::Outside { end, .. }) if end == tail + 1)
    );
    partial.write(0, PIECE_BYTES - 1, &[0]).unwrap();
    partial.write(1, tail - 1, &[0]).unwrap();
    assert_eq!(fs::metadata(home.partial_path(wanted(&content).sha256)).unwrap().len(), content.len() as u64);
}

#[test]
fn a_file_that_is_something_else_is_moved_aside_and_begun_anew() {
    let home = Home::new();
    let (content, wanted) = (two_pieces(), wanted(&two_pieces()));
    let partial = home.models.begin(&wanted, NOW).unwrap();
    let mut other = content.clone();
    *other.last_mut().unwrap() ^= 1;
    fetch(&partial, &other, NOW);
    let Finished::Mismatch { found, damaged, quarantined } = partial.finish(NOW, &mut on).unwrap() else {
        panic!("it was taken")
    };
    assert_eq!((found, damaged), (Digest::of(&other), vec![1]));
    assert_eq!(fs::read(&quarantined).unwrap(), other);
    let aside = home.models.view().quarantined().unwrap();
    assert_eq!((aside.len(), aside[0].sha256, aside[0].at), (1, wanted.sha256, NOW));
    assert_eq!((&aside[0].path, aside[0].bytes), (&quarantined, wanted.bytes));
    assert!(!home.models.path(wanted.sha256).exists());
    assert_eq!(home.models.view().files().unwrap(), []);
    let partial = home.models.begin(&wanted, NOW).unwrap();
    assert_eq!(partial.received_all(), 0);
}

#[test]
fn what_the_pieces_were_when_they_arrived_does_not_count() {
    let home = Home::new();
    let wanted = wanted(b"weights");
    let partial = home.models.begin(&wanted, NOW).unwrap();
    fetch(&partial, b"weights", NOW);
    let file = fs::OpenOptions::new().write(true).open(home.partial_path(wanted.sha256)).unwrap();
    file.write_all_at(b"W", 0).unwrap();
    drop(file);
    let finished = partial.finish(NOW, &mut on).unwrap();
    assert!(matches!(finished, Finished::Mismatch { found, .. } if found == Digest::of(b"Weights")));
}

#[test]
fn breaking_off_changes_nothing() {
    let home = Home::new();
    let wanted = wanted(b"weights");
    let partial = home.models.begin(&wanted, NOW).unwrap();
    fetch(&partial, b"weights", NOW);
    assert_eq!(partial.finish(NOW, &mut |_| ControlFlow::Break(())).unwrap(), Finished::Stopped);
    let partial = home.models.begin(&wanted, NOW).unwrap();
    assert!(partial.is_complete());
    assert_eq!(partial.finish(NOW, &mut on).unwrap(), Finished::Installed);
    let measured = home.models.measure(wanted.sha256, NOW, &mut |_| ControlFlow::Break(())).unwrap();
    assert_eq!(measured, Measurement::Stopped);
}

#[test]
fn two_models_keep_one_copy_and_it_goes_with_the_last_that_is_listed() {
    let home = Home::new();
    let models = &home.models;
    let sha256 = install(models, b"weights");
    let (first, second) = (model(), ModelRef { name: "other".into(), ..model() });
    let files = || vec![("weights.gguf".to_owned(), sha256, 7)];
    let set = |reference: &ModelRef, state, reason: Option<&str>, now| {
        models.set_state(reference, files(), state, reason.map(str::to_owned), now).wait().unwrap();
    };
    set(&first, ModelState::Active, None, NOW);
    set(&second, ModelState::Failed, Some("out of memory"), NOW);
    let refused = models.remove(sha256, None).unwrap_err();
    assert!(matches!(&refused, ModelsError::Needed { model, .. } if *model == first), "{refused}");
    set(&first, ModelState::Archived, None, NOW.plus_ms(1));
    let needed_by = |but, by: &ModelRef| {
        let refused = models.remove(sha256, but);
        assert!(matches!(&refused, Err(ModelsError::Needed { model, .. }) if model == by), "{refused:?}");
    };
    needed_by(Some(&first), &second);
    needed_by(None, &first);
    set(&second, ModelState::Failed, Some("still"), NOW.plus_ms(2));
    let rows = models.view().models().unwrap();
    let rows: Vec<_> =
        rows.iter().map(|row| (&row.reference, row.state, row.since, row.reason.as_deref())).collect();
    assert_eq!(
        rows,
        [
            (&first, ModelState::Archived, NOW.plus_ms(1), None),
            (&second, ModelState::Failed, NOW, Some("still"))
        ],
        "since when, changes with the state alone"
    );
    models.forget(&first).wait().unwrap();
    needed_by(Some(&second), &second);
    set(&second, ModelState::Archived, None, NOW);
    needed_by(None, &second);
    models.remove(sha256, Some(&second)).unwrap();
    assert!(!models.path(sha256).exists());
    assert_eq!(models.view().stand_all().unwrap(), []);
    models.remove(sha256, Some(&second)).unwrap();
}

#[test]
fn a_file_is_fetched_by_one_at_a_time() {
    let home = Home::new();
    let wanted = wanted(b"weights");
    let partial = home.models.begin(&wanted, NOW).unwrap();
    assert!(matches!(home.models.begin(&wanted, NOW), Err(ModelsError::Busy { .. })));
    assert!(matches!(home.models.discard_partial(wanted.sha256), Err(ModelsError::Busy { .. })));
    assert_eq!(home.models.prune(0, NOW, Strangers::Go).unwrap(), []);
    drop(partial);
    home.models.begin(&wanted, NOW).map(drop).unwrap();
    home.models.discard_partial(wanted.sha256).unwrap();
    assert!(!home.partial_path(wanted.sha256).exists());
    assert_eq!(home.models.view().partials().unwrap(), []);
}

#[test]
fn a_file_without_a_row_is_used_after_it_was_hashed() {
    let home = Home::new();
    let (good, bad) = (install(&home.models, b"weights"), install(&home.models, b"tokenizer"));
    overwrite(&home.models.path(bad), 0, b"T");
    home.sql("DELETE FROM files");
    let home = home.reopened();
    let models = &home.models;
    assert_eq!(models.view().stand(good).unwrap(), Standing::Unknown);
    let all: BTreeMap<_, _> = models.view().stand_all().unwrap().into_iter().collect();
    assert_eq!(all, [(good, Standing::Unknown), (bad, Standing::Unknown)].into());
    assert_eq!(models.measure(good, NOW, &mut on).unwrap(), Measurement::Same);
    assert_eq!(models.view().stand(good).unwrap(), Standing::Sealed);
    let found = models.measure(bad, NOW, &mut on).unwrap();
    assert_eq!(found, Measurement::Differs { found: Some(Digest::of(b"Tokenizer")), damaged: Vec::new() });
    assert_eq!(models.view().stand(bad).unwrap(), Standing::Unknown);
}

#[test]
fn a_row_without_a_file_says_that_it_is_missing() {
    let home = Home::new();
    let sha256 = install(&home.models, b"weights");
    fs::remove_file(home.models.path(sha256)).unwrap();
    assert_eq!(home.models.view().stand_all().unwrap(), [(sha256, Standing::Missing)]);
    assert_eq!(home.models.measure(sha256, NOW, &mut on).unwrap(), Measurement::Missing);
    assert_eq!(home.models.scrub_piece(sha256, NOW).unwrap(), Scrubbed::Missing);
    assert!(matches!(home.models.quarantine(sha256, NOW), Err(ModelsError::Missing { .. })));
    assert_eq!(home.models.view().stand_all().unwrap(), [], "forgotten");
}

#[test]
fn a_partial_file_and_its_row_count_together_alone() {
    let content = two_pieces();
    let wanted = wanted(&content);
    let begun = || {
        let home = Home::new();
        let partial = home.models.begin(&wanted, NOW).unwrap();
        partial.write(1, 0, TAIL).unwrap();
        partial.note(1, TAIL.len() as u64, NOW).unwrap();
        drop(partial);
        home
    };
    let without_row = begun();
    without_row.sql("DELETE FROM partials");
    let without_file = begun();
    fs::remove_file(without_file.partial_path(wanted.sha256)).unwrap();
    let cut_short = begun();
    fs::OpenOptions::new()
        .write(true)
        .open(cut_short.partial_path(wanted.sha256))
        .unwrap()
        .set_len(1)
        .unwrap();
    let of_other_length = begun();
    of_other_length.sql("UPDATE partials SET bytes = 1");
    for (number, home) in [without_row, without_file, cut_short, of_other_length].into_iter().enumerate() {
        let partial = home.models.begin(&wanted, NOW).unwrap();
        assert_eq!(partial.received_all(), 0, "case {number}");
        fetch(&partial, &content, NOW);
        assert_eq!(partial.finish(NOW, &mut on).unwrap(), Finished::Installed, "case {number}");
    }
    let stopped = Home::new();
    let partial = stopped.models.begin(&wanted, NOW).unwrap();
    fetch(&partial, &content, NOW);
    drop(partial);
    let path = stopped.partial_path(wanted.sha256);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(stopped.models.view().strangers().unwrap(), [], "ours, as a crash before its name leaves it");
    let partial = stopped.models.begin(&wanted, NOW).unwrap();
    assert!(partial.is_complete(), "nothing is fetched again");
    assert_eq!(partial.finish(NOW, &mut on).unwrap(), Finished::Installed);
    let home = begun();
    home.sql("UPDATE progress SET received = 1000");
    let partial = home.models.begin(&wanted, NOW).unwrap();
    assert_eq!(partial.received(1), TAIL.len() as u64, "never more than the piece has");
}

/// What `found` instead of a model file is told of it, and that it stands for nothing.
fn refused(home: &Home, sha256: Digest, found: &str, wanted: &str) {
    let Standing::Broken(why) = home.models.view().stand(sha256).unwrap() else { panic!("{found} passed") };
    let error = home.models.measure(sha256, NOW, &mut on).unwrap_err();
    let scrubbed = home.models.scrub_piece(sha256, NOW).unwrap_err();
    for text in [why, error.to_string(), scrubbed.to_string()] {
        assert!(text.contains(found) && text.contains(wanted), "{text}");
    }
}

#[test]
fn only_a_regular_file_of_ours_that_nobody_writes_to_is_a_model_file() {
    let home = Home::new();
    let sha256 = install(&home.models, b"weights");
    let (path, aside) = (home.models.path(sha256), home.folder.path().join("aside"));
    for loose in [0o644, 0o466, 0o4444, 0o400] {
        fs::set_permissions(&path, fs::Permissions::from_mode(loose)).unwrap();
        let standing = home.models.view().stand(sha256).unwrap();
        let Standing::Broken(why) = standing else { panic!("{standing:?}") };
        assert!(why.contains(&format!("has mode {loose:04o}")) && why.contains("mode 0444"), "{why}");
        // Reading it puts that right, and says whether anybody has written to it.
        assert_eq!(home.models.measure(sha256, NOW, &mut on).unwrap(), Measurement::Same);
        assert_eq!(home.models.view().stand(sha256).unwrap(), Standing::Sealed);
        assert_eq!(mode(&path), 0o444);
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        refused(&home, sha256, "belongs to user 12345", "user 0");
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
    }
    fs::rename(&path, &aside).unwrap();
    symlink(&aside, &path).unwrap();
    refused(&home, sha256, "is a symbolic link", "a regular file");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused(&home, sha256, "is a folder", "a regular file");
    fs::remove_dir(&path).unwrap();
    assert!(Command::new("mkfifo").args(["-m", "444"]).arg(&path).status().unwrap().success());
    refused(&home, sha256, "is a device, a socket or a pipe", "a regular file");
    let moved = home.models.quarantine(sha256, NOW).unwrap();
    assert!(fs::symlink_metadata(moved).is_ok() && fs::symlink_metadata(&path).is_err());
    install(&home.models, b"weights");
}

#[test]
fn folders_that_are_not_ours_are_refused() {
    let home = Home::new();
    let wanted = wanted(b"weights");
    let folder = home.models.folder().to_owned();
    symlink(home.folder.path(), &folder).unwrap();
    let error = home.models.begin(&wanted, NOW).unwrap_err().to_string();
    assert!(error.contains("is a symbolic link") && error.contains("a folder"), "{error}");
    fs::remove_file(&folder).unwrap();
    home.models.begin(&wanted, NOW).map(drop).unwrap();
    fs::set_permissions(folder.join("partial"), fs::Permissions::from_mode(0o770)).unwrap();
    let error = home.models.begin(&wanted, NOW).unwrap_err().to_string();
    assert!(error.contains("0770") && error.contains("0700"), "{error}");
    fs::set_permissions(folder.join("partial"), fs::Permissions::from_mode(0o700)).unwrap();
    // A link that somebody put where a partial file should be.
    fs::remove_file(home.partial_path(wanted.sha256)).unwrap();
    symlink(home.folder.path().join("elsewhere"), home.partial_path(wanted.sha256)).unwrap();
    assert!(matches!(home.models.begin(&wanted, NOW), Err(ModelsError::NotOurs { .. })));
}

/// The volume itself stays private; what is in models/ is for a runtime to read.
#[test]
fn a_volume_with_model_files_opens() {
    let home = Home::new();
    install(&home.models, b"weights");
    home.models.begin(&wanted(b"more"), NOW).map(drop).unwrap();
    let home = home.reopened();
    assert_eq!(mode(home.volume.folder()), 0o700);
    assert_eq!(mode(home.models.folder()), 0o755);
}

#[test]
fn a_repair_fetches_the_damaged_piece_alone() {
    let home = Home::new();
    let (models, content) = (&home.models, two_pieces());
    let sha256 = install(models, &content);
    // As from a snapshot that names no pieces: they are known from the installation.
    let wanted = ModelFile { pieces_blake3: Vec::new(), ..wanted(&content) };
    overwrite(&models.path(sha256), PIECE_BYTES + 1, b"X");
    let Measurement::Differs { damaged, .. } = models.measure(sha256, NOW, &mut on).unwrap() else {
        panic!()
    };
    assert_eq!(damaged, [1]);
    let partial = models.begin_repair(&wanted, &damaged, NOW, &mut on).unwrap().unwrap();
    assert_eq!((partial.received(0), partial.received(1)), (PIECE_BYTES, 0));
    let expected = PieceHash::from_bytes(blake3::hash(TAIL).into());
    assert_eq!(partial.expected_piece(1), Some(expected));
    drop(partial);
    // A restart, and the damaged file gone: the repair goes on, and still knows what the piece must be.
    models.quarantine(sha256, NOW).unwrap();
    let home = home.reopened();
    let partial = home.models.begin(&wanted, NOW).unwrap();
    assert_eq!((partial.received(0), partial.expected_piece(1)), (PIECE_BYTES, Some(expected)));
    fetch(&partial, &content, NOW);
    assert_eq!(partial.finish(NOW, &mut on).unwrap(), Finished::Installed);
    assert_eq!(home.models.view().stand(sha256).unwrap(), Standing::Sealed);
    assert_eq!(fs::read(home.models.path(sha256)).unwrap(), content);
}

#[test]
fn a_repair_takes_the_place_of_the_damaged_file_when_it_was_verified() {
    let home = Home::new();
    let (models, content) = (&home.models, two_pieces());
    let sha256 = install(models, &content);
    overwrite(&models.path(sha256), 5, b"X");
    // Cut short: the second piece is not all there.
    fs::set_permissions(models.path(sha256), fs::Permissions::from_mode(0o644)).unwrap();
    let file = fs::OpenOptions::new().write(true).open(models.path(sha256)).unwrap();
    file.set_len(PIECE_BYTES + 3).unwrap();
    fs::set_permissions(models.path(sha256), fs::Permissions::from_mode(0o444)).unwrap();
    drop(file);
    let partial = models.begin_repair(&wanted(&content), &[0], NOW, &mut on).unwrap().unwrap();
    assert_eq!((partial.received(0), partial.received(1)), (0, 0));
    fetch(&partial, &content, NOW);
    assert!(matches!(models.view().stand(sha256).unwrap(), Standing::Broken(_)), "until it is finished");
    assert_eq!(partial.finish(NOW, &mut on).unwrap(), Finished::Installed);
    assert_eq!(fs::read(models.path(sha256)).unwrap(), content);
    // Nothing is known of what is damaged: all of it is fetched.
    let partial = models.begin_repair(&wanted(&content), &[], NOW, &mut on).unwrap().unwrap();
    assert_eq!(partial.received_all(), 0);
    let missing = models.begin_repair(&wanted(b"other"), &[], NOW, &mut on).unwrap_err();
    assert!(matches!(missing, ModelsError::Missing { .. }), "{missing}");
}

/// What is copied from the damaged file is believed no more than what comes from outside: a piece may be damaged that nobody
/// has named.
#[test]
fn a_repair_that_copied_a_damaged_piece_is_moved_aside_and_replaces_nothing() {
    let home = Home::new();
    let (models, content) = (&home.models, two_pieces());
    let (sha256, wanted) = (install(models, &content), wanted(&content));
    overwrite(&models.path(sha256), 5, b"X");
    overwrite(&models.path(sha256), PIECE_BYTES, b"X");
    let damaged = fs::read(models.path(sha256)).unwrap();
    let partial = models.begin_repair(&wanted, &[1], NOW, &mut on).unwrap().unwrap();
    assert_eq!((partial.received(0), partial.received(1)), (PIECE_BYTES, 0));
    fetch(&partial, &content, NOW);
    let Finished::Mismatch { damaged: named, quarantined, .. } = partial.finish(NOW, &mut on).unwrap() else {
        panic!("what was copied was believed")
    };
    assert_eq!(named, [0]);
    assert!(quarantined.exists());
    assert!(matches!(models.view().stand(sha256).unwrap(), Standing::Broken(_)));
    assert!(fs::read(models.path(sha256)).unwrap() == damaged, "it was replaced");
    // The next one begins with nothing of that, and both pieces are known now.
    let partial = models.begin_repair(&wanted, &[0, 1], NOW, &mut on).unwrap().unwrap();
    assert_eq!(partial.received_all(), 0);
    fetch(&partial, &content, NOW);
    assert_eq!(partial.finish(NOW, &mut on).unwrap(), Finished::Installed);
    assert!(fs::read(models.path(sha256)).unwrap() == content);
}

#[test]
fn a_repair_that_is_broken_off_goes_on_where_it_was() {
    let home = Home::new();
    let mut content = vec![0; usize::try_from(PIECE_BYTES).unwrap()];
    content.extend(two_pieces());
    let (sha256, wanted) = (install(&home.models, &content), wanted(&content));
    let mut copied = Vec::new();
    let mut stopping = |bytes| {
        copied.push(bytes);
        ControlFlow::Break(())
    };
    assert!(home.models.begin_repair(&wanted, &[2], NOW, &mut stopping).unwrap().is_none());
    assert_eq!(copied, [PIECE_BYTES]);
    let home = home.reopened();
    assert_eq!(home.models.view().partials().unwrap()[0].received, PIECE_BYTES);
    let mut copied = Vec::new();
    let mut progress = |bytes| {
        copied.push(bytes);
        ControlFlow::Continue(())
    };
    let partial = home.models.begin_repair(&wanted, &[2], NOW, &mut progress).unwrap().unwrap();
    assert_eq!(copied, [PIECE_BYTES], "the second piece alone");
    assert_eq!([0, 1, 2].map(|piece| partial.received(piece)), [PIECE_BYTES, PIECE_BYTES, 0]);
    assert_eq!(partial.path(), home.partial_path(sha256));
    fetch(&partial, &content, NOW);
    assert_eq!(partial.finish(NOW, &mut on).unwrap(), Finished::Installed);
}

/// What was cut and given its length again, when the power went, is zeros.
#[test]
fn what_is_begun_anew_counts_nothing_of_before() {
    let home = Home::new();
    let wanted = wanted(b"weights");
    let partial = home.models.begin(&wanted, NOW).unwrap();
    fetch(&partial, b"weights", NOW);
    drop(partial);
    // It is cut, and cannot get this length.
    let endless = ModelFile { bytes: u64::MAX, ..wanted.clone() };
    assert!(matches!(home.models.begin(&endless, NOW), Err(ModelsError::Io { .. })));
    let file = fs::OpenOptions::new().write(true).open(home.partial_path(wanted.sha256)).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 0);
    file.set_len(wanted.bytes).unwrap();
    let partial = home.models.begin(&wanted, NOW).unwrap();
    assert_eq!(partial.received_all(), 0);
}

#[test]
fn rows_of_before_say_less() {
    let home = Home::new();
    let sha256 = install(&home.models, b"weights");
    home.sql(r#"UPDATE files SET mark = '{"unsealed":"it was changed just now"}'"#);
    let untrusted = Standing::Untrusted { why: "it was changed just now".into(), again: true };
    assert_eq!(home.models.view().stand(sha256).unwrap(), untrusted);
    assert_eq!(home.models.view().files().unwrap()[0].stamp, None);
    assert_eq!(home.models.measure(sha256, NOW, &mut on).unwrap(), Measurement::Same);
    assert_eq!(home.models.view().stand(sha256).unwrap(), Standing::Sealed);
}

/// XFS and F2FS make the number of theirs of the device's.
#[test]
fn a_file_system_with_another_number_is_no_damage_but_the_file_is_hashed() {
    let home = Home::new();
    let sha256 = install(&home.models, b"weights");
    let renumber = "UPDATE files SET mark = json_set(mark, '$.sealed.file_system', 1)";
    home.sql(renumber);
    let standing = home.models.view().stand(sha256).unwrap();
    assert!(
        matches!(&standing, Standing::Untrusted { why, again: true } if why.contains("another number")),
        "{standing:?}"
    );
    assert_eq!(home.models.measure(sha256, NOW, &mut on).unwrap(), Measurement::Same);
    assert_eq!(home.models.view().stand(sha256).unwrap(), Standing::Sealed);
    home.sql(renumber);
    overwrite(&home.models.path(sha256), 0, b"W");
    assert!(matches!(home.models.view().stand(sha256).unwrap(), Standing::Broken(_)));
}

#[test]
fn quarantine_keeps_the_newest_of_a_file() {
    let home = Home::new();
    let models = &home.models;
    let other = install(models, b"other");
    models.quarantine(other, NOW).unwrap();
    for now in [NOW, NOW, NOW.plus_ms(1)] {
        let sha256 = install(models, b"weights");
        let moved = models.quarantine(sha256, now).unwrap();
        let aside = models.view().quarantined().unwrap();
        assert_eq!(aside.iter().filter(|file| file.sha256 == sha256).count(), 1);
        assert!(aside.iter().any(|file| file.path == moved));
        assert!(aside.iter().any(|file| file.sha256 == other));
    }
}

#[test]
fn a_scrub_reads_piece_by_piece_goes_on_after_a_restart_and_names_the_damaged_one() {
    let home = Home::new();
    let content = two_pieces();
    let sha256 = install(&home.models, &content);
    let scrub = |home: &Home| home.models.view().files().unwrap()[0].scrub;
    assert_eq!(home.models.scrub_piece(sha256, NOW).unwrap(), Scrubbed::Good { done: false });
    let home = home.reopened();
    let halfway = Scrub { next_piece: 1, began_at: Some(NOW), completed_at: None };
    assert_eq!(scrub(&home), halfway);
    let later = NOW.plus_ms(9);
    assert_eq!(home.models.scrub_piece(sha256, later).unwrap(), Scrubbed::Good { done: true });
    let whole = Scrub { next_piece: 0, began_at: Some(NOW), completed_at: Some(later) };
    assert_eq!(scrub(&home), whole);

    overwrite(&home.models.path(sha256), PIECE_BYTES, b"X");
    assert_eq!(home.models.scrub_piece(sha256, later).unwrap(), Scrubbed::Good { done: false });
    assert_eq!(scrub(&home), Scrub { next_piece: 1, began_at: Some(later), completed_at: Some(later) });
    for _ in 0..2 {
        assert_eq!(home.models.scrub_piece(sha256, later).unwrap(), Scrubbed::Damaged { piece: 1 });
    }
    let Standing::Broken(why) = home.models.view().stand(sha256).unwrap() else { panic!() };
    assert!(why.contains("piece 1"), "{why}");
    overwrite(&home.models.path(sha256), PIECE_BYTES, &TAIL[..1]);
    assert_eq!(home.models.measure(sha256, later, &mut on).unwrap(), Measurement::Same);
    assert_eq!(home.models.view().stand(sha256).unwrap(), Standing::Sealed);
    let held = home.models.view().files().unwrap().remove(0);
    assert_eq!((held.installed_at, held.verified_at, held.scrub.next_piece), (NOW, later, 1));
}

#[test]
fn pruning_takes_what_is_old_leaves_what_is_needed_and_takes_what_is_not_ours_only_where_asked() {
    let home = Home::new();
    let models = &home.models;
    let archived = install(models, b"weights");
    let listed = install(models, b"listed");
    let without_row = install(models, b"without a row");
    home.sql(&format!("DELETE FROM files WHERE sha256 <> x'{}'", archived.hex()));
    let files = vec![("a".to_owned(), listed, 6)];
    models.set_state(&model(), files, ModelState::Pending, None, NOW).wait().unwrap();
    let (files, before) =
        (vec![("a".to_owned(), archived, 7)], ModelRef { name: "before".into(), ..model() });
    models.set_state(&before, files, ModelState::Archived, None, NOW).wait().unwrap();
    let fetched_again = install(models, b"repaired");
    models.begin(&wanted(b"repaired"), NOW.plus_ms(1)).map(drop).unwrap();
    let needless = install(models, b"needless");
    let young_needless = wanted(b"young needless");
    let partial = models.begin(&young_needless, NOW).unwrap();
    fetch(&partial, b"young needless", NOW);
    assert_eq!(partial.finish(NOW.plus_ms(1), &mut on).unwrap(), Finished::Installed);
    let old = models.begin(&wanted(b"old"), NOW).unwrap();
    fetch(&old, b"old", NOW);
    drop(old);
    let young = wanted(b"young");
    models.begin(&young, NOW.plus_ms(1)).map(drop).unwrap();
    let aside = install(models, b"aside");
    models.quarantine(aside, NOW).unwrap();
    let young_aside = install(models, b"young aside");
    let young_aside = models.quarantine(young_aside, NOW.plus_ms(1)).unwrap();
    let (orphan, brought) = (Digest::of(b"orphan"), Digest::of(b"brought"));
    fs::write(home.partial_path(orphan), "orphan").unwrap();
    fs::set_permissions(home.partial_path(orphan), fs::Permissions::from_mode(0o600)).unwrap();
    // Somebody put these there: the first two as they would stand there if they were ours.
    let no_text = std::ffi::OsStr::from_bytes(b"model\xff.gguf");
    let brought = [models.path(without_row), models.path(brought), home.partial_path(brought)];
    let named = ["model.gguf", ".hidden", "partial/model.gguf.part", "quarantine/model.gguf"];
    let named = named.map(|name| models.folder().join(name));
    let strangers: BTreeSet<_> =
        brought.into_iter().chain(named).chain([models.folder().join(no_text)]).collect();
    for stranger in strangers.iter().filter(|path| !path.exists()) {
        fs::write(stranger, "what is this?").unwrap();
        fs::set_permissions(stranger, fs::Permissions::from_mode(0o644)).unwrap();
    }
    fs::create_dir(models.folder().join("lost+found")).unwrap();

    let (ttl_ms, now) = (1000, NOW.plus_ms(1000));
    let unfinished = |now| {
        let waste = models.view().waste(ttl_ms, now).unwrap().into_iter();
        waste.filter_map(|it| if let WasteKind::Unfinished(sha256) = it.kind { Some(sha256) } else { None })
    };
    let old = Digest::of(b"old");
    assert_eq!(unfinished(NOW.plus_ms(999)).collect::<Vec<_>>(), [orphan], "its time has not ended");
    assert_eq!(unfinished(now).collect::<Vec<_>>(), [old, orphan]);
    let there = models.view().strangers().unwrap();
    assert_eq!(there.into_iter().map(|it| it.path).collect::<BTreeSet<_>>(), strangers);
    let waste = models.view().waste(ttl_ms, now).unwrap();
    let ours: Vec<_> =
        waste.iter().filter(|it| !matches!(it.kind, WasteKind::Stranger(_))).cloned().collect();
    let pruned = models.prune(ttl_ms, now, Strangers::Stay).unwrap();
    assert_eq!(pruned, ours, "what was planned went");
    let kinds = |kind: fn(&WasteKind) -> bool| pruned.iter().filter(|it| kind(&it.kind)).count();
    assert_eq!(kinds(|kind| matches!(kind, WasteKind::Unfinished(_))), 2);
    assert_eq!(kinds(|kind| matches!(kind, WasteKind::Quarantined)), 1);
    assert_eq!(kinds(|kind| matches!(kind, WasteKind::Unneeded(_))), 1);
    assert!(pruned.iter().all(|it| it.bytes > 0 && !it.path.exists()), "{pruned:?}");
    for gone in [models.path(needless), home.partial_path(Digest::of(b"old"))] {
        assert!(!gone.exists(), "{}", gone.display());
    }
    assert!(strangers.iter().all(|path| path.exists()), "what is not ours stays");
    let asked = models.prune(ttl_ms, now, Strangers::Go).unwrap();
    assert_eq!(asked.iter().map(|it| it.path.clone()).collect::<BTreeSet<_>>(), strangers);
    assert!(!strangers.iter().any(|path| path.exists()), "until somebody asks");
    let needed = [archived, listed, fetched_again, young_needless.sha256].map(|sha256| models.path(sha256));
    for left in needed.into_iter().chain([home.partial_path(young.sha256), young_aside]) {
        assert!(left.exists(), "{}", left.display());
    }
    let rows: BTreeSet<_> = models.view().files().unwrap().into_iter().map(|file| file.sha256).collect();
    assert_eq!(rows, [archived, fetched_again, young_needless.sha256].into());
    assert_eq!(models.view().partials().unwrap().len(), 2);
    assert_eq!(models.prune(ttl_ms, now, Strangers::Go).unwrap(), [], "nothing is left to do");
}

#[test]
fn what_a_crash_left_between_a_name_and_its_row_is_ours_and_is_used_or_goes() {
    let home = Home::new();
    let models = &home.models;
    let crashed = |content: &[u8]| {
        let wanted = wanted(content);
        let partial = models.begin(&wanted, NOW).unwrap();
        fetch(&partial, content, NOW);
        drop(partial);
        fs::rename(home.partial_path(wanted.sha256), models.path(wanted.sha256)).unwrap();
        fs::set_permissions(models.path(wanted.sha256), fs::Permissions::from_mode(0o444)).unwrap();
        wanted.sha256
    };
    let (used, unneeded) = (crashed(b"used"), crashed(b"unneeded"));
    let files = vec![("a".to_owned(), used, 4)];
    models.set_state(&model(), files, ModelState::Pending, None, NOW).wait().unwrap();
    let prune = |ms| models.prune(1000, NOW.plus_ms(ms), Strangers::Stay).unwrap();
    assert_eq!(models.view().strangers().unwrap(), []);
    assert_eq!(prune(999), [], "as long as its download would be kept");
    let gone: Vec<_> = prune(1000).into_iter().map(|it| it.kind).collect();
    let downloads = BTreeSet::from([used, unneeded]).into_iter().map(WasteKind::Unfinished);
    let wanted: Vec<_> = std::iter::once(WasteKind::Unneeded(unneeded)).chain(downloads).collect();
    assert_eq!(gone, wanted, "the file goes before what tells that it is ours");
    assert!(models.path(used).exists() && !models.path(unneeded).exists());
    assert_eq!(models.measure(used, NOW, &mut on).unwrap(), Measurement::Same);
    assert_eq!(models.view().stand(used).unwrap(), Standing::Sealed);
}

#[test]
fn a_file_that_cannot_be_deleted_is_not_forgotten() {
    let home = Home::new();
    let models = &home.models;
    let sha256 = install(models, b"weights");
    fs::remove_file(models.path(sha256)).unwrap();
    fs::create_dir(models.path(sha256)).unwrap();
    assert!(matches!(models.remove(sha256, None), Err(ModelsError::Io { .. })));
    let held = || models.view().files().unwrap().len();
    assert_eq!(held(), 1, "or what is left of it would be nobody's");
    fs::remove_dir(models.path(sha256)).unwrap();
    models.remove(sha256, None).unwrap();
    assert_eq!(held(), 0);
}

#[test]
fn a_full_disk_is_an_error_of_its_own() {
    if !rustix::process::geteuid().is_root() {
        println!("not shown: mounting a small disk needs root");
        return;
    }
    let home = Home::new();
    let folder = home.models.folder();
    fs::create_dir(folder).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(folder).status();
    assert!(mount.unwrap().success());
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let content = vec![1; 1 << 20];
    assert!(home.models.free_bytes().unwrap() <= 64 << 10);
    let partial = home.models.begin(&wanted(&content), NOW).unwrap();
    let full = partial.write(0, 0, &content);
    drop(partial);
    let unmounted = Command::new("umount").arg("-l").arg(folder).status();
    assert!(matches!(full, Err(ModelsError::Full { .. })), "{full:?}");
    assert!(unmounted.unwrap().success());
}
