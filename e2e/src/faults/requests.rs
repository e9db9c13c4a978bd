//! Injects what users and administrators do at the wrong moment: changes of the object, repeated
//! tasks, deletions, redriven dead letters.

use std::time::Duration;

use anyhow::{Context, Result};
use layra_testbed::Service;
use serde_json::json;

use super::documents::{Expected, Sent, send_long};
use super::fleet::Fleet;
use super::inject::{FAULT_TIME, Target};
use crate::cluster::eventually;
use crate::topics;

/// Upper limit for added partitions: each takes a directory and open files of the broker.
const MAX_PARTITIONS: u64 = 16;
/// How long the operator may take to update a ConfigMap. It may be down, and the kubelet may delay
/// its restart for minutes.
const OPERATOR_LIMIT: Duration = Duration::from_mins(6);
/// How long a worker may take to split a document.
const SPLIT_LIMIT: Duration = Duration::from_mins(2);
/// Documents that one fault deletes.
const DELETIONS: usize = 4;

impl Target<'_> {
    pub(super) async fn duplicate(
        &self,
        sent: &[Sent],
        random: &mut fastrand::Rng,
    ) -> Result<String> {
        // The original of a deleted document is gone.
        let there: Vec<&Sent> = sent.iter().filter(|sent| !sent.is_deleted()).collect();
        let count = 3.min(there.len());
        for _ in 0..count {
            let again = there[random.usize(0..there.len())];
            self.user.send_task(&again.upload).await?;
        }
        Ok(format!("{count} tasks"))
    }

    /// Raises the number of partitions by one, which the operator applies to both topics.
    pub(super) async fn add_partitions(&mut self) -> Result<String> {
        let partitions = &mut self.pipeline["spec"]["source"]["kafka"]["partitions"];
        let before = partitions.as_u64().context("partitions of the pipeline")?;
        let after = (before + 1).min(MAX_PARTITIONS);
        *partitions = json!(after);
        self.scene.apply(&self.pipeline).await?;
        let raised = [self.topic.clone(), format!("{}.ranges", self.topic)];
        let servers = &self.testbed.endpoints().kafka;
        eventually("the partitions", OPERATOR_LIMIT, async || {
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

    /// Sends a long document and, once it is split, changes the configuration and restarts the
    /// workers with it, one after the other.
    pub(super) async fn change_configuration(
        &mut self,
        fleet: &mut Fleet<'_>,
        sent: &mut Vec<Sent>,
        random: &mut fastrand::Rng,
    ) -> Result<String> {
        let splits = fleet.count_logged("document split into page ranges");
        sent.push(send_long(self.user, sent.len(), random).await?);
        eventually("a split document", SPLIT_LIMIT, async || {
            fleet.restart_dead()?;
            let now = fleet.count_logged("document split into page ranges");
            Ok((now > splits).then_some(()))
        })
        .await?;

        let spec = &mut self.pipeline["spec"];
        // One field that decides nothing about a page, and one that decides its pixels.
        let change = if random.bool() {
            let batch = &mut spec["embedding"]["batchPages"];
            let pages = if *batch == json!(3) { 5 } else { 3 };
            *batch = json!(pages);
            format!("batchPages {pages}")
        } else {
            let render = &mut spec["documents"]["render"]["dpi"];
            let dpi = if *render == json!([{"dpi": 72}]) {
                80
            } else {
                72
            };
            *render = json!([{"dpi": dpi}]);
            format!("dpi {dpi}")
        };
        let before = self.cli.configuration()?;
        self.scene.apply(&self.pipeline).await?;
        eventually("the new configuration", OPERATOR_LIMIT, async || {
            self.cli.read_configuration(self.scene, &self.name).await?;
            Ok((self.cli.configuration()? != before).then_some(()))
        })
        .await?;
        for worker in 0..fleet.size() {
            fleet.terminate(worker).await?;
            fleet.restart_dead()?;
        }
        Ok(change)
    }

    /// Deletes documents by messages, wherever they are in their lives, and uploads every second
    /// one again under the same id.
    pub(super) async fn delete_and_upload_again(
        &self,
        sent: &mut [Sent],
        random: &mut fastrand::Rng,
    ) -> Result<String> {
        let mut there: Vec<&mut Sent> = sent
            .iter_mut()
            .filter(|sent| matches!(sent.expected, Expected::Pages(_)))
            .collect();
        // The latest documents are those that are not finished.
        let recent = there.len().saturating_sub(30);
        let mut there: Vec<&mut Sent> = there.drain(recent..).collect();
        random.shuffle(&mut there);
        let (mut deleted, mut again) = (0, 0);
        for (index, document) in there.into_iter().take(DELETIONS).enumerate() {
            document.request_deletion(self.user).await?;
            deleted += 1;
            if index % 2 == 0 {
                document.upload_again(self.user).await?;
                again += 1;
            } else {
                document.delete();
            }
        }
        Ok(format!("{deleted} deleted, {again} of them uploaded again"))
    }

    /// Redrives all dead letters while MongoDB is frozen, and once more afterwards.
    pub(super) async fn redrive(&self) -> Result<String> {
        let frozen = self.testbed.service(Service::MongoDb)?.freeze()?;
        let command = self.cli.command(&["redrive"], "cache-redrive");
        let mut command = tokio::process::Command::from(command);
        let first = command.kill_on_drop(true).output();
        let thaw = async {
            tokio::time::sleep(FAULT_TIME).await;
            drop(frozen);
        };
        let (first, ()) = tokio::join!(first, thaw);
        let first = first?.status;
        let second = self.cli.run(&["redrive"]).await?;
        let last = second.lines().rfind(|line| line.contains("redriven"));
        let last = last.context("the report of redrive")?;
        Ok(format!("{first}; then {last}"))
    }
}
