//! A short run of the fault suite; `cargo faults` is the long one.

use anyhow::{Result, ensure};
use layra_e2e::faults::{self, Plan};

use crate::scene::Stage;

#[tokio::test]
async fn nothing_is_lost_doubled_or_left_over_while_processes_and_servers_die() -> Result<()> {
    let stage = Stage::new("faults").await?;
    let plan = Plan {
        documents: 40,
        kills: 8,
        seed: 7,
        workers: 2,
    };
    let totals = faults::run(&stage.testbed, &stage.scene, &stage.stores, plan).await;
    let result = totals.and_then(|totals| {
        println!("{totals}");
        ensure!(totals.is_clean(), "{totals}");
        ensure!(
            totals.documents == 40 && totals.kills == 8,
            "the plan was carried out: {totals}"
        );
        Ok(())
    });
    stage.finish(result).await
}
