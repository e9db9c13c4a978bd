//! Workers that shut down.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use layra_e2e::cluster::eventually;
use layra_e2e::faults::fleet::Fleet;
use layra_e2e::pdf;
use layra_e2e::worker_cli::WorkerCli;
use layra_testbed::Service;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::scene::{Stage, alone_on_stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);

/// Starts one worker of the pipeline and waits until it is ready.
async fn one_worker(cli: &WorkerCli) -> Result<Fleet<'_>> {
    let fleet = Fleet::start(cli, 1)?;
    eventually("a ready worker", MINUTE, async || {
        Ok(fleet.all_have_logged("ready for work").then_some(()))
    })
    .await?;
    Ok(fleet)
}

/// Waits until all messages with numbers below `sent` have been forwarded to `topic`.
async fn wait_until_forwarded(
    stage: &Stage,
    topic: &str,
    sent: u64,
    fleet: &Fleet<'_>,
) -> Result<()> {
    let mut missing = BTreeSet::new();
    let complete = eventually("every message to be forwarded", MINUTE, async || {
        missing = (0..sent).collect();
        for record in stage.records(topic)? {
            let message: Value = serde_json::from_str(&record.value)?;
            missing.remove(&message["number"].as_u64().context("a number")?);
        }
        Ok(missing.is_empty().then_some(()))
    });
    let complete = complete.await;
    if complete.is_err() {
        eprintln!("{}", fleet.logs());
    }
    let number = missing.len();
    complete.with_context(|| format!("{number} of {sent} were not forwarded: {missing:?}"))
}

#[tokio::test]
async fn no_message_is_skipped_by_workers_that_shut_down_while_messages_arrive() -> Result<()> {
    on_stage("leave", async |stage| {
        let target = format!("{}-workflows", stage.name);
        stage.create_topic(&target).await?;
        // A foreign message takes no time: at any moment one has just arrived.
        let foreign = json!({"action": "Forward", "topic": target});
        stage
            .apply_until_ready(&json!({"spec": {
                "source": {"kafka": {"foreignMessages": foreign, "sessionTimeoutSeconds": 6}},
                "scaling": {"mode": "Manual", "replicas": 0},
            }}))
            .await?;
        let user = stage.user().await?;
        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        let mut fleet = one_worker(&cli).await?;

        let mut sent = 0;
        for _ in 0..4 {
            // The worker is idle now, so that it takes the next message at once.
            wait_until_forwarded(stage, &target, sent, &fleet).await?;
            let (start_shutdown, shutdown_started) = tokio::sync::oneshot::channel();
            let start = Instant::now();
            let sending = async {
                let mut start_shutdown = Some(start_shutdown);
                while start.elapsed() < Duration::from_secs(3) {
                    let message = json!({"type": "workflow", "number": sent}).to_string();
                    user.send(message.as_bytes()).await?;
                    sent += 1;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    if start.elapsed() > Duration::from_secs(1) {
                        start_shutdown.take().map(|sender| sender.send(()));
                    }
                }
                anyhow::Ok(())
            };
            let shutdown = async {
                shutdown_started.await.context("messages were sent")?;
                fleet.terminate(0).await
            };
            tokio::try_join!(sending, shutdown)?;
            fleet.restart_dead()?;
        }
        wait_until_forwarded(stage, &target, sent, &fleet).await?;
        ensure!(sent > 100, "{sent} messages are too few");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_frozen_server_is_reported_and_does_not_block_the_shutdown() -> Result<()> {
    alone_on_stage("frozen", async |stage| {
        stage
            .apply_until_ready(&json!({"spec": {
                "source": {"kafka": {"sessionTimeoutSeconds": 6}},
                "scaling": {"mode": "Manual", "replicas": 0},
            }}))
            .await?;
        let user = stage.user().await?;
        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        let mut fleet = one_worker(&cli).await?;

        let frozen = stage.testbed.service(Service::MongoDb)?.freeze()?;
        let first = user
            .upload_bytes("first.pdf", pdf::with_pages(&["One.", "Two."]))
            .await?;
        eventually("the worker to report MongoDB", MINUTE, async || {
            Ok((fleet.count_logged("MongodbUnavailable") > 0).then_some(()))
        })
        .await?;
        drop(frozen);
        stage
            .wait_tasks(std::slice::from_ref(&first), "completed", 2 * MINUTE)
            .await?;

        // A request to the object store takes up to twice 30 s; the worker must exit within its
        // grace period of 40 s.
        let second = user.put("second.pdf", pdf::with_pages(&["Three."])).await?;
        let frozen = stage.testbed.service(Service::S3)?.freeze()?;
        user.send_task(&second).await?;
        let ledger = stage
            .stores
            .mongodb
            .collection::<Document>("ingestion_ledger");
        eventually("the second document to be started", MINUTE, async || {
            Ok(ledger.find_one(doc! { "_id": &second.file_id }).await?)
        })
        .await?;
        let took = fleet.terminate(0).await?;
        let unfinished = fleet.count_logged("shutdown deadline reached");
        if took > Duration::from_secs(40) || unfinished != 1 {
            eprintln!("{}", fleet.logs());
        }
        ensure!(unfinished == 1, "it exited after {took:?}");
        ensure!(took < Duration::from_secs(40), "{took:?}");
        drop(frozen);

        fleet.restart_dead()?;
        stage.wait_tasks(&[second], "completed", 3 * MINUTE).await?;
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.vectors == 3, "{audit:?}");
        Ok(())
    })
    .await
}
