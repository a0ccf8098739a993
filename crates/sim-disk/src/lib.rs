//! A disk in memory for tests.
//!
//! [`SimDisk`] is a [`node_store::disk::Disk`] and a SQLite VFS over one tree of files, so a whole
//! volume stands on it: databases, key files, lock files. It
//!
//! - writes down every change and every sync, and rebuilds from that log what a power cut at any
//!   moment could have left ([`SimDisk::image`], [`Recording`], [`Loss`]);
//! - can lie about syncs, to prove that a test would notice a missing one ([`SimDisk::lie_about`]);
//! - fails on command ([`SimDisk::fail`]) and gets full ([`SimDisk::set_capacity`]).
//!
//! # What is durable
//! The strictest reading of POSIX. A file's bytes and length are durable after a sync of that file;
//! making, renaming and removing a name are durable after a sync of its folder, and a rename between
//! two folders after a sync of both. Until then a power cut may take any of it and leave the rest,
//! in any order; a rename is one operation. Writes tear between sectors of 512 bytes, and bytes that
//! nobody wrote do not change (SQLite's "powersafe overwrite"). After a failed sync of a file,
//! what was pending stays in doubt for good, whatever a later sync says.
//!
//! SQLite's own VFS for Unix syncs the folder when a journal or WAL that it opened is first synced,
//! and after it deleted a journal; this VFS does the same, in the log as syncs of the folder.
//!
//! # What is left out
//! Hard links, following symbolic links, other users, memory-mapped databases. Time stands still
//! for SQLite. SQLite's shared memory (`-shm`) is no file here: a power cut always takes it.

mod disk;
mod faults;
mod log;
mod sites;
mod tree;
mod vfs;

pub use disk::SimDisk;
pub use faults::{Call, Fault, Lasts};
pub use log::{Image, Loss, Recording};
pub use sites::{Caller, SeenSite, SyncKind, SyncSite};
