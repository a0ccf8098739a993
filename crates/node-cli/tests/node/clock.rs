//! A node whose clock is in doubt reaches the network, takes its time, and works.

use node_store::{
    clock::{Reading, Trust},
    store::{Options, Store},
};
use node_types::{Network, Timestamp};

use crate::{
    stage::{PATIENCE, Stage, eventually, external, figures},
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

    // Nobody confirms its time yet, and whoever monitors it is told.
    stage.stop_network().await;
    stage.start_node();
    let page = stage.page().await;
    let doubted = eventually("it knows that it is not connected", || async {
        Some(figures(&page).await).filter(|figures| figures["resultity_outage_seconds"] > 0.0)
    })
    .await;
    assert_eq!((doubted["resultity_clock_trusted"], doubted["resultity_connected"]), (0.0, 0.0));
    let ahead = doubted["resultity_clock_ahead_seconds"] - MONTH_MS as f64 / 1000.0;
    assert!((0.0..PATIENCE.as_secs_f64()).contains(&ahead), "{ahead} s more than a month ahead");
    let (_, said) = stage.command(&["status"]);
    assert!(said.contains("the clock jumped: set it right"), "{said}");
    stage.start_network().await;
    stage.active().await;
    let job = stage.submit("wait 1").await;
    assert_eq!(stage.ended(&job).await["end"], "result");
    let trusted = eventually("the time is trusted", || async {
        let mark = stage.view().binding().clock_mark().unwrap()?;
        (mark.trust == Trust::Trusted).then_some(mark.now)
    })
    .await;
    assert!(trusted.since_ms(wall) > MONTH_MS - 60_000);
    let confirmed = figures(&page).await;
    let names = ["clock_trusted", "clock_ahead_seconds", "connected", "outage_seconds"];
    let values = names.map(|name| confirmed[&format!("resultity_{name}")]);
    assert_eq!(values, [1.0, 0.0, 1.0, 0.0], "{names:?}");
    assert!(confirmed["resultity_offline_seconds_total"] >= doubted["resultity_outage_seconds"]);
    assert_eq!(stage.get("state").await["refused"], serde_json::json!({}));
}
