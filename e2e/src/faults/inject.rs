//! How each thing is made to go wrong.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use layra_testbed::{Service, Testbed};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::{Value, json};

use super::fleet::{Fleet, signal};
use super::kinds::Fault;
use super::{SESSION_SECONDS, Sent};
use crate::cluster::{Scene, eventually};
use crate::layra::User;

/// Twice the session timeout: the group has given the partitions away.
const PAST_SESSION: Duration = Duration::from_secs(2 * SESSION_SECONDS);
/// The worker sets `max.poll.interval.ms` to six session timeouts.
const PAST_POLL_INTERVAL: Duration = Duration::from_secs(6 * SESSION_SECONDS + 4);
/// How long the disk is full, another member holds partitions, a server stands still.
const A_WHILE: Duration = Duration::from_secs(8);
/// What a worker logs when Milvus refuses a write for its rate.
const THROTTLED: &str = "MilvusThrottled";
/// Most partitions that a run makes: each is a directory of the broker's.
const MOST_PARTITIONS: u64 = 16;

/// What faults are done to.
pub(super) struct Target<'a> {
    pub(super) testbed: &'a Testbed,
    pub(super) scene: &'a Scene,
    pub(super) user: &'a User,
    /// The pipeline's.
    pub(super) name: String,
    pub(super) pipeline: Value,
    pub(super) topic: String,
    pub(super) group: String,
}

impl Target<'_> {
    /// Makes it go wrong. Returns what was seen of it, when the next thing may.
    pub(super) async fn inject(
        &mut self,
        fault: Fault,
        fleet: &mut Fleet<'_>,
        sent: &[Sent],
        random: &mut fastrand::Rng,
    ) -> Result<String> {
        let index = random.usize(0..fleet.size());
        match fault {
            Fault::KillWorker => {
                fleet.kill(index)?;
                Ok(format!("worker {index}"))
            }
            Fault::KillRenderer => fleet.kill_renderer(random).await,
            Fault::KillOperator => self.kill_operator().await,
            Fault::TerminateWorker => {
                let seconds = fleet.terminate(index).await?.as_secs_f64();
                Ok(format!(
                    "worker {index}, which took {seconds:.1} s to leave"
                ))
            }
            Fault::PauseWorker => self.pause(fleet, index, PAST_SESSION).await,
            Fault::PauseWorkerPastPollInterval => {
                self.pause(fleet, index, PAST_POLL_INTERVAL).await
            }
            Fault::MovePartitions => self.move_partitions().await,
            Fault::AddPartitions => self.add_partitions().await,
            Fault::Duplicate => self.duplicate(sent, random).await,
            Fault::FillDisk => fleet.fill_disks(A_WHILE).await,
            Fault::LimitMilvus => self.limit_milvus(fleet).await,
            Fault::Restart(service) => self.restart(service).await,
            Fault::Freeze(service) => {
                let frozen = self.testbed.service(service)?.freeze()?;
                tokio::time::sleep(A_WHILE).await;
                drop(frozen);
                Ok(format!("for {} s", A_WHILE.as_secs()))
            }
        }
    }

    async fn pause(&self, fleet: &Fleet<'_>, index: usize, time: Duration) -> Result<String> {
        fleet.pause(index, time).await?;
        Ok(format!("worker {index} for {} s", time.as_secs()))
    }

    async fn duplicate(&self, sent: &[Sent], random: &mut fastrand::Rng) -> Result<String> {
        let count = 3.min(sent.len());
        for _ in 0..count {
            let again = &sent[random.usize(0..sent.len())];
            self.user.send_task(&again.upload).await?;
        }
        Ok(format!("{count} tasks"))
    }

    async fn restart(&self, service: Service) -> Result<String> {
        let server = self.testbed.service(service)?;
        let start = Instant::now();
        // The MongoDB stand-in has no journal: it may only be asked to end.
        if service == Service::MongoDb {
            server.stop().await?;
        } else {
            server.kill().await?;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        server.start().await?;
        Ok(format!("away for {:.0} s", start.elapsed().as_secs_f64()))
    }

    /// Kills the operator's process; the kubelet starts another.
    async fn kill_operator(&self) -> Result<String> {
        // After a few kills the kubelet takes its time.
        let pid = eventually("an operator to kill", Duration::from_mins(6), async || {
            self.scene.operator_process().await
        })
        .await?;
        signal(pid, rustix::process::Signal::KILL)?;
        Ok(format!("process {pid}"))
    }

    /// One more partition, which the operator gives to both topics.
    async fn add_partitions(&mut self) -> Result<String> {
        let partitions = &mut self.pipeline["spec"]["source"]["kafka"]["partitions"];
        let before = partitions.as_u64().context("partitions of the pipeline")?;
        let after = (before + 1).min(MOST_PARTITIONS);
        *partitions = json!(after);
        self.scene.apply(&self.pipeline).await?;
        let topics = [self.topic.clone(), format!("{}.ranges", self.topic)];
        let consumer = self.consumer("faults-reader", &[])?;
        // The operator may be dead, and its next start held back for minutes.
        eventually("the partitions", Duration::from_mins(6), async || {
            for topic in &topics {
                let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(5))?;
                let found = metadata
                    .topics()
                    .first()
                    .map_or(0, |topic| topic.partitions().len());
                if (found as u64) < after {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await?;
        Ok(format!("{before} to {after}"))
    }

    /// A member that takes its share of the partitions, and messages, and finishes none.
    async fn move_partitions(&self) -> Result<String> {
        let session = (SESSION_SECONDS * 1000).to_string();
        let member = self.consumer(
            &self.group,
            &[
                ("partition.assignment.strategy", "cooperative-sticky"),
                ("auto.offset.reset", "earliest"),
                ("session.timeout.ms", &session),
            ],
        )?;
        let ranges = format!("{}.ranges", self.topic);
        member.subscribe(&[&self.topic, &ranges])?;
        // Until it has partitions, which the workers first have to wind up, and for a while after.
        let limit = Instant::now() + Duration::from_mins(2);
        let (most, taken) = tokio::task::spawn_blocking(move || -> Result<(usize, usize)> {
            let (mut most, mut taken) = (0, 0);
            let mut end = limit;
            while Instant::now() < end {
                if let Some(message) = member.poll(Duration::from_millis(100)) {
                    taken += usize::from(message.is_ok());
                }
                let held = member.assignment()?.count();
                if most == 0 && held > 0 {
                    end = Instant::now() + A_WHILE;
                }
                most = most.max(held);
            }
            Ok((most, taken))
        })
        .await??;
        ensure!(most > 0, "the group gave the other member no partition");
        Ok(format!(
            "{most} partitions, {taken} messages taken and not finished"
        ))
    }

    /// Milvus is restarted with a limit, and again without.
    async fn limit_milvus(&self, fleet: &Fleet<'_>) -> Result<String> {
        let milvus = self.testbed.service(Service::Milvus)?;
        let before = fleet.count_logged(THROTTLED);
        milvus.kill().await?;
        milvus.start_limited().await?;
        let limited = Instant::now();
        // Until somebody has met the limit, and for a while after.
        let met = eventually("a refused write", Duration::from_secs(40), async || {
            Ok((fleet.count_logged(THROTTLED) > before).then_some(()))
        })
        .await;
        if met.is_ok() {
            tokio::time::sleep(A_WHILE).await;
        }
        let time = limited.elapsed().as_secs();
        milvus.kill().await?;
        milvus.start().await?;
        let refused = fleet.count_logged(THROTTLED).saturating_sub(before);
        Ok(format!(
            "for {time} s; workers met the limit {refused} times"
        ))
    }

    fn consumer(&self, group: &str, settings: &[(&str, &str)]) -> Result<BaseConsumer> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.testbed.endpoints().kafka)
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("log_level", "0");
        for (name, value) in settings {
            config.set(*name, *value);
        }
        Ok(config.create()?)
    }
}
