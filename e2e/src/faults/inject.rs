//! Injects each kind of fault.

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
use crate::topics;

/// Twice the session timeout: by then the group has reassigned the partitions.
const PAST_SESSION: Duration = Duration::from_secs(2 * SESSION_SECONDS);
/// The worker sets `max.poll.interval.ms` to six session timeouts.
const PAST_POLL_INTERVAL: Duration = Duration::from_secs(6 * SESSION_SECONDS + 4);
/// How long the disk is full, another member holds partitions, a server is frozen.
const FAULT_TIME: Duration = Duration::from_secs(8);
/// What a worker logs when Milvus throttles its writes.
const THROTTLED: &str = "MilvusThrottled";
/// Upper limit for added partitions: each takes a directory and open files of the broker.
const MAX_PARTITIONS: u64 = 16;

/// The system that faults are injected into.
pub(super) struct Target<'a> {
    pub(super) testbed: &'a Testbed,
    pub(super) scene: &'a Scene,
    pub(super) user: &'a User,
    /// The pipeline's name.
    pub(super) name: String,
    pub(super) pipeline: Value,
    pub(super) topic: String,
    pub(super) group: String,
}

impl Target<'_> {
    /// Injects a fault and returns when the next one may follow. The text describes what happened.
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
                Ok(format!("worker {index}, which took {seconds:.1} s to exit"))
            }
            Fault::PauseWorker => self.pause(fleet, index, PAST_SESSION).await,
            Fault::PauseWorkerPastPollInterval => {
                self.pause(fleet, index, PAST_POLL_INTERVAL).await
            }
            Fault::MovePartitions => self.move_partitions().await,
            Fault::AddPartitions => self.add_partitions().await,
            Fault::Duplicate => self.duplicate(sent, random).await,
            Fault::FillDisk => fleet.fill_disks(FAULT_TIME).await,
            Fault::LimitMilvus => self.limit_milvus(fleet).await,
            Fault::Restart(service) => self.restart(service).await,
            Fault::Freeze(service) => {
                let frozen = self.testbed.service(service)?.freeze()?;
                tokio::time::sleep(FAULT_TIME).await;
                drop(frozen);
                Ok(format!("for {} s", FAULT_TIME.as_secs()))
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
        // The MongoDB stand-in has no journal: it must be stopped gracefully.
        if service == Service::MongoDb {
            server.stop().await?;
        } else {
            server.kill().await?;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        server.start().await?;
        Ok(format!("down for {:.0} s", start.elapsed().as_secs_f64()))
    }

    /// Kills the operator's process; the kubelet restarts it.
    async fn kill_operator(&self) -> Result<String> {
        // After a few kills the kubelet backs off.
        let pid = eventually("an operator to kill", Duration::from_mins(6), async || {
            self.scene.operator_process().await
        })
        .await?;
        signal(pid, rustix::process::Signal::KILL)?;
        Ok(format!("process {pid}"))
    }

    /// Raises the number of partitions by one, which the operator applies to both topics.
    async fn add_partitions(&mut self) -> Result<String> {
        let partitions = &mut self.pipeline["spec"]["source"]["kafka"]["partitions"];
        let before = partitions.as_u64().context("partitions of the pipeline")?;
        let after = (before + 1).min(MAX_PARTITIONS);
        *partitions = json!(after);
        self.scene.apply(&self.pipeline).await?;
        let raised = [self.topic.clone(), format!("{}.ranges", self.topic)];
        let servers = &self.testbed.endpoints().kafka;
        // The operator may be down, and the kubelet may delay its restart for minutes.
        eventually("the partitions", Duration::from_mins(6), async || {
            for topic in &raised {
                let found = topics::partitions(servers, topic)?.len();
                if (found as u64) < after {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await?;
        Ok(format!("{before} to {after}"))
    }

    /// Adds a group member that is assigned partitions and consumes messages without processing
    /// any, then closes it.
    async fn move_partitions(&self) -> Result<String> {
        let session = (SESSION_SECONDS * 1000).to_string();
        let member: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.testbed.endpoints().kafka)
            .set("group.id", &self.group)
            .set("enable.auto.commit", "false")
            .set("log_level", "0")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("auto.offset.reset", "earliest")
            .set("session.timeout.ms", &session)
            .create()?;
        let ranges = format!("{}.ranges", self.topic);
        member.subscribe(&[&self.topic, &ranges])?;
        // The workers finish their work in progress before partitions are revoked from them.
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
                    end = Instant::now() + FAULT_TIME;
                }
                most = most.max(held);
            }
            Ok((most, taken))
        })
        .await??;
        ensure!(most > 0, "the other member was assigned no partition");
        Ok(format!(
            "{most} partitions, {taken} messages consumed and not processed"
        ))
    }

    /// Restarts Milvus with a write limit, and later without.
    async fn limit_milvus(&self, fleet: &Fleet<'_>) -> Result<String> {
        let milvus = self.testbed.service(Service::Milvus)?;
        let before = fleet.count_logged(THROTTLED);
        milvus.kill().await?;
        milvus.start_limited().await?;
        let limited = Instant::now();
        let met = eventually("a refused write", Duration::from_secs(40), async || {
            Ok((fleet.count_logged(THROTTLED) > before).then_some(()))
        })
        .await;
        if met.is_ok() {
            tokio::time::sleep(FAULT_TIME).await;
        }
        let time = limited.elapsed().as_secs();
        milvus.kill().await?;
        milvus.start().await?;
        let refused = fleet.count_logged(THROTTLED).saturating_sub(before);
        Ok(format!("for {time} s; {refused} writes were throttled"))
    }
}
