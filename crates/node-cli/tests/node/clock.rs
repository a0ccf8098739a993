//! A node whose clock is in doubt reaches the network, takes its time, and works.

use node_store::{
    clock::{Reading, Trust},
    store::{Options, Store},
};
use node_types::{Network, Timestamp};

use crate::{
    stage::{Stage, eventually, external},
    stand_in::StandIn,
};

const MONTH_MS: u64 = 30 * 86_400_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_off_for_a_month_takes_the_networks_time_and_works() {
    let runtime = StandIn::start().await;
    let mut stage = Stage::set(external(), &format!("[runtime]\nurl = \"{}\"", runtime.url)).await;
    // Made a month ago, by what its volume knows.
    std::fs::remove_dir_all(stage.home().join("testnet")).unwrap();
    let now = node_store::clock::read().unwrap();
    let wall = Timestamp::from_ms(now.wall.ms() - MONTH_MS);
    let then = Reading { wall, boot: "a start a month ago".to_owned(), ..now };
    drop(Store::create(&Options::new(&stage.home(), Network::Testnet), None, &then).unwrap());

    stage.start_node();
    stage.active().await;
    let job = stage.submit("wait 1").await;
    assert_eq!(stage.ended(&job).await["end"], "result");
    let trusted = eventually("the time is trusted", || async {
        let mark = stage.view().binding().clock_mark().unwrap()?;
        (mark.trust == Trust::Trusted).then_some(mark.now)
    })
    .await;
    assert!(trusted.since_ms(wall) > MONTH_MS - 60_000);
    assert_eq!(stage.get("state").await["refused"], serde_json::json!({}));
}
