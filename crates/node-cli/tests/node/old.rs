//! A volume that the first release left, under the Agent of this one.

use std::path::Path;

use node_store::format::Database;

use crate::{
    copies::archive,
    private::copy,
    stage::{Stage, eventually, external},
    stand_in::StandIn,
};

/// Where the formats that a database had are kept aside.
fn set_aside(volume: &Path) -> Vec<String> {
    let names =
        std::fs::read_dir(volume).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut aside: Vec<String> = names.filter(|name| name.contains(".format-")).collect();
    aside.sort();
    aside
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_starts_on_a_volume_of_the_oldest_formats_and_its_jobs_end() {
    let runtime = StandIn::start().await;
    let mut stage = Stage::set(external(), &format!("[runtime]\nurl = \"{}\"", runtime.url)).await;
    let volume = stage.home().join("testnet");
    std::fs::remove_dir_all(&volume).unwrap();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../node-store/tests/fixtures/1-1-1"), &volume);
    // The network that it knew is gone; as from a node that has met none yet, what it said is taken out. All else
    // stays: the node, its account, its jobs, its log.
    let change = |database: Database, sql: &str| {
        rusqlite::Connection::open(volume.join(database.file())).unwrap().execute_batch(sql).unwrap();
    };
    let floor = "UPDATE floor SET version = 0, digest = NULL;";
    change(Database::State, &format!("DELETE FROM keysets; DELETE FROM snapshots; {floor}"));
    change(Database::Jobs, floor);
    let formats = || {
        Database::ALL.map(|database| -> u32 {
            let raw = rusqlite::Connection::open(volume.join(database.file())).unwrap();
            raw.query_row("PRAGMA user_version", (), |row| row.get(0)).unwrap()
        })
    };
    assert_eq!(formats(), [1, 1, 1]);

    // Whoever only looks changes nothing, and says who does.
    let backup = archive(&stage, "old.backup");
    for arguments in [&["status"][..], &["jobs", "list"], &["logs"], &["backup", "create", &backup]] {
        let (code, said) = stage.command(arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {said}");
        assert!(
            said.contains("has format 1") && said.contains("start the Agent once"),
            "{arguments:?}: {said}"
        );
    }
    let (code, said) = stage.command(&["doctor"]);
    // It may find something in this machine.
    assert!([Some(0), Some(7)].contains(&code) && said.contains("state.db has format 1"), "{said}");
    assert_eq!((formats(), set_aside(&volume)), ([1, 1, 1], Vec::new()));

    stage.start_node();
    stage.active().await;
    assert_eq!(formats(), Database::ALL.map(Database::newest));
    assert_eq!(set_aside(&volume), ["jobs.db.format-1", "logs.db.format-1", "state.db.format-1"]);
    let job = stage.submit("wait 1").await;
    assert_eq!(stage.ended(&job).await["end"], "result");
    // What the old release held is known to the network now.
    let state = stage.get("state").await;
    assert_eq!(state["nodes"][0]["account"], "owner@example.org");
    eventually("its old jobs are told of, and none is held", || async {
        (stage.view().jobs().tally().unwrap().jobs == 0).then_some(())
    })
    .await;
    assert_eq!(stage.get("state").await["refused"], serde_json::json!({}));
    let (code, said) = stage.command(&["status"]);
    assert!(code == Some(0) && said.contains("takes jobs"), "{said}");

    // It ended in good order: at its next start what was kept aside has done its duty.
    assert_eq!(stage.stop_node().await, Some(0));
    stage.start_node();
    stage.active().await;
    assert_eq!(set_aside(&volume), Vec::<String>::new());
    let job = stage.submit("wait 2").await;
    assert_eq!(stage.ended(&job).await["end"], "result");
    assert_eq!(stage.stop_node().await, Some(0));
}
