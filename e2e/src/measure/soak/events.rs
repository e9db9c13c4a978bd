//! What happens beside the documents: faults, a rebuild and a run of retention.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::schedule::Event;
use super::{Soak, pipeline};
use crate::cluster::eventually;
use crate::faults::documents::{Expected, Sent, send, send_more};
use crate::faults::fleet::{kill_renderer, signal};
use crate::faults::inject;
use crate::measure::{MINUTE, short_document};
use crate::processes::in_pod;

/// Documents that are sent at once before a worker is killed.
const BURST: usize = 6;
/// Pages of the document whose renderer is killed.
const LONG: usize = 60;

impl Soak<'_> {
    /// Causes an event. Returns what was seen of it.
    pub(super) async fn cause(
        &self,
        event: Event,
        begin: Instant,
        sent: &mut Vec<Sent>,
        random: &mut fastrand::Rng,
    ) -> Result<String> {
        match event {
            Event::KillWorker => {
                send_more(&self.user, sent, BURST, random).await?;
                let worker = random.choice(self.workers().await?).context("a worker")?;
                signal(worker, Signal::KILL)?;
                Ok(format!("process {worker}"))
            }
            Event::KillRenderer => {
                let content = short_document(sent.len(), LONG);
                let expected = Expected::Pages(LONG as u64);
                sent.push(send(&self.user, "long.pdf", content, expected).await?);
                let workers = self.workers().await?;
                let killed = kill_renderer(&workers, random, MINUTE).await;
                Ok(match killed {
                    Some(index) => format!("of process {}", workers[index]),
                    None => "there was none".to_owned(),
                })
            }
            Event::KillOperator => inject::kill_operator(self.scene).await,
            Event::Restart(service) => inject::restart(self.testbed, service).await,
            Event::Rebuild => {
                let object = pipeline(self.scene, &self.name, &self.topic, "Accurate");
                self.scene.apply(&object).await?;
                Ok("the pipeline is changed".to_owned())
            }
            Event::Retain => self.retain(begin, sent).await,
        }
    }

    /// Processes of the workers, as soon as there are any.
    async fn workers(&self) -> Result<Vec<u32>> {
        eventually("a worker", 5 * MINUTE, async || {
            let pods = self.scene.worker_pods(&self.name).await?;
            let pods = pods.iter().filter_map(ResourceExt::uid);
            let workers = pods.filter_map(|uid| in_pod("layra-worker", &uid));
            let workers: Vec<u32> = workers.collect();
            Ok((!workers.is_empty()).then_some(workers))
        })
        .await
    }

    /// Deletes the collection that was not used since `begin`: one run announces it, the next acts.
    async fn retain(&self, begin: Instant, sent: &mut Vec<Sent>) -> Result<String> {
        // The other collection has just been used.
        let content = short_document(sent.len(), 1);
        let used = send(&self.user, "used.pdf", content, Expected::Pages(1)).await?;
        let upload = used.upload.clone();
        sent.push(used);
        self.wait_for(&[upload]).await?;
        let minutes = (begin.elapsed().as_secs() / 60).saturating_sub(1).max(1);
        let unused = minutes.to_string();
        let unused = ["retain", "--unused-for-minutes", &unused];
        self.cli.run(&unused).await?;
        let report = self.cli.run(&unused).await?;
        let report: Value = serde_json::from_str(&report)?;
        let items = report["items"].as_array().context("items")?;
        let done = items.iter().filter(|item| item["state"] == "Done");
        let done: Vec<&Value> = done.map(|item| &item["collection"]).collect();
        let idle = self.collection_of(&self.idle);
        ensure!(done == [&json!(idle)], "not only {idle}: {report}");
        Ok(format!("{idle}, unused for {minutes} minutes, is deleted"))
    }
}
