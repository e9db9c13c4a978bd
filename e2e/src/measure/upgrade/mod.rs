//! `cargo measure upgrade`: the version before is installed, then upgraded to the present one and
//! rolled back, while documents arrive. Nothing may be lost or stored twice, and the upgrade of the
//! operator may replace no worker.

mod history;
mod version;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use layra_testbed::Testbed;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{MINUTE, collection_of, short_document};
use crate::cluster::{Scene, condition, eventually};
use crate::faults::pages;
use crate::layra::{Upload, User, random_id};
use crate::leadership::{Leadership, is_ready, leader, operators};
use crate::milvus_admin;
use crate::stores::Stores;
use history::{History, Seen};
use version::Version;

/// Workers of the pipeline, all the time.
const WORKERS: usize = 2;
/// Between two documents, which have one to three pages.
const PAUSE: Duration = Duration::from_millis(500);
/// How long each state is watched before the next change.
const WATCHED: Duration = Duration::from_secs(20);
const OPERATOR: &str = "operator upgraded";

/// Settings of the measurement.
#[derive(Clone, Debug)]
pub struct UpgradePlan {
    /// The revision to upgrade from.
    pub from: Option<String>,
}

/// A part of the time, and what was seen in it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Phase {
    name: &'static str,
    seconds: f64,
    documents_sent: usize,
    seconds_without_leader: f64,
    #[serde(flatten)]
    seen: Seen,
}

/// The pipeline and all that watches it.
struct Run<'a> {
    scene: &'a Scene,
    name: String,
    topic: String,
    before: Version,
    present: Version,
    leadership: Leadership,
    history: History,
    /// Documents and their pages.
    sent: Mutex<Vec<(Upload, u64)>>,
    phases: Mutex<Vec<Phase>>,
}

/// Measures and prints the results.
pub async fn run(
    testbed: &Testbed,
    scene: &Scene,
    stores: &Stores,
    plan: &UpgradePlan,
) -> Result<()> {
    let present = Version::present(testbed).await?;
    let before = Box::pin(Version::before(testbed, plan.from.as_deref())).await?;
    println!("from {} to {}, and back", before.name, present.name);
    ensure!(
        before.images.operator != present.images.operator,
        "both versions have the same operator: there is nothing to upgrade"
    );
    // The operator of the present version is there for all measurements.
    scene
        .helm(&["uninstall", scene.release(), "--wait"])
        .await?;
    before.install_definition(scene).await?;
    before.install_operator(scene).await?;

    let id = random_id();
    let name = format!("upgrade-{}", &id[..6]);
    let topic = format!("{name}-tasks");
    let start = Instant::now();
    let run = Run {
        scene,
        before,
        present,
        leadership: Leadership::watch(scene),
        history: History::record(scene, &name, start),
        sent: Mutex::default(),
        phases: Mutex::default(),
        name,
        topic,
    };
    run.apply("WhenReplaced").await?;
    let ready = scene.wait_condition(&run.name, "WorkersAvailable", "True", "", 5 * MINUTE);
    ready.await?;
    run.workers_have(&run.before).await?;
    let user = User::with_knowledge_base(stores, &run.topic, "measure", &id).await?;

    let is_over = AtomicBool::new(false);
    let (loaded, changed) = tokio::join!(run.load(&user, &is_over), async {
        let changed = Box::pin(run.change()).await;
        is_over.store(true, Ordering::Relaxed);
        changed
    });
    let template = changed?;
    loaded?;
    pages::settled(stores, &user, &run.topic, 10 * MINUTE).await?;
    run.judge(stores, &user, &template).await?;
    milvus_admin::drop(&stores.milvus, &collection_of(&user.knowledge_base)).await
}

impl Run<'_> {
    /// Applies the pipeline, which has the same number of workers all the time.
    async fn apply(&self, on_upgrade: &str) -> Result<()> {
        let patch = json!({"spec": {
            "scaling": {"minReplicas": WORKERS, "maxReplicas": WORKERS},
            "worker": {"rollout": {"onUpgrade": on_upgrade}},
        }});
        let object = self.scene.pipeline(&self.name, &self.topic, &patch);
        self.scene.apply(&object).await
    }

    /// Sends documents until it is over.
    async fn load(&self, user: &User, is_over: &AtomicBool) -> Result<()> {
        for number in 0.. {
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            let pages = 1 + number % 3;
            let content = short_document(number, pages);
            let upload = user.upload_bytes(&format!("{number}.pdf"), content).await?;
            locked(&self.sent).push((upload, pages as u64));
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// All changes, one after the other. Returns the fields of the workers' pod template that the
    /// upgrade of the operator has changed.
    async fn change(&self) -> Result<Vec<String>> {
        let (scene, before, present) = (self.scene, &self.before, &self.present);
        self.phase("version before", async { Ok(()) }).await?;
        self.phase("definition upgraded", present.install_definition(scene))
            .await?;
        let template = self.template().await?;
        self.phase(OPERATOR, async {
            present.install_operator(scene).await?;
            self.leads(present).await?;
            self.has_looked().await
        })
        .await?;
        let changed = differences(&template, &self.template().await?, "");
        self.phase("workers upgraded", async {
            self.apply("AtOnce").await?;
            self.workers_have(present).await
        })
        .await?;
        self.phase("rolled back", async {
            let rollback = ["rollback", scene.release(), "1"];
            let wait = ["--wait", "--timeout", "180s"];
            scene.helm(&[&rollback[..], &wait].concat()).await?;
            self.leads(before).await?;
            self.workers_have(before).await
        })
        .await?;
        Ok(changed)
    }

    /// Makes a change, watches what comes of it for a while, and records it.
    async fn phase(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let count = || locked(&self.sent).len();
        let (begin, sent) = (self.leadership.now(), count());
        println!("{begin:>5.0} s  {name}");
        work.await.context(name)?;
        tokio::time::sleep(WATCHED).await;
        let end = self.leadership.now();
        let phase = Phase {
            name,
            seconds: end - begin,
            documents_sent: count() - sent,
            seconds_without_leader: self.leadership.seconds_without(begin),
            seen: self.history.between(begin, end),
        };
        locked(&self.phases).push(phase);
        Ok(())
    }

    /// Waits until an operator of this version leads.
    async fn leads(&self, version: &Version) -> Result<()> {
        eventually(
            "the operator of the other version to lead",
            3 * MINUTE,
            async || {
                let leader = leader(self.scene).await?;
                let pods = operators(&self.scene.client, &self.scene.namespace).await?;
                let is_wanted = pods.iter().any(|pod| {
                    pod.name_any() == leader && image(pod) == Some(&version.images.operator)
                });
                Ok(is_wanted.then_some(()))
            },
        )
        .await
    }

    /// Waits until the new operator has said what becomes of the workers, or has replaced them.
    async fn has_looked(&self) -> Result<()> {
        eventually("a verdict on the workers", 5 * MINUTE, async || {
            let status = self.scene.get(&self.name).await?.status.unwrap_or_default();
            let verdict = condition(&status, "WorkersAvailable");
            let are_held = verdict.is_some_and(|verdict| verdict.reason == "UpgradeHeld");
            let pods = self.scene.worker_pods(&self.name).await?;
            let is_present = |pod| image(pod) == Some(&self.present.images.worker);
            Ok((are_held || pods.iter().all(is_present)).then_some(()))
        })
        .await
    }

    /// Waits until all workers are ready and have the image of this version.
    async fn workers_have(&self, version: &Version) -> Result<()> {
        eventually(
            "the workers of the other version",
            10 * MINUTE,
            async || {
                let pods = self.scene.worker_pods(&self.name).await?;
                let wanted = pods
                    .iter()
                    .filter(|pod| is_ready(pod) && image(pod) == Some(&version.images.worker));
                Ok((pods.len() == WORKERS && wanted.count() == WORKERS).then_some(()))
            },
        )
        .await
    }

    async fn template(&self) -> Result<Value> {
        let deployment = self.scene.deployment(&self.name).await?;
        let spec = deployment.spec.context("a spec")?;
        Ok(serde_json::to_value(spec.template)?)
    }

    /// Prints a table and the same as JSON. Fails if something was lost or replaced in vain.
    async fn judge(&self, stores: &Stores, user: &User, template: &[String]) -> Result<()> {
        let sent = locked(&self.sent).clone();
        let totals = pages::counted(stores, user, &self.topic, &sent).await?;
        let phases = locked(&self.phases);
        println!(
            "\n{:<22}{:>6}{:>11}{:>12}{:>13}{:>14}{:>10}{:>10}",
            "phase",
            "s",
            "documents",
            "no leader",
            "not current",
            "fewest ready",
            "replaced",
            "restarts"
        );
        for phase in phases.iter() {
            let seen = &phase.seen;
            println!(
                "{:<22}{:>6.0}{:>11}{:>10.1} s{:>11.1} s{:>14}{:>10}{:>10}",
                phase.name,
                phase.seconds,
                phase.documents_sent,
                phase.seconds_without_leader,
                seen.seconds_not_current,
                seen.fewest_ready_workers,
                seen.workers_replaced,
                seen.worker_restarts
            );
        }
        println!("fields of the pod template that the upgrade changed: {template:?}");
        println!("{totals}\n");
        let result = json!({
            "from": self.before.name, "to": self.present.name, "phases": *phases,
            "changedTemplateFields": template, "documents": totals.documents,
            "deadLetters": totals.dead_letters, "lost": totals.lost,
            "duplicated": totals.duplicated, "orphans": totals.orphans,
        });
        println!("{}", serde_json::to_string_pretty(&result)?);
        ensure!(totals.is_clean(), "something was lost or stored twice");
        let seen = phases.iter().find(|phase| phase.name == OPERATOR);
        let seen = &seen.context("the operator was upgraded")?.seen;
        ensure!(
            seen.workers_replaced == 0 && seen.worker_restarts == 0,
            "the upgrade of the operator replaced {} workers and restarted {}. Fields of their pod \
             template that it changed: {template:?}",
            seen.workers_replaced,
            seen.worker_restarts
        );
        let restarts: i32 = phases.iter().map(|phase| phase.seen.worker_restarts).sum();
        ensure!(
            restarts == 0,
            "workers of one version failed beside the other"
        );
        Ok(())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The image of a pod's first container.
fn image(pod: &Pod) -> Option<&String> {
    pod.spec.as_ref()?.containers.first()?.image.as_ref()
}

/// The paths at which two values differ.
fn differences(one: &Value, other: &Value, path: &str) -> Vec<String> {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let mut keys: Vec<&String> = one.keys().chain(other.keys()).collect();
            keys.sort();
            keys.dedup();
            let of = |map: &serde_json::Map<String, Value>, key| map.get(key).cloned();
            keys.into_iter()
                .flat_map(|key| {
                    let (one, other) = (of(one, key), of(other, key));
                    let path = format!("{path}.{key}");
                    differences(&one.unwrap_or_default(), &other.unwrap_or_default(), &path)
                })
                .collect()
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => one
            .iter()
            .zip(other)
            .enumerate()
            .flat_map(|(index, (one, other))| differences(one, other, &format!("{path}[{index}]")))
            .collect(),
        _ if one == other => Vec::new(),
        _ => vec![path.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named_by_their_paths() {
        let one = json!({"a": [{"image": "x", "b": 1}], "c": 1});
        let other = json!({"a": [{"image": "y", "b": 1}], "d": 1});
        assert_eq!(differences(&one, &other, ""), [".a[0].image", ".c", ".d"]);
        assert_eq!(differences(&one, &one, ""), [""; 0]);
    }
}
