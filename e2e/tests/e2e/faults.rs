//! A short run of the fault suite; `cargo faults` is the long one.

use anyhow::{Result, ensure};
use layra_e2e::faults::{self, KINDS, Plan};

use crate::scene::Stage;

#[tokio::test]
async fn nothing_is_lost_doubled_or_left_over_while_processes_and_servers_die() -> Result<()> {
    let stage = Stage::new("faults").await?;
    let plan = Plan {
        documents: 60,
        // Each kind once.
        kills: KINDS,
        seed: 7,
        workers: 2,
    };
    let totals = faults::run(&stage.testbed, &stage.scene, &stage.stores, plan).await;
    let result = totals.and_then(|totals| {
        println!("{totals}");
        ensure!(totals.is_clean(), "{totals}");
        ensure!(
            totals.documents == 60 && totals.faults.len() == KINDS,
            "the plan was carried out: {totals}"
        );
        Ok(())
    });
    stage.finish(result).await
}
