//! Log records in files, one JSON object a line, for whoever reads files.
//!
//! ```text
//! <folder>/resultity-<network>.jsonl      the newest records
//!          resultity-<network>.1.jsonl    those before them, and so on up to the number of files that are kept
//! ```
//!
//! A batch is appended whole and synced before it counts as delivered. What a crash left of a line is cut off when the file is
//! opened: its records come again.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use node_store::logs::WaitingFor;
use node_types::Timestamp;
use serde_json::json;

use crate::{otlp::Source, settings::LogFileSettings};

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
}

/// The files of a node.
#[derive(Debug)]
pub struct LogFiles(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: LogFileSettings,
    node: String,
    stem: String,
    /// Between two batches: where something failed it is opened anew.
    open: std::sync::Mutex<Option<Opened>>,
}

#[derive(Debug)]
struct Opened {
    file: File,
    bytes: u64,
}

impl LogFiles {
    /// Makes the folder and opens the newest file: a folder that cannot be used is said at once.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(settings: LogFileSettings, source: &Source) -> Result<Self, FileError> {
        let stem = format!("resultity-{}", source.network);
        let inner = Inner { settings, node: source.node.clone(), stem, open: std::sync::Mutex::default() };
        let opened = inner.open_newest()?;
        *inner.lock() = Some(opened);
        Ok(Self(Arc::new(inner)))
    }

    /// Appends records and says what was lost before them; synced when this returns.
    ///
    /// # Errors
    /// [`FileError`]; what was written of them is taken back as far as that can be done.
    pub async fn append(&self, waiting: WaitingFor, now: Timestamp) -> Result<(), FileError> {
        let inner = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || inner.append(&waiting, now)).await {
            Ok(written) => written,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Opened>> {
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

    fn open_newest(&self) -> Result<Opened, FileError> {
        let folder = &self.settings.folder;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(folder)
            .map_err(|source| FileError::Io { path: folder.clone(), source })?;
        let path = self.path(0);
        open_whole(&path).map_err(|source| FileError::Io { path, source })
    }

    fn append(&self, waiting: &WaitingFor, now: Timestamp) -> Result<(), FileError> {
        let mut held = self.lock();
        let mut opened = match held.take() {
            Some(opened) => opened,
            None => self.open_newest()?,
        };
        let lines = self.lines(waiting, now);
        let path = self.path(0);
        let failed = |source| FileError::Io { path: path.clone(), source };
        if opened.bytes > 0 && opened.bytes.saturating_add(lines.len() as u64) > self.settings.bytes_max {
            drop(opened);
            self.shift().map_err(failed)?;
            opened = self.open_newest()?;
        }
        let written = opened.file.write_all(&lines).and_then(|()| opened.file.sync_data());
        if let Err(error) = written {
            // The next opening cuts what is left of it; whole lines come twice then.
            let _ = opened.file.set_len(opened.bytes);
            return Err(failed(error));
        }
        opened.bytes += lines.len() as u64;
        *held = Some(opened);
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
        let gone = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        let last = self.settings.files_max.saturating_sub(1);
        gone(std::fs::remove_file(self.path(last)))?;
        for number in (0..last).rev() {
            gone(std::fs::rename(self.path(number), self.path(number + 1)))?;
        }
        File::open(&self.settings.folder)?.sync_all()
    }
}

/// Opens a file for appending after its last whole line.
#[expect(clippy::disallowed_methods, reason = "files of the operator's, not of the volume's")]
fn open_whole(path: &Path) -> io::Result<Opened> {
    let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(FILE_MODE)
        .custom_flags(no_follow)
        .open(path)?;
    let length = file.metadata()?.len();
    let whole = end_of_last_line(&mut file, length)?;
    if whole < length {
        file.set_len(whole)?;
    }
    Ok(Opened { file, bytes: whole })
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
        let files = LogFiles::open(settings(home.path()), &source()).unwrap();
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
        let files = LogFiles::open(settings(home.path()), &source()).unwrap();
        files.append(waiting(1..3), Timestamp::EPOCH).await.unwrap();
        let path = files.0.path(0);
        drop(files);
        let torn = "x".repeat(usize::try_from(2 * LOOK_BYTES).unwrap());
        #[expect(clippy::disallowed_methods, reason = "what a crash leaves")]
        OpenOptions::new().append(true).open(&path).unwrap().write_all(torn.as_bytes()).unwrap();
        let files = LogFiles::open(settings(home.path()), &source()).unwrap();
        let lost = BTreeMap::from([(Level::Debug, 7)]);
        files.append(WaitingFor { untold: lost, ..waiting(3..4) }, Timestamp::EPOCH).await.unwrap();
        assert_eq!(numbers(&path), [1, 2, 3]);
        #[expect(clippy::disallowed_methods, reason = "the file that was written")]
        let text = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
        assert!(text.contains("\"lost\":{\"debug\":7}"), "{text}");
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_said_at_once() {
        let home = tempfile::tempdir().unwrap();
        #[expect(clippy::disallowed_methods, reason = "something in the way")]
        std::fs::write(home.path().join("logs"), "a file").unwrap();
        let error = LogFiles::open(settings(home.path()), &source()).unwrap_err();
        assert!(error.to_string().contains("log_file.folder"), "{error}");
    }
}
