//! Injects each kind of fault.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use layra_testbed::{Service, Testbed};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;

use super::documents::Sent;
use super::fleet::{Fleet, signal};
use super::kinds::Fault;
use super::{PAGE_SECONDS, SESSION_SECONDS};
use crate::cluster::{Scene, eventually};
use crate::layra::User;
use crate::worker_cli::WorkerCli;

/// Twice the session timeout: by then the group has reassigned the partitions.
const PAST_SESSION: Duration = Duration::from_secs(2 * SESSION_SECONDS);
/// The worker sets `max.poll.interval.ms` to six session timeouts.
const PAST_POLL_INTERVAL: Duration = Duration::from_secs(6 * SESSION_SECONDS + 4);
/// Longer than a page may take.
const PAST_PAGE_LIMIT: Duration = Duration::from_secs(PAGE_SECONDS + 4);
/// How long the disk is full, another member holds partitions, a server is frozen.
pub(super) const FAULT_TIME: Duration = Duration::from_secs(8);
/// What a worker logs when Milvus throttles its writes.
const THROTTLED: &str = "MilvusThrottled";

/// The system that faults are injected into.
pub(super) struct Target<'a> {
    pub(super) testbed: &'a Testbed,
    pub(super) scene: &'a Scene,
    /// The workers' configuration.
    pub(super) cli: &'a WorkerCli,
    pub(super) user: &'a User,
    /// The pipeline's name.
    pub(super) name: String,
    pub(super) pipeline: Value,
    pub(super) topic: String,
    pub(super) group: String,
}

impl Target<'_> {
    /// Injects a fault and returns when the next one may follow. The text describes what happened;
    /// `None`: the fault met nothing, for example no renderer.
    pub(super) async fn inject(
        &mut self,
        fault: Fault,
        fleet: &mut Fleet<'_>,
        sent: &mut Vec<Sent>,
        random: &mut fastrand::Rng,
    ) -> Result<Option<String>> {
        let index = random.usize(0..fleet.size());
        let seen = match fault {
            Fault::KillWorker => {
                fleet.kill(index)?;
                format!("worker {index}")
            }
            Fault::KillRenderer => return fleet.kill_renderer(random).await,
            Fault::KillOperator => kill_operator(self.scene).await?,
            Fault::TerminateWorker => {
                let seconds = fleet.terminate(index).await?.as_secs_f64();
                format!("worker {index}, which took {seconds:.1} s to exit")
            }
            Fault::PauseWorker => self.pause(fleet, index, PAST_SESSION).await?,
            Fault::PauseWorkerPastPollInterval => {
                self.pause(fleet, index, PAST_POLL_INTERVAL).await?
            }
            Fault::MovePartitions => self.move_partitions().await?,
            Fault::AddPartitions => self.add_partitions().await?,
            Fault::StandStill => return fleet.stand_still(PAST_PAGE_LIMIT, random).await,
            Fault::ChangeConfiguration => self.change_configuration(fleet, sent, random).await?,
            Fault::Duplicate => self.duplicate(sent, random).await?,
            Fault::DeleteAndUploadAgain => self.delete_and_upload_again(sent, random).await?,
            Fault::Redrive => self.redrive().await?,
            Fault::FillDisk => return fleet.fill_disks(FAULT_TIME).await,
            Fault::LimitMilvus => return self.limit_milvus(fleet).await,
            Fault::Restart(service) => restart(self.testbed, service).await?,
            Fault::Freeze(service) => {
                let frozen = self.testbed.service(service)?.freeze()?;
                tokio::time::sleep(FAULT_TIME).await;
                drop(frozen);
                format!("for {} s", FAULT_TIME.as_secs())
            }
            Fault::SlowS3 => self.slow_s3().await?,
            Fault::LeaveFrozen => self.leave_frozen(random).await?,
        };
        Ok(Some(seen))
    }

    async fn pause(&self, fleet: &Fleet<'_>, index: usize, time: Duration) -> Result<String> {
        fleet.pause(index, time).await?;
        Ok(format!("worker {index} for {} s", time.as_secs()))
    }

    /// Adds two group members, one for each topic as a worker has, that are assigned partitions and
    /// consume messages without processing any, then closes them.
    async fn move_partitions(&self) -> Result<String> {
        let members = [self.topic.clone(), format!("{}.ranges", self.topic)]
            .map(|topic| self.member(&topic))
            .into_iter()
            .collect::<Result<Vec<BaseConsumer>>>()?;
        // The workers finish their work in progress before partitions are revoked from them.
        let limit = Instant::now() + Duration::from_mins(2);
        let (most, taken) = tokio::task::spawn_blocking(move || -> Result<(usize, usize)> {
            let (mut most, mut taken) = (0, 0);
            let mut end = limit;
            while Instant::now() < end {
                let mut held = 0;
                for member in &members {
                    if let Some(message) = member.poll(Duration::from_millis(50)) {
                        taken += usize::from(message.is_ok());
                    }
                    held += member.assignment()?.count();
                }
                if most == 0 && held > 0 {
                    end = Instant::now() + FAULT_TIME;
                }
                most = most.max(held);
            }
            Ok((most, taken))
        })
        .await??;
        ensure!(most > 0, "the other members were assigned no partition");
        Ok(format!(
            "{most} partitions, {taken} messages consumed and not processed"
        ))
    }

    /// A member of the workers' group, with a worker's time limits: a group waits for a member that
    /// does not rejoin for the longest `max.poll.interval.ms` of all its members.
    fn member(&self, topic: &str) -> Result<BaseConsumer> {
        let session = SESSION_SECONDS * 1000;
        let member: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.testbed.endpoints().kafka)
            .set("group.id", &self.group)
            .set("enable.auto.commit", "false")
            .set("log_level", "0")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("auto.offset.reset", "earliest")
            .set("session.timeout.ms", session.to_string())
            .set("max.poll.interval.ms", (6 * session).to_string())
            .create()?;
        member.subscribe(&[topic])?;
        Ok(member)
    }

    /// Lets the S3 server run for a fifth of the time.
    async fn slow_s3(&self) -> Result<String> {
        let s3 = self.testbed.service(Service::S3)?;
        let end = Instant::now() + 2 * FAULT_TIME;
        while Instant::now() < end {
            let frozen = s3.freeze()?;
            tokio::time::sleep(Duration::from_millis(400)).await;
            drop(frozen);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(format!("for {} s", 2 * FAULT_TIME.as_secs()))
    }

    /// Freezes a server as a killed program leaves it, and then does what the next program does.
    async fn leave_frozen(&self, random: &mut fastrand::Rng) -> Result<String> {
        let service = Service::ALL[random.usize(0..Service::ALL.len())];
        std::mem::forget(self.testbed.service(service)?.freeze()?);
        tokio::time::sleep(FAULT_TIME).await;
        let found = Testbed::obtain().await?;
        ensure!(
            !found.is_new(),
            "the test-bed was replaced because {} was frozen",
            service.name()
        );
        Ok(format!("{}, resumed by the next program", service.name()))
    }

    /// Restarts Milvus with a write limit, and later without.
    async fn limit_milvus(&self, fleet: &Fleet<'_>) -> Result<Option<String>> {
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
        Ok((refused > 0).then(|| format!("for {time} s; {refused} writes were throttled")))
    }
}

/// Kills a server and starts it again.
pub(crate) async fn restart(testbed: &Testbed, service: Service) -> Result<String> {
    let server = testbed.service(service)?;
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
pub(crate) async fn kill_operator(scene: &Scene) -> Result<String> {
    // After a few kills the kubelet backs off.
    let pid = eventually("an operator to kill", Duration::from_mins(6), async || {
        scene.operator_process().await
    })
    .await?;
    signal(pid, rustix::process::Signal::KILL)?;
    Ok(format!("process {pid}"))
}
