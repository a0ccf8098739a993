//! Log records in files, one JSON object a line, for whoever reads files.
//!
//! ```text
//! <folder>/resultity-<network>.jsonl      the newest records
//!          resultity-<network>.1.jsonl    those before them, and so on up to the number of files that are kept
//! ```
//!
//! A batch is appended whole and synced before it counts as delivered. What a crash left of a line is cut off when the file is
//! opened: its records come again. The file is locked (flock(2)) while it is open, so no other node cuts or appends there, and one
//! that somebody moved or deleted is made anew before the next batch.

use std::{
    fs::{File, OpenOptions, Permissions, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use node_store::logs::WaitingFor;
use node_types::Timestamp;
use serde_json::json;

use crate::{blocking::blocking, otlp::Source, settings::LogFileSettings};

/// Files are for the operator's group too: whoever collects them is often another user.
const FILE_MODE: u32 = 0o640;
const FOLDER_MODE: u32 = 0o750;
/// Bytes that are looked at together for the end of the last line.
const LOOK_BYTES: u64 = 64 << 10;

/// Why records cannot be written to a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system failed.
    #[error(
        "cannot write log records to {path}: look at its folder and the space there, or set log_file.folder to another"
    )]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another node writes there.
    #[error(
        "another node writes its log records to {path}: set log_file.folder to one that only this node has"
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
}

/// The files of a node.
#[derive(Debug)]
pub struct LogFiles(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: LogFileSettings,
    node: String,
    stem: String,
    /// The newest file between two batches: where something failed it is opened anew.
    open: std::sync::Mutex<Option<File>>,
}

impl LogFiles {
    /// The files in the folder of these settings. Nothing is opened before there are records to write.
    #[must_use]
    pub fn new(settings: LogFileSettings, source: &Source) -> Self {
        let stem = format!("resultity-{}", source.network);
        Self(Arc::new(Inner { settings, node: source.node.clone(), stem, open: std::sync::Mutex::default() }))
    }

    /// Appends records and says what was lost before them; synced when this returns.
    ///
    /// # Errors
    /// [`FileError`]; what was written of them is taken back as far as that can be done.
    pub async fn append(&self, waiting: WaitingFor, now: Timestamp) -> Result<(), FileError> {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.append(&waiting, now)).await
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<File>> {
        // What a panic left open is cut to its last line before it is used again.
        self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The newest file is number 0.
    fn path(&self, number: u32) -> PathBuf {
        let name = match number {
            0 => format!("{}.jsonl", self.stem),
            number => format!("{}.{number}.jsonl", self.stem),
        };
        self.settings.folder.join(name)
    }

    #[expect(clippy::disallowed_methods, reason = "files of the operator's, not of the volume's")]
    fn open_newest(&self) -> Result<File, FileError> {
        let (folder, path) = (&self.settings.folder, self.path(0));
        let failed = |path: &Path, source| FileError::Io { path: path.to_owned(), source };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(folder)
            .map_err(|source| failed(folder, source))?;
        let mut file = open_to_append(&path).map_err(|source| failed(&path, source))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FileError::InUse { path }),
            Err(TryLockError::Error(source)) => return Err(failed(&path, source)),
        }
        cut_to_last_line(&mut file).map_err(|source| failed(&path, source))?;
        // What was made or renamed is there after a crash too.
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| failed(folder, source))?;
        Ok(file)
    }

    fn append(&self, waiting: &WaitingFor, now: Timestamp) -> Result<(), FileError> {
        let mut held = self.lock();
        let lines = self.lines(waiting, now);
        let path = self.path(0);
        let failed = |source| FileError::Io { path: path.clone(), source };
        let length = |file: &File| file.metadata().map(|data| data.len()).map_err(failed);
        let mut file = match held.take().filter(|file| is_at(file, &path)) {
            Some(file) => file,
            None => self.open_newest()?,
        };
        let bytes = length(&file)?;
        if bytes > 0 && bytes.saturating_add(lines.len() as u64) > self.settings.bytes_max {
            drop(file);
            self.shift().map_err(failed)?;
            file = self.open_newest()?;
        }
        let bytes = length(&file)?;
        let written = file.write_all(&lines).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // The next opening cuts what is left of it; whole lines come twice then.
            let _ = file.set_len(bytes);
            return Err(failed(error));
        }
        *held = Some(file);
        Ok(())
    }

    fn lines(&self, waiting: &WaitingFor, now: Timestamp) -> Vec<u8> {
        let mut lines = Vec::new();
        let mut put = |line: serde_json::Value| {
            lines.extend_from_slice(line.to_string().as_bytes());
            lines.push(b'\n');
        };
        if !waiting.untold.is_empty() {
            put(json!({
                "time": now.to_string(), "node": self.node, "level": "warn", "kind": "storage",
                "message": "log records were lost for this file", "lost": waiting.untold,
            }));
        }
        for entry in &waiting.entries {
            let record = &entry.record;
            let mut line = json!({
                "time": record.at.to_string(), "node": self.node, "record": entry.seq, "level": record.level,
                "kind": record.kind, "message": record.message,
            });
            if let Some(job) = record.job {
                line["job"] = json!(job);
            }
            if !record.fields.is_empty() {
                line["fields"] = json!(record.fields);
            }
            put(line);
        }
        lines
    }

    /// Every file gets the next number; those beyond the number that is kept go.
    #[expect(clippy::disallowed_methods, reason = "files of the operator's, not of the volume's")]
    fn shift(&self) -> io::Result<()> {
        let last = self.settings.files_max.saturating_sub(1);
        // More than one where fewer are kept than before.
        for number in last.. {
            match std::fs::remove_file(self.path(number)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                removed => removed?,
            }
        }
        for number in (0..last).rev() {
            match std::fs::rename(self.path(number), self.path(number + 1)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                renamed => renamed?,
            }
        }
        Ok(())
    }
}

/// Opens a file for appending; one that is made is for the operator's group too, whatever the umask of the service.
#[expect(clippy::disallowed_methods, reason = "files of the operator's, not of the volume's")]
fn open_to_append(path: &Path) -> io::Result<File> {
    let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let mut options = OpenOptions::new();
    options.read(true).append(true).mode(FILE_MODE).custom_flags(no_follow);
    match options.clone().create_new(true).open(path) {
        Ok(file) => file.set_permissions(Permissions::from_mode(FILE_MODE)).map(|()| file),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path),
        Err(error) => Err(error),
    }
}

/// Whether a path still leads to an open file. Nobody would read what is written to one that was moved or deleted.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.symlink_metadata()) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn cut_to_last_line(file: &mut File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let whole = end_of_last_line(file, length)?;
    if whole < length { file.set_len(whole) } else { Ok(()) }
}

fn end_of_last_line(file: &mut File, length: u64) -> io::Result<u64> {
    let mut end = length;
    while end > 0 {
        let begin = end.saturating_sub(LOOK_BYTES);
        let mut part = Vec::new();
        file.seek(SeekFrom::Start(begin))?;
        io::Read::by_ref(&mut *file).take(end - begin).read_to_end(&mut part)?;
        if let Some(place) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + place as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use node_store::logs::Entry;
    use node_types::log::{Kind, Level, Record};

    use super::*;

    fn source() -> Source {
        Source { node: "rnode1x".to_owned(), network: "testnet".to_owned() }
    }

    fn waiting(numbers: std::ops::Range<u64>) -> WaitingFor {
        let entry = |seq| {
            let record =
                Record::new(Timestamp::from_ms(seq), Level::Info, Kind::Agent, format!("record {seq}"));
            Entry { seq, record }
        };
        WaitingFor { entries: numbers.map(entry).collect(), untold: BTreeMap::new() }
    }

    fn settings(folder: &Path) -> LogFileSettings {
        LogFileSettings { bytes_max: 1000, files_max: 3, ..LogFileSettings::in_folder(folder.join("logs")) }
    }

    #[expect(clippy::disallowed_methods, reason = "the files that are written")]
    fn numbers(path: &Path) -> Vec<u64> {
        let Ok(bytes) = std::fs::read(path) else { return Vec::new() };
        let text = String::from_utf8(bytes).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.filter_map(|line| line["record"].as_u64()).collect()
    }

    #[tokio::test]
    async fn files_are_rotated_and_the_oldest_go() {
        let home = tempfile::tempdir().unwrap();
        let files = LogFiles::new(settings(home.path()), &source());
        // Each batch has more than half of a file's bytes.
        for number in 0..5 {
            files.append(waiting(number * 6..number * 6 + 6), Timestamp::EPOCH).await.unwrap();
        }
        let path = |number| files.0.path(number);
        assert_eq!(path(0).file_name().unwrap(), "resultity-testnet.jsonl");
        let found: Vec<_> = (0..4).map(|number| numbers(&path(number)).first().copied()).collect();
        assert_eq!(found, [Some(24), Some(18), Some(12), None]);
        let bytes = std::fs::metadata(path(1)).unwrap().len();
        assert!(bytes > 500 && bytes <= 1000, "{bytes}");
    }

    #[tokio::test]
    async fn what_a_crash_left_of_a_line_is_cut_off_and_what_was_lost_is_said() {
        let home = tempfile::tempdir().unwrap();
        let files = LogFiles::new(settings(home.path()), &source());
        files.append(waiting(1..3), Timestamp::EPOCH).await.unwrap();
        let path = files.0.path(0);
        drop(files);
        let torn = "x".repeat(usize::try_from(2 * LOOK_BYTES).unwrap());
        #[expect(clippy::disallowed_methods, reason = "what a crash leaves")]
        OpenOptions::new().append(true).open(&path).unwrap().write_all(torn.as_bytes()).unwrap();
        let files = LogFiles::new(settings(home.path()), &source());
        let lost = BTreeMap::from([(Level::Debug, 7)]);
        files.append(WaitingFor { untold: lost, ..waiting(3..4) }, Timestamp::EPOCH).await.unwrap();
        assert_eq!(numbers(&path), [1, 2, 3]);
        #[expect(clippy::disallowed_methods, reason = "the file that was written")]
        let text = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
        assert!(text.contains("\"lost\":{\"debug\":7}"), "{text}");
    }

    #[tokio::test]
    async fn a_file_is_for_the_group_too_whatever_the_umask_and_a_folder_that_cannot_be_used_may_be_mended() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("logs");
        #[expect(clippy::disallowed_methods, reason = "something in the way")]
        std::fs::write(&folder, "a file").unwrap();
        let files = LogFiles::new(settings(home.path()), &source());
        let error = files.append(waiting(1..2), Timestamp::EPOCH).await.unwrap_err();
        assert!(error.to_string().contains("log_file.folder"), "{error}");
        #[expect(clippy::disallowed_methods, reason = "nothing in the way any more")]
        std::fs::remove_file(&folder).unwrap();
        let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let written = files.append(waiting(1..2), Timestamp::EPOCH).await;
        rustix::process::umask(before);
        written.unwrap();
        let path = files.0.path(0);
        assert_eq!(numbers(&path), [1]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, FILE_MODE);
    }

    /// Once, records went into a file that was moved away or deleted, and counted as delivered.
    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "what other programs do to the files")]
    async fn a_file_that_somebody_moved_is_made_anew_and_one_that_was_cut_goes_on_from_its_beginning() {
        let home = tempfile::tempdir().unwrap();
        let files = LogFiles::new(settings(home.path()), &source());
        let (path, moved) = (files.0.path(0), home.path().join("moved"));
        files.append(waiting(1..2), Timestamp::EPOCH).await.unwrap();
        std::fs::rename(&path, &moved).unwrap();
        files.append(waiting(2..3), Timestamp::EPOCH).await.unwrap();
        assert_eq!((numbers(&moved), numbers(&path)), (vec![1], vec![2]));
        std::fs::remove_file(&path).unwrap();
        // Almost all that a file may hold.
        files.append(waiting(3..12), Timestamp::EPOCH).await.unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        files.append(waiting(12..14), Timestamp::EPOCH).await.unwrap();
        assert_eq!(numbers(&path), [12, 13]);
        assert!(!files.0.path(1).exists(), "it is as long as it is, not as long as it was");
    }

    #[tokio::test]
    async fn two_nodes_do_not_write_to_the_same_file() {
        let home = tempfile::tempdir().unwrap();
        let (one, other) = (
            LogFiles::new(settings(home.path()), &source()),
            LogFiles::new(settings(home.path()), &source()),
        );
        one.append(waiting(1..2), Timestamp::EPOCH).await.unwrap();
        let refused = other.append(waiting(7..8), Timestamp::EPOCH).await;
        assert!(matches!(refused, Err(FileError::InUse { .. })), "{refused:?}");
        one.append(waiting(2..3), Timestamp::EPOCH).await.unwrap();
        assert_eq!(numbers(&one.0.path(0)), [1, 2]);
        drop(one);
        other.append(waiting(7..8), Timestamp::EPOCH).await.unwrap();
    }

    #[tokio::test]
    async fn where_fewer_files_are_kept_than_before_the_others_go() {
        let home = tempfile::tempdir().unwrap();
        let many = LogFileSettings { files_max: 6, ..settings(home.path()) };
        let path = |files: &LogFiles, number| files.0.path(number);
        for (keeps, number) in (0..7).map(|number| (many.clone(), number)).chain([(settings(home.path()), 7)])
        {
            let files = LogFiles::new(keeps, &source());
            files.append(waiting(number * 6..number * 6 + 6), Timestamp::EPOCH).await.unwrap();
            let there = (0..8).filter(|number| path(&files, *number).exists()).count() as u64;
            assert_eq!(there, if number == 7 { 3 } else { (number + 1).min(6) });
        }
    }
}
