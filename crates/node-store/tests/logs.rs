//! Logs: written, found, sent once, never over their limit, and every loss counted.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod common;

use std::{collections::BTreeMap, path::Path};

use common::{NOW, create, cutoff, id, open, volume_folder};
use node_store::logs::{
    BATCH_BYTES_MAX, BYTES_MAX_LOWEST, Batch, Logs, NETWORK, Query, Target, TargetState, WAITING_MAX,
    history_bytes, wal_bytes_max,
};
use node_types::{
    Digest, Timestamp,
    log::{FIELDS_BYTES_MAX, Kind, Level, MESSAGE_BYTES_MAX, Record},
};

const MIB: u64 = 1 << 20;

fn record(number: u64, level: Level) -> Record {
    Record::new(NOW.plus_ms(number), level, Kind::Agent, format!("record {number}"))
}

fn shown(logs: &Logs, query: &Query) -> Vec<String> {
    logs.view().query(query).unwrap().into_iter().map(|entry| entry.record.message).collect()
}

fn bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |data| data.len())
}

fn seal_all(logs: &Logs) -> Vec<Batch> {
    std::iter::from_fn(|| logs.seal().wait().unwrap()).collect()
}

fn in_steps(step: impl Fn() -> u64) -> Vec<u64> {
    std::iter::from_fn(|| Some(step()).filter(|rows| *rows > 0)).collect()
}

#[test]
fn records_are_found_by_time_level_kind_job_and_text() {
    let home = tempfile::tempdir().unwrap();
    let logs = create(&volume_folder(&home)).logs(MIB);
    for (number, level) in (0..5).zip(Level::ALL) {
        logs.append(record(number, level));
    }
    let mut special = record(9, Level::Warn);
    special.job = Some(id(7));
    special.kind = Kind::Runtime;
    special.fields = BTreeMap::from([("error".to_owned(), "Out Of Memory".into())]);
    logs.append(special.clone());
    logs.flush().wait().unwrap();
    assert_eq!(
        logs.view().query(&Query { job: Some(id(7)), ..Query::default() }).unwrap()[0].record,
        special
    );
    assert_eq!(shown(&logs, &Query { kind: Some(Kind::Runtime), ..Query::default() }), ["record 9"]);
    assert_eq!(shown(&logs, &Query { text: Some("out of m".into()), ..Query::default() }), ["record 9"]);
    let high = Query { level_min: Some(Level::Warn), ..Query::default() };
    assert_eq!(shown(&logs, &high), ["record 3", "record 4", "record 9"]);
    let (since, until) = (Some(NOW.plus_ms(1)), Some(NOW.plus_ms(3)));
    assert_eq!(shown(&logs, &Query { since, until, ..Query::default() }), ["record 1", "record 2"]);
    assert_eq!(shown(&logs, &Query { limit: Some(2), ..Query::default() }), ["record 4", "record 9"]);
    assert_eq!(shown(&logs, &Query { after: Some(5), ..Query::default() }), ["record 9"]);
}

#[test]
fn batches_form_a_chain_without_gaps_and_are_kept_until_acknowledged() {
    let home = tempfile::tempdir().unwrap();
    let folder = volume_folder(&home);
    let logs = create(&folder).logs(MIB);
    assert_eq!(logs.seal().wait().unwrap(), None);
    let mut sealed = Vec::new();
    for number in 0..3 {
        logs.append(record(number, Level::Info));
        sealed.push(logs.seal().wait().unwrap().unwrap());
    }
    logs.append(record(3, Level::Info));
    logs.close().unwrap();
    let logs = open(&folder).logs(MIB);
    assert_eq!(logs.view().batches(10).unwrap(), sealed);
    let mut prev = Digest::from_bytes([0; 32]);
    for (number, batch) in (1..).zip(&sealed) {
        assert_eq!((batch.header.seq, batch.header.prev), (number, prev));
        assert_eq!(batch.header.payload, Digest::of(batch.payload.as_ref().unwrap()));
        assert_eq!(batch.records().unwrap(), [record(number - 1, Level::Info)]);
        prev = Digest::of(batch.header_json.as_bytes());
    }
    assert_eq!(logs.acknowledge(2).wait().unwrap(), 2 + 2);
    assert_eq!(logs.acknowledge(2).wait().unwrap(), 0);
    assert_eq!(logs.view().batches(10).unwrap(), sealed[2..]);
    assert_eq!(shown(&logs, &Query::default()), ["record 2", "record 3"]);
    let next = logs.seal().wait().unwrap().unwrap();
    assert_eq!((next.header.seq, next.header.prev), (4, prev));
}

#[test]
fn the_limit_is_hard_the_lowest_and_oldest_go_first_and_every_loss_is_told() {
    let home = tempfile::tempdir().unwrap();
    let folder = volume_folder(&home);
    let logs = create(&folder).logs(MIB);
    let total = 20_000;
    for number in 0..total {
        let level = if number % 20 == 0 { Level::Error } else { Level::Debug };
        let mut long = record(number, level);
        long.message += &"x".repeat(300);
        logs.append(long);
        if number % 1000 == 0 {
            logs.flush().wait().unwrap();
            assert!(bytes(&folder.join("logs.db")) <= MIB);
        }
    }
    logs.flush().wait().unwrap();
    let left = logs.view().query(&Query::default()).unwrap();
    let lost = logs.view().losses().unwrap();
    assert_eq!(left.len() as u64 + lost.values().sum::<u64>(), total);
    // All errors fit the limit; debug records went, and of those the newest are left.
    assert_eq!(lost.get(&Level::Error), None);
    let debug: Vec<u64> =
        left.iter().filter(|entry| entry.record.level == Level::Debug).map(|entry| entry.seq).collect();
    assert!(!debug.is_empty() && debug[0] > total - 2 * debug.len() as u64, "{}", debug.len());
    let batch = logs.seal().wait().unwrap().unwrap();
    assert_eq!(batch.header.lost, lost);
    assert!(logs.seal().wait().unwrap().is_none_or(|next| next.header.lost.is_empty()));
    logs.close().unwrap();
    assert_eq!(open(&folder).logs(MIB).view().losses().unwrap(), lost, "the count survives a restart");
}

/// The longest records, as fast as they can be made: once, a single commit took them all and left hundreds
/// of megabytes in the write-ahead log.
#[test]
fn a_flood_of_long_records_keeps_both_files_within_their_bounds() {
    let home = tempfile::tempdir().unwrap();
    let folder = volume_folder(&home);
    let logs = create(&folder).logs(4 * MIB);
    let total = 6 * 4 * MIB * 10 / MESSAGE_BYTES_MAX as u64;
    let (mut file_max, mut log_max) = (0, 0);
    for number in 0..total {
        let mut long = record(number, Level::Info);
        long.message = "x".repeat(MESSAGE_BYTES_MAX);
        logs.append(long);
        if number % 500 == 0 {
            logs.flush().wait().unwrap();
        }
        if number % 100 == 0 {
            file_max = file_max.max(bytes(&folder.join("logs.db")));
            log_max = log_max.max(bytes(&folder.join("logs.db-wal")));
        }
    }
    logs.flush().wait().unwrap();
    file_max = file_max.max(bytes(&folder.join("logs.db")));
    log_max = log_max.max(bytes(&folder.join("logs.db-wal")));
    assert!(file_max <= 4 * MIB, "{file_max}");
    assert!(log_max <= wal_bytes_max(4 * MIB), "{log_max}");
    let left = logs.view().query(&Query::default()).unwrap().len() as u64;
    assert_eq!(left + logs.view().losses().unwrap().values().sum::<u64>(), total);
    assert!(left * MESSAGE_BYTES_MAX as u64 > 2 * MIB, "no more is dropped than must be: {left}");
}

#[test]
fn what_is_acknowledged_gives_its_space_back_to_the_disk() {
    let home = tempfile::tempdir().unwrap();
    let folder = volume_folder(&home);
    let logs = create(&folder).logs(64 * MIB);
    for number in 0..8000 {
        let mut long = record(number, Level::Info);
        long.message += &"x".repeat(1000);
        logs.append(long);
        if number % 1000 == 0 {
            // All of them are more than may wait in memory.
            logs.flush().wait().unwrap();
        }
    }
    let batches = seal_all(&logs);
    let raw =
        |batch: &Batch| zstd::decode_all(batch.payload.as_ref().unwrap().as_slice()).unwrap().len() as u64;
    assert!(batches.len() > 1 && batches.iter().all(|batch| raw(batch) <= BATCH_BYTES_MAX));
    logs.close().unwrap();
    let full = bytes(&folder.join("logs.db"));
    assert!(full > 8 * MIB, "{full}");
    let logs = open(&folder).logs(64 * MIB);
    let count = batches.len() as u64;
    let steps: Vec<_> = in_steps(|| logs.acknowledge(count).wait().unwrap());
    assert_eq!(steps.iter().sum::<u64>(), 8000 + count);
    assert!(steps.len() > 8, "{steps:?}");
    logs.close().unwrap();
    let empty = bytes(&folder.join("logs.db"));
    assert!(empty < MIB / 2, "{empty} of {full} bytes are left");
}

#[test]
fn space_goes_back_while_the_volume_is_open() {
    let home = tempfile::tempdir().unwrap();
    let folder = volume_folder(&home);
    let logs = create(&folder).logs(64 * MIB);
    for number in 0..5000 {
        let mut long = record(number, Level::Info);
        long.message += &"x".repeat(1000);
        logs.append(long);
    }
    let batches = seal_all(&logs);
    let both = || bytes(&folder.join("logs.db")) + bytes(&folder.join("logs.db-wal"));
    let full = both();
    assert!(full > 5 * MIB, "{full}");
    let count = batches.len() as u64;
    let rows: u64 = in_steps(|| logs.acknowledge(count).wait().unwrap()).iter().sum();
    assert_eq!(rows, 5000 + count);
    // The writer truncates its log a second after a deletion.
    for _ in 0..100 {
        if both() < MIB / 2 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert!(both() < MIB / 2, "{} of {full} bytes are left", both());
}

/// Who looks at the log finds what the network has, too: up to a share of the limit, the newest of it, and never at the cost of
/// what somebody is owed.
#[test]
fn of_what_everybody_has_the_newest_stays_where_the_history_is_kept() {
    let home = tempfile::tempdir().unwrap();
    let folder = volume_folder(&home);
    let logs = create(&folder).logs(4 * MIB);
    logs.keep_history(true);
    logs.append(record(0, Level::Info));
    let batch = logs.seal().wait().unwrap().unwrap();
    in_steps(|| logs.acknowledge(batch.header.seq).wait().unwrap());
    assert_eq!(shown(&logs, &Query::default()), ["record 0"]);
    assert!(logs.view().batches(10).unwrap().is_empty(), "it is not sent again");
    assert_eq!(logs.seal().wait().unwrap(), None, "nor put into another batch");
    logs.set_targets(vec![target("file", true)]).wait().unwrap();
    assert_eq!(waiting(&logs, "file"), Vec::<String>::new(), "nor owed to who comes later");
    logs.set_targets(Vec::new()).wait().unwrap();

    let total = 8000;
    for number in 1..=total {
        let mut long = record(number, Level::Info);
        long.message += &" x".repeat(100);
        logs.append(long);
        if number % 500 == 0 {
            let last = seal_all(&logs).pop().unwrap();
            in_steps(|| logs.acknowledge(last.header.seq).wait().unwrap());
            let kept = logs.view().query(&Query::default()).unwrap();
            assert_eq!(kept.last().unwrap().seq, number + 1);
            let first = kept[0].seq;
            assert!(kept.iter().map(|entry| entry.seq).eq(first..=number + 1), "the newest, without a gap");
            assert!(bytes(&folder.join("logs.db")) <= 2 * history_bytes(4 * MIB));
        }
    }
    let kept = logs.view().query(&Query::default()).unwrap();
    assert!(kept[0].seq > 1, "the oldest went");
    assert!(logs.view().losses().unwrap().is_empty(), "nobody lost anything");
    let (_, waiting) = (logs.close().unwrap(), open(&folder).logs(4 * MIB));
    assert_eq!(
        waiting.view().query(&Query::default()).unwrap().len(),
        kept.len(),
        "a restart changes nothing"
    );
    // Without the history they go with the next that is acknowledged.
    waiting.append(record(0, Level::Info));
    let last = waiting.seal().wait().unwrap().unwrap();
    in_steps(|| waiting.acknowledge(last.header.seq).wait().unwrap());
    assert_eq!(shown(&waiting, &Query::default()), Vec::<String>::new());
}

#[test]
fn another_chain_tells_all_that_the_network_does_not_have_and_counts_what_nobody_has() {
    let home = tempfile::tempdir().unwrap();
    let folder = volume_folder(&home);
    let logs = create(&folder).logs(MIB);
    for number in 0..4 {
        logs.append(record(number, if number == 1 { Level::Warn } else { Level::Info }));
        logs.seal().wait().unwrap().unwrap();
    }
    let old = logs.view().batches(1).unwrap().remove(0).header.chain;
    in_steps(|| logs.acknowledge(1).wait().unwrap());
    // The time to live takes one that stands in a batch: it is lost only if that batch is.
    in_steps(|| logs.expire(cutoff(NOW.plus_ms(2))).wait().unwrap());
    assert!(logs.view().losses().unwrap().is_empty());
    assert_eq!(in_steps(|| logs.begin_chain_anew().wait().unwrap()), [3]);
    assert!(logs.view().batches(10).unwrap().is_empty());
    let batch = logs.seal().wait().unwrap().unwrap();
    assert_ne!(batch.header.chain, old);
    assert_eq!((batch.header.seq, batch.header.prev), (1, Digest::from_bytes([0; 32])));
    assert_eq!(batch.records().unwrap(), [record(2, Level::Info), record(3, Level::Info)]);
    assert_eq!(batch.header.lost, BTreeMap::from([(Level::Warn, 1)]));
    assert_eq!(logs.seal().wait().unwrap(), None);
}

/// A header outlives its payload, so that the chain has no gap: without a bound, a node that is offline for
/// long would fill its limit with headers.
#[test]
fn no_more_batches_are_sealed_when_unacknowledged_headers_take_their_share() {
    let home = tempfile::tempdir().unwrap();
    let logs = create(&volume_folder(&home)).logs(BYTES_MAX_LOWEST);
    let mut sealed = 0;
    for number in 0..200 {
        logs.append(record(number, Level::Info));
        sealed += u64::from(logs.seal().wait().unwrap().is_some());
    }
    assert_eq!(sealed, BYTES_MAX_LOWEST / 8 / 512);
    assert_eq!(logs.view().losses().unwrap(), BTreeMap::new());
    logs.acknowledge(sealed).wait().unwrap();
    let next = logs.seal().wait().unwrap().unwrap();
    assert_eq!(next.header.seq, sealed + 1);
    assert_eq!(next.header.records, BTreeMap::from([(Level::Info, 200 - sealed)]));
}

#[test]
fn records_that_time_out_before_they_are_sent_are_counted() {
    let home = tempfile::tempdir().unwrap();
    let logs = create(&volume_folder(&home)).logs(MIB);
    logs.append(record(0, Level::Info));
    logs.seal().wait().unwrap();
    logs.append(record(1, Level::Warn));
    logs.append(record(2, Level::Warn));
    assert_eq!(logs.expire(cutoff(NOW.plus_ms(2))).wait().unwrap(), 2);
    assert_eq!(logs.view().losses().unwrap(), BTreeMap::from([(Level::Warn, 1)]));
    assert_eq!(shown(&logs, &Query::default()), ["record 2"]);
}

#[test]
fn what_is_too_long_is_cut_and_says_so() {
    let home = tempfile::tempdir().unwrap();
    let logs = create(&volume_folder(&home)).logs(MIB);
    let mut long = record(0, Level::Info);
    long.message = "é".repeat(MESSAGE_BYTES_MAX);
    long.fields = BTreeMap::from([("a".to_owned(), "b".repeat(FIELDS_BYTES_MAX).into())]);
    logs.append(long);
    logs.flush().wait().unwrap();
    let kept = logs.view().query(&Query::default()).unwrap().remove(0).record;
    assert_eq!(kept.message.len(), MESSAGE_BYTES_MAX);
    assert!(kept.fields.contains_key("fields_dropped"));
}

/// The logs' writer is stopped by damage to its file; the jobs do not notice.
#[test]
fn a_damaged_log_never_stops_a_job() {
    let home = tempfile::tempdir().unwrap();
    let folder = volume_folder(&home);
    let volume = create(&folder);
    let (logs, jobs) = (volume.logs(MIB), common::jobs(&volume));
    for number in 0..5000 {
        logs.append(record(number, Level::Info));
    }
    logs.close().unwrap();
    drop((volume, jobs));
    let path = folder.join("logs.db");
    let damage = ["if=/dev/urandom".to_owned(), format!("of={}", path.display())];
    let dd = std::process::Command::new("dd")
        .args(damage)
        .args(["bs=4096", "seek=20", "count=60", "conv=notrunc", "status=none"])
        .status();
    assert!(dd.unwrap().success());
    let volume = open(&folder);
    let (logs, jobs) = (volume.logs(MIB), common::jobs(&volume));
    assert!(logs.view().query(&Query::default()).is_err());
    for number in 0..5000 {
        logs.append(record(number, Level::Info));
    }
    assert!(logs.flush().wait().is_err());
    assert!(volume.stopped(node_store::format::Database::Logs).is_some());
    let accepted = jobs.accept(&common::job(1), NOW).wait().unwrap();
    assert_eq!(accepted, node_store::jobs::Accepted::New);
    logs.append(record(1, Level::Info));
    assert!(logs.flush().wait().is_err());
    assert!(logs.expire(cutoff(Timestamp::MAX)).wait().is_err() && WAITING_MAX > 5000);
}

fn target(name: &str, required: bool) -> Target {
    Target { name: name.to_owned(), required }
}

fn state(logs: &Logs, name: &str) -> TargetState {
    logs.view().targets().unwrap().into_iter().find(|state| state.name == name).unwrap()
}

fn waiting(logs: &Logs, name: &str) -> Vec<String> {
    let waiting = logs.view().waiting(name, MIB).unwrap().unwrap();
    waiting.entries.into_iter().map(|entry| entry.record.message).collect()
}

/// A volume with the targets given and the records 0 to `count` - 1.
fn with_targets(home: &tempfile::TempDir, targets: Vec<Target>, count: u64) -> Logs {
    let logs = create(&volume_folder(home)).logs(MIB);
    logs.set_targets(targets).wait().unwrap();
    for number in 0..count {
        logs.append(record(number, if number % 2 == 0 { Level::Info } else { Level::Warn }));
    }
    logs.flush().wait().unwrap();
    logs
}

#[test]
fn a_record_is_held_until_the_network_and_every_required_target_has_it() {
    let home = tempfile::tempdir().unwrap();
    let logs = with_targets(&home, vec![target("file", true), target("otlp", true)], 4);
    let batch = logs.seal().wait().unwrap().unwrap();
    assert_eq!(logs.acknowledge(batch.header.seq).wait().unwrap(), 1, "the batch itself");
    assert_eq!(logs.delivered("file", 3, BTreeMap::new(), 0).wait().unwrap(), 0);
    assert_eq!(shown(&logs, &Query::default()).len(), 4);
    assert_eq!(logs.delivered("otlp", 2, BTreeMap::new(), 0).wait().unwrap(), 2);
    assert_eq!(shown(&logs, &Query::default()), ["record 2", "record 3"]);
    assert_eq!((waiting(&logs, "file"), waiting(&logs, "otlp").len()), (vec!["record 3".to_owned()], 2));
    logs.delivered("file", 4, BTreeMap::new(), 0).wait().unwrap();
    assert_eq!(logs.delivered("otlp", 4, BTreeMap::new(), 0).wait().unwrap(), 2);
    assert!(shown(&logs, &Query::default()).is_empty());
    for name in ["file", "otlp", NETWORK] {
        assert_eq!((state(&logs, name).lost, state(&logs, name).waiting), (BTreeMap::new(), 0), "{name}");
    }
}

#[test]
fn a_target_that_is_not_required_is_offered_each_record_once_and_what_it_misses_is_counted_for_it() {
    let home = tempfile::tempdir().unwrap();
    let logs = with_targets(&home, vec![target("otlp", false)], 4);
    let batch = logs.seal().wait().unwrap().unwrap();
    logs.acknowledge(batch.header.seq).wait().unwrap();
    assert_eq!(shown(&logs, &Query::default()).len(), 4, "it was not offered them yet");
    assert_eq!(logs.tried("otlp", 3).wait().unwrap(), 3);
    assert_eq!(waiting(&logs, "otlp"), ["record 3"]);
    let lost = BTreeMap::from([(Level::Info, 2), (Level::Warn, 1)]);
    assert_eq!(state(&logs, "otlp").lost, lost);
    assert!(logs.view().losses().unwrap().is_empty(), "the network has them");

    assert_eq!(logs.view().waiting("otlp", MIB).unwrap().unwrap().untold, lost);
    let told = BTreeMap::from([(Level::Info, 2)]);
    logs.delivered("otlp", 4, told, 0).wait().unwrap();
    let left = logs.view().waiting("otlp", MIB).unwrap().unwrap();
    assert_eq!((left.entries.len(), left.untold), (0, BTreeMap::from([(Level::Warn, 1)])));
    assert_eq!(state(&logs, "otlp").lost, lost, "what was told was lost all the same");
}

#[test]
fn what_a_target_refuses_is_lost_for_it_alone_and_what_it_rejects_is_counted() {
    let home = tempfile::tempdir().unwrap();
    let logs = with_targets(&home, vec![target("otlp", true)], 4);
    logs.given_up("otlp", 2).wait().unwrap();
    logs.delivered("otlp", 4, BTreeMap::new(), 1).wait().unwrap();
    let state = state(&logs, "otlp");
    assert_eq!(state.lost, BTreeMap::from([(Level::Info, 1), (Level::Warn, 1)]));
    assert_eq!((state.rejected, state.cursor, state.waiting), (1, 4, 0));
    assert_eq!(shown(&logs, &Query::default()).len(), 4, "the network does not have them");
    assert!(logs.view().losses().unwrap().is_empty());
}

#[test]
fn a_target_that_is_taken_away_holds_nothing_and_a_new_one_begins_with_what_is_there() {
    let home = tempfile::tempdir().unwrap();
    let folder = volume_folder(&home);
    let logs = with_targets(&home, vec![target("otlp", true)], 4);
    let batch = logs.seal().wait().unwrap().unwrap();
    logs.acknowledge(batch.header.seq).wait().unwrap();
    logs.delivered("otlp", 1, BTreeMap::new(), 0).wait().unwrap();
    logs.close().unwrap();
    let logs = open(&folder).logs(MIB);
    assert_eq!(state(&logs, "otlp").cursor, 1, "cursors survive a restart");
    logs.set_targets(vec![target("otlp", true), target("file", true)]).wait().unwrap();
    assert_eq!(waiting(&logs, "file"), ["record 1", "record 2", "record 3"]);
    assert_eq!(state(&logs, "file").waiting, 3, "what went before it came is not waited for");
    assert_eq!(waiting(&logs, "otlp"), ["record 1", "record 2", "record 3"]);
    logs.set_targets(Vec::new()).wait().unwrap();
    assert!(shown(&logs, &Query::default()).is_empty(), "nobody is owed them");
    assert_eq!(logs.view().waiting("otlp", MIB).unwrap(), None);
    let names: Vec<_> = logs.view().targets().unwrap().into_iter().map(|state| state.name).collect();
    assert_eq!(names, [NETWORK]);
}

#[test]
fn the_limit_and_the_time_to_live_hold_for_targets_too_and_their_losses_are_their_own() {
    let home = tempfile::tempdir().unwrap();
    let logs = create(&volume_folder(&home)).logs(BYTES_MAX_LOWEST);
    logs.set_targets(vec![target("otlp", true)]).wait().unwrap();
    let total = 2_000;
    for number in 0..total {
        let mut long = record(number, Level::Debug);
        long.message += &"x".repeat(300);
        logs.append(long);
        if number % 100 == 99 {
            logs.flush().wait().unwrap();
            for batch in seal_all(&logs) {
                while logs.acknowledge(batch.header.seq).wait().unwrap() > 0 {}
            }
        }
    }
    let left = logs.view().query(&Query::default()).unwrap();
    assert!(logs.view().losses().unwrap().is_empty(), "the network has all of them");
    let lost = state(&logs, "otlp").lost[&Level::Debug];
    assert!(lost > 0);
    assert_eq!(left.len() as u64 + lost, total);
    while logs.expire(cutoff(Timestamp::MAX)).wait().unwrap() > 0 {}
    assert_eq!(state(&logs, "otlp").lost, BTreeMap::from([(Level::Debug, total)]));
    assert!(logs.view().losses().unwrap().is_empty());
}
