//! Starts and stops one real Kubernetes node and the test-bed's network, through scripts.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::process::tail;
use super::services;
use super::settings::{BRIDGE, NODE_IP, POD_NET, SERVICE_API, SERVICE_NET, Settings, scripts};

/// The node's processes, each with the offset of its port from the first port.
pub(super) const PROCESSES: [(&str, Option<u16>); 7] = [
    ("kube-apiserver", Some(0)),
    ("etcd", Some(1)),
    ("kube-controller-manager", Some(3)),
    ("kube-scheduler", Some(4)),
    ("kubelet", Some(5)),
    ("kube-proxy", Some(7)),
    ("containerd", None),
];

pub(super) async fn network_up(settings: &Settings) -> Result<()> {
    script(settings, "network.sh", "up").await
}

pub(super) async fn network_down(settings: &Settings) -> Result<()> {
    script(settings, "network.sh", "down").await
}

pub(super) async fn up(settings: &Settings) -> Result<()> {
    let port = settings.ports.kubernetes;
    for (address, offset) in (0..10).map(|offset| {
        (
            if matches!(offset, 0 | 5) {
                NODE_IP
            } else {
                "127.0.0.1"
            },
            offset,
        )
    }) {
        TcpListener::bind((address, port + offset)).with_context(|| {
            let taken = port + offset;
            format!("{address}:{taken} is in use (other ports: LAYRA_TESTBED_KUBERNETES_PORT)")
        })?;
    }
    let Err(error) = script(settings, "kubernetes.sh", "up").await else {
        return Ok(());
    };
    let tails: Vec<String> = PROCESSES
        .iter()
        .map(|(name, _)| format!("--- {name}\n{}", tail(&settings.log(name), 8)))
        .collect();
    Err(error).with_context(|| format!("Kubernetes did not start\n{}", tails.join("\n")))
}

pub(super) async fn down(settings: &Settings) -> Result<()> {
    script(settings, "kubernetes.sh", "down").await
}

/// Kills the API server, starts it again on its data and waits until it answers.
pub(super) async fn restart_api_server(settings: &Settings) -> Result<()> {
    script(settings, "kubernetes.sh", "restart_api_server").await
}

/// Checks that the API server answers and its node is ready.
pub(super) async fn probe(settings: &Settings) -> Result<()> {
    const READY: &str = r#"jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}"#;
    let kubectl = tokio::process::Command::new(settings.bin("kubectl"))
        .arg("--kubeconfig")
        .arg(settings.kubeconfig())
        .args(["--request-timeout=3s", "get", "nodes", "--output", READY])
        // A separate cache: the user's may describe an earlier cluster at this address.
        .env(
            "KUBECACHEDIR",
            settings.state.join("kubernetes/kubectl-cache"),
        )
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(5), kubectl).await??;
    let ready = String::from_utf8_lossy(&output.stdout);
    if !ready.split(' ').any(|status| status == "True") {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("the node is not ready: {ready}{error}");
    }
    Ok(())
}

async fn script(settings: &Settings, name: &str, action: &str) -> Result<()> {
    let log = settings.log(name.trim_end_matches(".sh"));
    let output = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)?;
    let status = tokio::process::Command::new(scripts().join(name))
        .arg(action)
        // Inherited by everything that the scripts start.
        .envs([settings.mark()])
        .env("STATE", &settings.state)
        .env("BIN", settings.cache.join("bin"))
        .env("PAUSE", settings.cache.join("images/pause.tar"))
        .env("PORT", settings.ports.kubernetes.to_string())
        .env("BRIDGE", BRIDGE)
        .env("NODE_IP", NODE_IP)
        .env("POD_NET", POD_NET)
        .env("SERVICE_NET", SERVICE_NET)
        .env("SERVICE_API", SERVICE_API)
        .env("CLOSED_PORTS", services::milvus_ports(settings))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .kill_on_drop(true)
        .status()
        .await?;
    if !status.success() {
        bail!("{name} {action} failed:\n{}", tail(&log, 10));
    }
    Ok(())
}
