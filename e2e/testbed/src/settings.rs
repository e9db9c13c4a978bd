//! Directories and ports of the test-bed. Everything else is fixed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Address of the bridge. The node, the API server and every service listen here, so that pods and
/// the host use the same addresses.
pub const NODE_IP: &str = "10.244.0.1";
pub(super) const BRIDGE: &str = "layra-testbed0";
pub(super) const POD_NET: &str = "10.244.0.0/24";
pub(super) const SERVICE_NET: &str = "10.96.0.0/16";
pub(super) const SERVICE_API: &str = "10.96.0.1";

/// The directories and ports of a test-bed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Downloads and builds: `LAYRA_TESTBED_CACHE`, else `~/.cache/layra-testbed`.
    pub cache: PathBuf,
    /// Data and logs of a running test-bed: `LAYRA_TESTBED_STATE`, else `/var/tmp/layra-testbed`.
    pub state: PathBuf,
    /// The ports; each has its own environment variable.
    pub ports: Ports,
}

/// The ports of a test-bed, all on the bridge or the loopback interface.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Port of the Kafka broker; the controller uses the next one. `LAYRA_TESTBED_KAFKA_PORT`.
    pub kafka: u16,
    /// Port of MongoDB. `LAYRA_TESTBED_MONGODB_PORT`.
    pub mongodb: u16,
    /// Port of MinIO. `LAYRA_TESTBED_S3_PORT`.
    pub s3: u16,
    /// First of Milvus' thirteen ports, which clients use. `LAYRA_TESTBED_MILVUS_PORT`.
    pub milvus: u16,
    /// Port of Redis. `LAYRA_TESTBED_REDIS_PORT`.
    pub redis: u16,
    /// First of Kubernetes' ten ports, which the API server uses. `LAYRA_TESTBED_KUBERNETES_PORT`.
    pub kubernetes: u16,
}

impl Settings {
    /// Reads the environment; everything has a default.
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

    /// Path of a program in the cache.
    #[must_use]
    pub fn bin(&self, program: &str) -> PathBuf {
        self.cache.join("bin").join(program)
    }

    /// Path of the log of a daemon or of a step.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.state.join("log").join(format!("{name}.log"))
    }

    /// Path of the administrator's kubeconfig of the running test-bed.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("kubeconfig")
    }

    /// Directory in which the kubelet keeps the logs of containers.
    pub(super) fn pod_logs(&self) -> PathBuf {
        self.state.join("kubernetes/pod-logs")
    }

    /// The environment variable that marks the processes of this test-bed.
    #[must_use]
    pub fn mark(&self) -> (&'static str, PathBuf) {
        ("LAYRA_TESTBED_STATE_OF", self.state.clone())
    }

    /// Data directory of a service.
    #[must_use]
    pub fn data(&self, service: &str) -> PathBuf {
        self.state.join("data").join(service)
    }
}

/// Root of the repository from which this crate was built.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap_or(Path::new("/"))
}

/// Directory of this crate's scripts.
pub(super) fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts")
}

/// Directory of the recipes, with a subdirectory for each artifact.
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
            .with_context(|| format!("{variable}={value} is not a port")),
        Err(_) => Ok(default),
    }
}
