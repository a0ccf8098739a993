//! What a disk does to what was stored on it, forced from above.

use std::{fs::File, os::unix::fs::FileExt as _, path::Path};

/// Bytes of the stored snapshot that are looked for at a time: few enough to stand in one page of the database.
const WINDOW: usize = 32;

/// Flips a bit of the snapshot in force, in the files of the database and beneath everything that reads them. Nothing of this
/// process may have the database open: closing it here would give up its locks.
pub(crate) fn flip_stored_snapshot(volume: &Path) {
    let stored: Vec<u8> = {
        let state = rusqlite::Connection::open(volume.join("state.db")).unwrap();
        state.query_row("SELECT envelope FROM snapshots WHERE slot = 0", (), |row| row.get(0)).unwrap()
    };
    let files = ["state.db", "state.db-wal"].map(|name| volume.join(name));
    let middle = stored[stored.len() / 2..].chunks_exact(WINDOW);
    let flipped = middle.into_iter().any(|window| {
        let mut found = false;
        for path in files.iter().filter(|path| path.exists()) {
            let file = File::options().read(true).write(true).open(path).unwrap();
            let bytes = std::fs::read(path).unwrap();
            for at in (0..bytes.len().saturating_sub(WINDOW)).filter(|at| bytes[*at..].starts_with(window)) {
                file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
                found = true;
            }
        }
        found
    });
    assert!(flipped, "the stored snapshot is not in {}", volume.display());
}
