//! The formats of `logs.db`. A format that was released is never edited.

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

-- level: 0 trace to 4 error
CREATE TABLE records (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    level INTEGER NOT NULL CHECK (level BETWEEN 0 AND 4),
    kind TEXT NOT NULL,
    job BLOB,
    message TEXT NOT NULL,
    fields TEXT NOT NULL
) STRICT;
CREATE INDEX records_level ON records (level, seq);
CREATE INDEX records_job ON records (job) WHERE job IS NOT NULL;

-- Sealed and not yet acknowledged. last: the last record in it. payload: NULL where the limit took it; the header stays, so that the
-- chain has no gap.
CREATE TABLE batches (
    seq INTEGER PRIMARY KEY,
    header TEXT NOT NULL,
    last INTEGER NOT NULL,
    payload BLOB
) STRICT;

-- One row. id: this file's chain of batches; next: the number of the next batch; prev: the digest of the
-- last one's header; sealed: the last record that is in a batch; drained: how often what waited in memory
-- was written.
CREATE TABLE chain (
    one INTEGER PRIMARY KEY CHECK (one = 1) DEFAULT 1,
    id BLOB NOT NULL DEFAULT (randomblob(16)),
    next INTEGER NOT NULL DEFAULT 1,
    prev BLOB NOT NULL DEFAULT (zeroblob(32)),
    sealed INTEGER NOT NULL DEFAULT 0,
    drained INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO chain DEFAULT VALUES;

-- Records lost, by level: ever, and those that no batch has told of yet.
CREATE TABLE losses (
    level INTEGER PRIMARY KEY CHECK (level BETWEEN 0 AND 4),
    ever INTEGER NOT NULL DEFAULT 0,
    untold INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO losses (level) VALUES (0), (1), (2), (3), (4);
";

const FORMAT_2: &str = "
-- Whoever gets records, and how far each is. cursor: the last record that it has, or that was given up for it; tried: the last
-- one that it was offered; rejected: records that it took a batch without, ever. The network has what was acknowledged; its losses
-- stand in `losses`.
CREATE TABLE targets (
    name TEXT NOT NULL PRIMARY KEY,
    required INTEGER NOT NULL CHECK (required BETWEEN 0 AND 1),
    cursor INTEGER NOT NULL DEFAULT 0,
    tried INTEGER NOT NULL DEFAULT 0,
    rejected INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
INSERT INTO targets (name, required) VALUES ('network', 1);

-- Records that a target will never have, by level: ever, and those that it was not told of yet.
CREATE TABLE target_losses (
    target TEXT NOT NULL,
    level INTEGER NOT NULL CHECK (level BETWEEN 0 AND 4),
    ever INTEGER NOT NULL DEFAULT 0,
    untold INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (target, level)
) STRICT, WITHOUT ROWID;
";
