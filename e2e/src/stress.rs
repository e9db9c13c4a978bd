//! Faults of the operators and of the API server, and `cargo scaling stress`: how soon each is noticed,
//! how long nobody leads, and when an edit is carried out.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use layra_testbed::Testbed;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::cluster::{Scene, condition, eventually};
use crate::layra::random_id;
use crate::leadership::{Leadership, is_ready, leader, operators, renew_operators, restarts};
use crate::processes;

const MINUTE: Duration = Duration::from_mins(1);
/// Name of the operator's Role and `RoleBinding`.
const OPERATOR: &str = "layra-operator";
/// The table of nftables that cuts an operator off.
const TABLE: &str = "layra_cut_off";
/// Addresses of the cluster's Services, the API server among them.
const SERVICES: &str = "10.96.0.0/16";

/// Kills the process of the operator that leads, as the kernel does when memory is short.
pub async fn kill_leader(scene: &Scene) -> Result<()> {
    let pod = scene.api::<Pod>().get(&leader(scene).await?).await?;
    let pid = processes::in_pod("layra-operator", &pod.uid().unwrap_or_default())
        .context("the leader's process")?;
    let pid = Pid::from_raw(pid.cast_signed()).context("a pid")?;
    kill_process(pid, Signal::KILL).context("killing the leader")
}

/// Restarts of all operators.
pub async fn operator_restarts(scene: &Scene) -> Result<i32> {
    let pods = operators(&scene.client, &scene.namespace).await?;
    Ok(pods.iter().map(restarts).sum())
}

/// What a Role allowed before a verb was taken out of it.
#[must_use = "the right is given back with it"]
pub struct TakenRight(Vec<PolicyRule>);

/// Takes a verb on a resource out of the operator's Role.
pub async fn take_right(scene: &Scene, resource: &str, verb: &str) -> Result<TakenRight> {
    let role = scene.api::<Role>().get(OPERATOR).await?;
    let before = role.rules.unwrap_or_default();
    let mut rules = before.clone();
    let of_resource = rules.iter_mut().filter(|rule| {
        let mut resources = rule.resources.iter().flatten();
        resources.any(|name| name == resource)
    });
    for rule in of_resource {
        rule.verbs.retain(|other| other != verb);
    }
    ensure!(rules != before, "no rule allows {verb} on {resource}");
    write_rules(scene, &rules).await?;
    Ok(TakenRight(before))
}

/// Gives the right back.
pub async fn give_back(scene: &Scene, right: &TakenRight) -> Result<()> {
    write_rules(scene, &right.0).await
}

async fn write_rules(scene: &Scene, rules: &[PolicyRule]) -> Result<()> {
    let change = Patch::Merge(json!({ "rules": rules }));
    let api = scene.api::<Role>();
    api.patch(OPERATOR, &PatchParams::default(), &change)
        .await?;
    Ok(())
}

/// A pod whose packets to the API server are dropped until this is dropped.
struct CutOff;

impl CutOff {
    async fn of_pod(scene: &Scene, pod: &str) -> Result<Self> {
        let pod = scene.api::<Pod>().get(pod).await?;
        let address = pod.status.and_then(|status| status.pod_ip);
        let address = address.context("the pod has no address")?;
        nft(&format!(
            "table ip {TABLE} {{\nchain out {{\n\
             type filter hook prerouting priority -300; policy accept;\n\
             ip saddr {address} ip daddr {SERVICES} drop\n}}\n}}\n"
        ))?;
        Ok(Self)
    }
}

impl Drop for CutOff {
    fn drop(&mut self) {
        if let Err(error) = nft(&format!("delete table ip {TABLE}\n")) {
            eprintln!("an operator may still be cut off: {error:#}");
        }
    }
}

/// Carries out commands of `nft`.
fn nft(commands: &str) -> Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("running nft")?;
    let mut input = child.stdin.take().context("standard input")?;
    input.write_all(commands.as_bytes())?;
    drop(input);
    ensure!(child.wait()?.success(), "nft refuses {commands}");
    Ok(())
}

/// How long a lasting fault lasts.
const LASTS: Duration = MINUTE;
/// Two operators, of which one leads.
const OPERATORS: usize = 2;
const MOST_REPLICAS: u32 = 8;

/// What came of a fault. Times are in seconds.
struct Row {
    fault: &'static str,
    /// From its beginning.
    noticed: Option<f64>,
    without_leader: f64,
    /// From the beginning of a fault that another operator makes up for, else from its end.
    carried_out: f64,
    restarts: i32,
    seen: String,
}

/// What a fault was seen to do: when it was noticed, when an edit was carried out, and in words.
type Observed = (Option<f64>, f64, String);

struct Target<'a> {
    testbed: &'a Testbed,
    scene: &'a Scene,
    name: String,
    leadership: Leadership,
}

/// Makes each fault in turn, and prints what came of it.
pub async fn run(testbed: &Testbed, scene: &Scene) -> Result<()> {
    let target = Target {
        testbed,
        scene,
        name: format!("stress-{}", &random_id()[..6]),
        leadership: Leadership::watch(scene),
    };
    target.edit(0).await?;
    let ready = scene.wait_condition(&target.name, "TopicReady", "True", "", 2 * MINUTE);
    ready.await?;
    let rows = [
        target
            .row("leader killed in a scale-up", async || {
                target.killed().await
            })
            .await?,
        target
            .row("API server restarted", async || target.api_server().await)
            .await?,
        target
            .row("leader cut off for a minute", async || {
                target.cut_off().await
            })
            .await?,
        target
            .row("may not patch Deployments, for a minute", async || {
                target.without_right().await
            })
            .await?,
        target
            .row("without any right for a minute", async || {
                target.without_rights().await
            })
            .await?,
    ];
    println!(
        "\n{:<42}{:>9}{:>11}{:>13}{:>10}",
        "fault, seconds", "noticed", "no leader", "carried out", "restarts"
    );
    for row in rows {
        let noticed = row.noticed.map_or("-".to_owned(), |it| format!("{it:.1}"));
        println!(
            "{:<42}{noticed:>9}{:>11.1}{:>13.1}{:>10}",
            row.fault, row.without_leader, row.carried_out, row.restarts
        );
        println!("    {}", row.seen);
    }
    renew_operators(scene, 1).await
}

impl Target<'_> {
    /// Makes a fault with fresh operators.
    async fn row(
        &self,
        fault: &'static str,
        work: impl AsyncFnOnce() -> Result<Observed>,
    ) -> Result<Row> {
        self.edit(0).await?;
        renew_operators(self.scene, OPERATORS).await?;
        self.carried_out(0).await?;
        println!("{fault}");
        let begin = self.leadership.now();
        let (noticed, carried_out, seen) = Box::pin(work()).await.context(fault)?;
        // Whoever has exited is started again.
        eventually("all operators to be ready", 5 * MINUTE, async || {
            let pods = operators(&self.scene.client, &self.scene.namespace).await?;
            Ok(pods.iter().all(is_ready).then_some(()))
        })
        .await?;
        Ok(Row {
            fault,
            noticed,
            without_leader: self.leadership.seconds_without(begin),
            carried_out,
            restarts: operator_restarts(self.scene).await?,
            seen,
        })
    }

    /// Asks for a number of workers. No node takes them, so that only the operator is measured.
    async fn edit(&self, replicas: u32) -> Result<()> {
        let patch = json!({"spec": {
            "source": {"kafka": {"partitions": MOST_REPLICAS}},
            "worker": {"podTemplate": {"spec": {"nodeSelector": {"example.com/nowhere": "true"}}}},
            "scaling": {"mode": "Manual", "replicas": replicas, "maxReplicas": MOST_REPLICAS},
        }});
        let topic = format!("{}-tasks", self.name);
        let object = self.scene.pipeline(&self.name, &topic, &patch);
        eventually("the API server", 2 * MINUTE, async || {
            self.scene.apply(&object).await?;
            Ok(Some(()))
        })
        .await
    }

    /// Waits until the Deployment has so many replicas.
    async fn carried_out(&self, replicas: u32) -> Result<()> {
        eventually("the edit to be carried out", 5 * MINUTE, async || {
            let deployment = self.scene.deployment(&self.name).await?;
            let found = deployment.spec.and_then(|spec| spec.replicas);
            Ok((found == Some(replicas.cast_signed())).then_some(()))
        })
        .await
    }

    async fn killed(&self) -> Result<Observed> {
        self.edit(MOST_REPLICAS).await?;
        let start = Instant::now();
        kill_leader(self.scene).await?;
        self.carried_out(MOST_REPLICAS).await?;
        let carried_out = start.elapsed().as_secs_f64();
        Ok((None, carried_out, "kill -9 right after the edit".to_owned()))
    }

    async fn api_server(&self) -> Result<Observed> {
        let start = Instant::now();
        self.testbed.restart_api_server().await?;
        let away = start.elapsed().as_secs_f64();
        self.edit(1).await?;
        self.carried_out(1).await?;
        let carried_out = start.elapsed().as_secs_f64();
        Ok((None, carried_out, format!("away for {away:.1} s")))
    }

    async fn cut_off(&self) -> Result<Observed> {
        let first = leader(self.scene).await?;
        let start = Instant::now();
        let cut_off = CutOff::of_pod(self.scene, &first).await?;
        self.edit(2).await?;
        self.carried_out(2).await?;
        let carried_out = start.elapsed().as_secs_f64();
        let second = leader(self.scene).await?;
        tokio::time::sleep(LASTS.saturating_sub(start.elapsed())).await;
        drop(cut_off);
        ensure!(first != second, "{first} was not cut off");
        let pod = self.scene.api::<Pod>().get(&first).await?;
        let seen = format!(
            "{second} took over; {first} was restarted {} times",
            restarts(&pod)
        );
        Ok((None, carried_out, seen))
    }

    async fn without_right(&self) -> Result<Observed> {
        let right = take_right(self.scene, "deployments", "patch").await?;
        let start = Instant::now();
        let told = async {
            self.edit(3).await?;
            let told = self
                .scene
                .wait_status(&self.name, "ApplyFailed", MINUTE, |status| {
                    condition(status, "Ready").is_some_and(|ready| ready.reason == "ApplyFailed")
                });
            let status = told.await?.status.unwrap_or_default();
            anyhow::Ok(condition(&status, "Ready").map(|ready| ready.message.clone()))
        }
        .await;
        let noticed = start.elapsed();
        tokio::time::sleep(LASTS.saturating_sub(noticed)).await;
        give_back(self.scene, &right).await?;
        let ended = Instant::now();
        let message = told?.unwrap_or_default();
        self.carried_out(3).await?;
        let carried_out = ended.elapsed().as_secs_f64();
        let seen = format!("ApplyFailed: {message}");
        Ok((Some(noticed.as_secs_f64()), carried_out, seen))
    }

    async fn without_rights(&self) -> Result<Observed> {
        let bindings = self.scene.api::<RoleBinding>();
        let mut binding = bindings.get(OPERATOR).await?;
        binding.metadata.resource_version = None;
        binding.metadata.uid = None;
        binding.metadata.managed_fields = None;
        bindings.delete(OPERATOR, &DeleteParams::default()).await?;
        let start = Instant::now();
        let exited = eventually("the leader to exit", MINUTE, async || {
            Ok((operator_restarts(self.scene).await? > 0).then_some(()))
        })
        .await;
        let noticed = start.elapsed();
        tokio::time::sleep(LASTS.saturating_sub(noticed)).await;
        let restarts = operator_restarts(self.scene).await;
        bindings.create(&PostParams::default(), &binding).await?;
        let ended = Instant::now();
        exited?;
        self.edit(4).await?;
        self.carried_out(4).await?;
        let carried_out = ended.elapsed().as_secs_f64();
        let seen = format!(
            "the leader exited, and waits; {} restarts in all",
            restarts?
        );
        Ok((Some(noticed.as_secs_f64()), carried_out, seen))
    }
}
