//! Where the test-bed keeps its things and which ports it takes. Everything else is fixed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The bridge's address: the node, the API server and every service listen here, so that pods and
/// the host use the same addresses.
pub const NODE_IP: &str = "10.244.0.1";
pub(super) const BRIDGE: &str = "layra-testbed0";
pub(super) const POD_NET: &str = "10.244.0.0/24";
pub(super) const SERVICE_NET: &str = "10.96.0.0/16";
pub(super) const SERVICE_API: &str = "10.96.0.1";

/// The folders and ports of one test-bed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is fetched or built once: `LAYRA_TESTBED_CACHE`, else `~/.cache/layra-testbed`.
    pub cache: PathBuf,
    /// What a running bed needs: `LAYRA_TESTBED_STATE`, else `/var/tmp/layra-testbed`.
    pub state: PathBuf,
    /// The ports; each has its environment variable.
    pub ports: Ports,
}

/// The ports of a test-bed, all on the bridge or on loopback.
#[derive(Clone, Debug)]
pub struct Ports {
    /// The broker's port; the next one is its controller's. `LAYRA_TESTBED_KAFKA_PORT`.
    pub kafka: u16,
    /// `LAYRA_TESTBED_MONGODB_PORT`.
    pub mongodb: u16,
    /// `LAYRA_TESTBED_S3_PORT`.
    pub s3: u16,
    /// The first of Milvus' thirteen ports, the one that clients use.
    /// `LAYRA_TESTBED_MILVUS_PORT`.
    pub milvus: u16,
    /// `LAYRA_TESTBED_REDIS_PORT`.
    pub redis: u16,
    /// The first of Kubernetes' ten ports, the API server's. `LAYRA_TESTBED_KUBERNETES_PORT`.
    pub kubernetes: u16,
}

impl Settings {
    /// Reads the environment; what is not set has a default.
    pub fn from_env() -> Result<Self> {
        let home = std::env::var_os("HOME").context("HOME is not set")?;
        Ok(Self {
            cache: folder("LAYRA_TESTBED_CACHE")
                .unwrap_or_else(|| Path::new(&home).join(".cache/layra-testbed")),
            state: folder("LAYRA_TESTBED_STATE")
                .unwrap_or_else(|| PathBuf::from("/var/tmp/layra-testbed")),
            ports: Ports {
                kafka: port("KAFKA", 18092)?,
                mongodb: port("MONGODB", 18017)?,
                s3: port("S3", 18900)?,
                milvus: port("MILVUS", 18530)?,
                redis: port("REDIS", 18379)?,
                kubernetes: port("KUBERNETES", 18640)?,
            },
        })
    }

    /// `bin/`: every program of the cache under its own name.
    #[must_use]
    pub fn bin(&self, program: &str) -> PathBuf {
        self.cache.join("bin").join(program)
    }

    /// The log of a daemon or of a step.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.state.join("log").join(format!("{name}.log"))
    }

    /// The administrator's kubeconfig of the running bed.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("kubeconfig")
    }

    /// The logs of containers, as the kubelet writes them.
    pub(super) fn pod_logs(&self) -> PathBuf {
        self.state.join("kubernetes/pod-logs")
    }

    /// The variable that each process of this bed has in its environment, and nobody else.
    #[must_use]
    pub fn mark(&self) -> (&'static str, PathBuf) {
        ("LAYRA_TESTBED_STATE_OF", self.state.clone())
    }

    /// The data folder of a service.
    pub(super) fn data(&self, service: &str) -> PathBuf {
        self.state.join("data").join(service)
    }
}

/// The root of the repository that this harness was built from.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap_or(Path::new("/"))
}

/// The scripts beside this crate's sources.
pub(super) fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts")
}

/// The recipes of artifacts, a folder each.
pub(super) fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("artifacts")
}

fn folder(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

fn port(name: &str, default: u16) -> Result<u16> {
    let variable = format!("LAYRA_TESTBED_{name}_PORT");
    match std::env::var(&variable) {
        Ok(value) => value
            .parse()
            .with_context(|| format!("{variable}={value} is no port")),
        Err(_) => Ok(default),
    }
}
