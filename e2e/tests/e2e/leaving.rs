//! Workers that are told to leave.

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

/// Starts one worker of the pipeline, and waits until it takes messages.
async fn one_worker(cli: &WorkerCli) -> Result<Fleet<'_>> {
    let fleet = Fleet::start(cli, 1)?;
    eventually("a worker", MINUTE, async || {
        Ok(fleet.all_have_logged("ready for work").then_some(()))
    })
    .await?;
    Ok(fleet)
}

/// Waits until the messages with the numbers below `sent` are in the topic they are forwarded to.
async fn all_came(stage: &Stage, topic: &str, sent: u64, fleet: &Fleet<'_>) -> Result<()> {
    let mut missing = BTreeSet::new();
    let complete = eventually("every message", MINUTE, async || {
        missing = (0..sent).collect();
        for letter in stage.messages(topic)? {
            let message: Value = serde_json::from_str(&letter.value)?;
            missing.remove(&message["number"].as_u64().context("a number")?);
        }
        Ok(missing.is_empty().then_some(()))
    });
    let complete = complete.await;
    if complete.is_err() {
        eprintln!("{}", fleet.logs());
    }
    let number = missing.len();
    complete.with_context(|| format!("{number} of {sent} did not come: {missing:?}"))
}

#[tokio::test]
async fn no_message_is_passed_over_by_workers_that_leave_while_messages_come() -> Result<()> {
    on_stage("leave", async |stage| {
        let elsewhere = format!("{}-workflows", stage.name);
        stage.create_topic(&elsewhere).await?;
        // A foreign message is dealt with at once: there is always one that has just come.
        let foreign = json!({"action": "Forward", "topic": elsewhere});
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
            // The worker is idle, so that what comes next is taken at once.
            all_came(stage, &elsewhere, sent, &fleet).await?;
            let (tell, told) = tokio::sync::oneshot::channel();
            let begun = Instant::now();
            let sending = async {
                let mut tell = Some(tell);
                while begun.elapsed() < Duration::from_secs(3) {
                    let message = json!({"type": "workflow", "number": sent}).to_string();
                    user.send(message.as_bytes()).await?;
                    sent += 1;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    if begun.elapsed() > Duration::from_secs(1) {
                        tell.take().map(|tell| tell.send(()));
                    }
                }
                anyhow::Ok(())
            };
            let leaving = async {
                told.await.context("messages were sent")?;
                fleet.terminate(0).await
            };
            tokio::try_join!(sending, leaving)?;
            fleet.restart_dead()?;
        }
        all_came(stage, &elsewhere, sent, &fleet).await?;
        ensure!(sent > 100, "{sent} messages are few");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_server_that_no_longer_answers_is_noticed_and_holds_no_leaving_worker() -> Result<()> {
    alone_on_stage("silent", async |stage| {
        stage
            .apply_until_ready(&json!({"spec": {
                "source": {"kafka": {"sessionTimeoutSeconds": 6}},
                "scaling": {"mode": "Manual", "replicas": 0},
            }}))
            .await?;
        let user = stage.user().await?;
        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        let mut fleet = one_worker(&cli).await?;

        let silent = stage.testbed.service(Service::MongoDb)?.freeze()?;
        let first = user
            .upload_bytes("first.pdf", pdf::with_pages(&["One.", "Two."]))
            .await?;
        eventually("that the worker misses an answer", MINUTE, async || {
            Ok((fleet.count_logged("MongodbUnavailable") > 0).then_some(()))
        })
        .await?;
        drop(silent);
        stage
            .wait_tasks(std::slice::from_ref(&first), "completed", MINUTE)
            .await?;

        // A request to the object store waits for twice 30 s, the worker for less than its grace
        // of 40 s.
        let second = user.put("second.pdf", pdf::with_pages(&["Three."])).await?;
        let silent = stage.testbed.service(Service::S3)?.freeze()?;
        user.send_task(&second).await?;
        let ledger = stage
            .stores
            .mongodb
            .collection::<Document>("ingestion_ledger");
        eventually("work on the second document", MINUTE, async || {
            Ok(ledger.find_one(doc! { "_id": &second.file_id }).await?)
        })
        .await?;
        let took = fleet.terminate(0).await?;
        let unfinished = fleet.count_logged("shutdown deadline reached");
        if took > Duration::from_secs(40) || unfinished != 1 {
            eprintln!("{}", fleet.logs());
        }
        ensure!(unfinished == 1, "it left after {took:?}");
        ensure!(took < Duration::from_secs(40), "{took:?}");
        drop(silent);

        fleet.restart_dead()?;
        stage.wait_tasks(&[second], "completed", 3 * MINUTE).await?;
        let audit = stage.audit(&user).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
        ensure!(audit.vectors == 3, "{audit:?}");
        Ok(())
    })
    .await
}
