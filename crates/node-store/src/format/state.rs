//! The formats of `state.db`. A format that was released is never edited.

/// From format 0 (an empty file) on.
pub(super) const MIGRATIONS: &[&str] = &[FORMAT_1, FORMAT_2];

const FORMAT_1: &str = "
CREATE TABLE stamp (
    one INTEGER PRIMARY KEY CHECK (one = 1) DEFAULT 1,
    network TEXT NOT NULL, node TEXT NOT NULL, volume TEXT NOT NULL
) STRICT;

-- Damage and loss of this file: what was found, and what became of it. moved_to: NULL where the file was
-- missing. lost: NULL where nobody can tell.
CREATE TABLE incidents (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    cause TEXT NOT NULL,
    moved_to TEXT,
    saved INTEGER NOT NULL,
    lost INTEGER,
    reported INTEGER NOT NULL DEFAULT 0
) STRICT;

-- The lowest version is the pinned document itself, the others are envelopes.
CREATE TABLE keysets (
    version INTEGER PRIMARY KEY,
    document BLOB NOT NULL
) STRICT;

-- slot: 0 current, 1 previous. good: it passed its health check.
CREATE TABLE snapshots (
    slot INTEGER PRIMARY KEY CHECK (slot IN (0, 1)),
    version INTEGER NOT NULL,
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    envelope BLOB NOT NULL,
    applied_at INTEGER NOT NULL,
    good INTEGER NOT NULL
) STRICT;

-- The highest snapshot ever applied, and the last one that failed its health check.
CREATE TABLE floor (
    one INTEGER PRIMARY KEY CHECK (one = 1) DEFAULT 1,
    version INTEGER NOT NULL DEFAULT 0,
    digest BLOB,
    failed BLOB
) STRICT;
INSERT INTO floor DEFAULT VALUES;

CREATE TABLE artifacts (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    expected BLOB,
    recorded BLOB,
    -- NULL: nobody has looked; empty: it was not there
    measured BLOB,
    measured_at INTEGER,
    state TEXT NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE artifact_history (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    was TEXT,
    became TEXT NOT NULL,
    expected BLOB,
    recorded BLOB,
    measured BLOB
) STRICT;
CREATE INDEX artifact_history_of ON artifact_history (kind, name);

CREATE TABLE account (
    one INTEGER PRIMARY KEY CHECK (one = 1) DEFAULT 1,
    link TEXT NOT NULL
) STRICT;

CREATE TABLE counters (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE clock (
    one INTEGER PRIMARY KEY CHECK (one = 1) DEFAULT 1,
    mark TEXT NOT NULL
) STRICT;
";

const FORMAT_2: &str = "
-- Model files that are here, in models/, by SHA-256. pieces: BLAKE3 of each piece, 32 bytes each. mark: the seal, or
-- why there is none. scrub_next: the piece that is read again next.
CREATE TABLE files (
    sha256 BLOB PRIMARY KEY CHECK (length(sha256) = 32),
    bytes INTEGER NOT NULL,
    pieces BLOB NOT NULL CHECK (length(pieces) % 32 = 0),
    installed_at INTEGER NOT NULL,
    verified_at INTEGER NOT NULL,
    mark TEXT NOT NULL,
    scrub_next INTEGER NOT NULL DEFAULT 0,
    scrub_began_at INTEGER,
    scrub_completed_at INTEGER
) STRICT, WITHOUT ROWID;

-- Model files that are not all here yet, in models/partial/. pieces: what each piece must be, empty where that is not
-- known.
CREATE TABLE partials (
    sha256 BLOB PRIMARY KEY CHECK (length(sha256) = 32),
    bytes INTEGER NOT NULL,
    pieces BLOB NOT NULL CHECK (length(pieces) % 32 = 0),
    started_at INTEGER NOT NULL,
    touched_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How much of a piece of a partial file is on disk.
CREATE TABLE progress (
    sha256 BLOB NOT NULL CHECK (length(sha256) = 32),
    piece INTEGER NOT NULL,
    received INTEGER NOT NULL,
    PRIMARY KEY (sha256, piece)
) STRICT, WITHOUT ROWID;

-- Models that the snapshot lists or listed. files: path, SHA-256 and length of each, in JSON.
CREATE TABLE models (
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    state TEXT NOT NULL,
    since INTEGER NOT NULL,
    reason TEXT,
    files TEXT NOT NULL,
    PRIMARY KEY (name, version)
) STRICT, WITHOUT ROWID;
";
