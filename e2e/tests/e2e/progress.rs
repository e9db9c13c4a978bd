//! LAYRA's progress display, read from a real Redis.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use layra_e2e::cluster::eventually;
use layra_e2e::faults::fleet::Fleet;
use layra_e2e::layra::{Upload, User, random_id};
use layra_e2e::pdf;
use layra_e2e::timeline::stored_pages;
use layra_e2e::worker_cli::WorkerCli;
use layra_testbed::Service;
use redis::AsyncCommands;
use serde_json::json;

use crate::scene::{Stage, alone_on_stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);

/// Sends the task of an upload without initialising the progress display.
async fn send(user: &User, task_id: &str, upload: &Upload) -> Result<()> {
    let task = json!({
        "task_id": task_id,
        "username": user.name,
        "knowledge_db_id": user.knowledge_base,
        "file_meta": {
            "file_id": upload.file_id,
            "minio_filename": upload.key,
            "original_filename": upload.filename,
            "minio_url": "",
        },
    });
    user.send(task.to_string().as_bytes()).await
}

#[tokio::test]
async fn every_file_of_a_task_is_counted_and_an_expired_task_is_not_recreated() -> Result<()> {
    on_stage("progress", async |stage| {
        let patch = json!({"spec": {"scaling": {"mode": "Manual", "replicas": 0}}});
        stage.apply_until_ready(&patch).await?;
        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        let mut worker = Fleet::start(&cli, 1)?;
        let user = stage.user().await?;
        let mut redis = stage.stores.redis.clone();
        let good = pdf::with_pages(&["A good page."]);
        let encrypted = include_bytes!("encrypted.pdf").to_vec();

        let task = format!("{}_{}", user.name, random_id());
        let key = format!("task:{task}");
        let initial = [("status", "processing"), ("total", "4"), ("processed", "0")];
        let () = redis.hset_multiple(&key, &initial).await?;
        let () = redis.expire(&key, 1800).await?;
        let bad = user.put("bad.pdf", encrypted).await?;
        send(&user, &task, &bad).await?;
        let display = async |processed: &str| {
            let mut redis = stage.stores.redis.clone();
            eventually("the progress display", 2 * MINUTE, async || {
                let now: HashMap<String, String> = redis.hgetall(&key).await?;
                Ok((now["processed"] == processed).then_some(now))
            })
            .await
        };
        let failed = display("1").await?;
        ensure!(failed["status"] == "failed", "{failed:?}");
        let invalid = json!({"task_id": task, "username": user.name, "file_meta": 7});
        user.send(invalid.to_string().as_bytes()).await?;
        let both = display("2").await?;
        ensure!(
            both["message"].contains("`file_meta` must be an object"),
            "{both:?}"
        );
        for name in ["first.pdf", "second.pdf"] {
            let upload = user.put(name, good.clone()).await?;
            send(&user, &task, &upload).await?;
        }
        let all = display("4").await?;
        ensure!(all["status"] == "failed", "not overwritten: {all:?}");
        ensure!(all["message"] == both["message"], "{all:?}");
        ensure!(all.len() == 4, "no field that LAYRA does not know: {all:?}");
        let left: i64 = redis.ttl(&key).await?;
        ensure!(
            (1..=1800).contains(&left),
            "the time to live stays as LAYRA set it: {left}"
        );

        let expired = format!("{}_{}", user.name, random_id());
        let upload = user.put("late.pdf", good).await?;
        send(&user, &expired, &upload).await?;
        eventually("the page of the late file", 2 * MINUTE, async || {
            let pages = stored_pages(&stage.stores, &user.knowledge_base).await?;
            Ok((pages == 3).then_some(()))
        })
        .await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let was_recreated: bool = redis.exists(format!("task:{expired}")).await?;
        ensure!(
            !was_recreated,
            "without a time to live it would stay forever"
        );
        worker.stop().await
    })
    .await
}

/// Starts a worker while Redis is away, and sends it a second document.
async fn work_without_redis(stage: &Stage, user: &User, first: &Upload) -> Result<()> {
    let one = json!({"spec": {"scaling": {"mode": "Manual", "replicas": 1}}});
    stage.scene.apply(&stage.pipeline(&one)).await?;
    send(user, &first.task_id, first).await?;
    let pages = async |expected: u64| {
        eventually("the pages", 3 * MINUTE, async || {
            let pages = stored_pages(&stage.stores, &user.knowledge_base).await?;
            Ok((pages == expected).then_some(()))
        })
        .await
    };
    pages(1).await?;
    let second = user
        .put("second.pdf", pdf::with_pages(&["Two.", "Three."]))
        .await?;
    let sent = Instant::now();
    send(user, &second.task_id, &second).await?;
    pages(3).await?;
    stage.wait_until_processed().await?;
    let took = sent.elapsed();
    ensure!(took < Duration::from_secs(15), "{took:?} without Redis");
    Ok(())
}

#[tokio::test]
async fn a_worker_starts_and_works_while_redis_is_away() -> Result<()> {
    alone_on_stage("no-redis", async |stage| {
        let none = json!({"spec": {"scaling": {"mode": "Manual", "replicas": 0}}});
        stage.apply_until_ready(&none).await?;
        let user = stage.user().await?;
        let first = user.put("first.pdf", pdf::with_pages(&["One."])).await?;
        let key = format!("task:{}", first.task_id);
        let initial = [("status", "processing"), ("total", "1"), ("processed", "0")];
        let mut redis = stage.stores.redis.clone();
        let () = redis.hset_multiple(&key, &initial).await?;
        let () = redis.expire(&key, 1800).await?;

        let server = stage.testbed.service(Service::Redis)?;
        server.stop().await?;
        let worked = work_without_redis(stage, &user, &first).await;
        server.start().await?;
        worked?;
        eventually("the count that was kept", MINUTE, async || {
            let mut redis = stage.stores.redis.clone();
            let now: HashMap<String, String> = redis.hgetall(&key).await?;
            Ok((now["processed"] == "1" && now["status"] == "completed").then_some(()))
        })
        .await
    })
    .await
}
