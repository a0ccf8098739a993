//! The formats of `jobs.db`. A format that was released is never edited.

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

-- One row: what is counted in the same commit as what it counts. seq: the last job's; kept here and not
-- by AUTOINCREMENT, which would write one page more for every job. screened: the snapshot whose rules all
-- queued jobs are known to keep.
CREATE TABLE tally (
    one INTEGER PRIMARY KEY CHECK (one = 1) DEFAULT 1,
    seq INTEGER NOT NULL DEFAULT 0,
    screened BLOB,
    jobs INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    expired INTEGER NOT NULL DEFAULT 0,
    high_water_ms INTEGER NOT NULL DEFAULT 0,
    trace_bytes INTEGER NOT NULL DEFAULT 0,
    traces_lost INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO tally DEFAULT VALUES;

-- The highest snapshot that this node ever went to apply: what the floor is when state.db is lost.
CREATE TABLE floor (
    one INTEGER PRIMARY KEY CHECK (one = 1) DEFAULT 1,
    version INTEGER NOT NULL DEFAULT 0,
    digest BLOB
) STRICT;
INSERT INTO floor DEFAULT VALUES;

-- state: 0 queued, 1 running, 2 finished, 3 failed
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 3),
    priority INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    accepted_at INTEGER NOT NULL,
    leased_at INTEGER,
    attempt INTEGER NOT NULL DEFAULT 0,
    attempts_max INTEGER NOT NULL,
    max_tokens INTEGER NOT NULL,
    mode TEXT NOT NULL,
    model_name TEXT NOT NULL,
    model_version TEXT NOT NULL,
    config BLOB NOT NULL CHECK (length(config) = 32),
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    wrapped_key BLOB NOT NULL,
    bytes INTEGER NOT NULL,
    failure TEXT,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    events TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX jobs_queue ON jobs (state, priority DESC, seq);
CREATE INDEX jobs_deadline ON jobs (expires_at);

-- Apart from jobs, so that a change of state does not write the prompt again.
-- The key is 2 * jobs.seq for the request, one more for the answer.
CREATE TABLE payloads (
    field INTEGER PRIMARY KEY,
    ciphertext BLOB NOT NULL
) STRICT;

-- Jobs that have ended: never run or sent again, whoever offers them.
CREATE TABLE settled (
    id BLOB PRIMARY KEY CHECK (length(id) = 16),
    digest BLOB NOT NULL,
    outcome TEXT NOT NULL,
    standing TEXT,
    reported INTEGER NOT NULL,
    settled_at INTEGER NOT NULL,
    forget_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX settled_unreported ON settled (settled_at) WHERE reported = 0;
CREATE INDEX settled_forget ON settled (forget_at);

-- upload: 0 not tried, 1 tried, 2 the network has it
CREATE TABLE traces (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL CHECK (length(id) = 16),
    config BLOB NOT NULL,
    ended_at INTEGER NOT NULL,
    upload INTEGER NOT NULL DEFAULT 0 CHECK (upload BETWEEN 0 AND 2),
    trace TEXT NOT NULL
) STRICT;
CREATE INDEX traces_id ON traces (id);
CREATE INDEX traces_ended ON traces (ended_at);
CREATE INDEX traces_config ON traces (config);
CREATE INDEX traces_drop ON traces (upload DESC, seq);
";

const FORMAT_2: &str = "
-- fenced: 1 while this volume is a restored copy and the network has not said yet whether the job is still this node's.
ALTER TABLE jobs ADD COLUMN fenced INTEGER NOT NULL DEFAULT 0 CHECK (fenced IN (0, 1));

-- One row while this volume is a restored copy and the network was not asked about its jobs.
CREATE TABLE fence (
    one INTEGER PRIMARY KEY CHECK (one = 1) DEFAULT 1,
    backed_up_at INTEGER NOT NULL,
    restored_at INTEGER NOT NULL
) STRICT;

-- One row once the node was moved to another machine: no Agent runs on this volume. archive: where it was written;
-- transfer: the number in its manifest.
CREATE TABLE retired (
    one INTEGER PRIMARY KEY CHECK (one = 1) DEFAULT 1,
    at INTEGER NOT NULL,
    archive TEXT NOT NULL,
    transfer TEXT NOT NULL
) STRICT;
";
