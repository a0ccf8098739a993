//! The formats of `logs.db`. A format that was released is never edited.

/// From format 0 (an empty file) on.
pub(super) const MIGRATIONS: &[&str] = &[FORMAT_1];

const FORMAT_1: &str = "
CREATE TABLE stamp (
    one INTEGER PRIMARY KEY CHECK (one = 1) DEFAULT 1,
    network TEXT NOT NULL, node TEXT NOT NULL, volume TEXT NOT NULL
) STRICT;
";
