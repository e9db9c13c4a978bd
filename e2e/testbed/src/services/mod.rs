//! The data services: how each is started, and the request that shows that it works.

mod kafka;
mod milvus;
mod mongodb;
mod redis;
mod s3;
mod wire;

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub(super) use milvus::milvus_ports;
pub use milvus::{WriteLimit, tight_milvus};
pub use s3::BUCKET_EVENTS;
pub(super) use s3::{ACCESS_KEY, SECRET_KEY};

use super::process::{Daemon, Signal};
use super::settings::{NODE_IP, Settings};

/// How long a service may take from its start to its first response.
const START_LIMIT: Duration = Duration::from_secs(90);

/// How long the port of a killed server may stay in use.
const PORT_LIMIT: Duration = Duration::from_secs(15);

/// A data service of the test-bed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Apache Kafka, one broker.
    Kafka,
    /// Milvus standalone.
    Milvus,
    /// A server that speaks MongoDB's wire protocol.
    MongoDb,
    /// The S3 server, MinIO.
    S3,
    /// Redis, one server.
    Redis,
}

impl Service {
    /// All services, in the order of display.
    pub const ALL: [Self; 5] = [
        Self::Kafka,
        Self::Milvus,
        Self::MongoDb,
        Self::S3,
        Self::Redis,
    ];

    /// Name of its process and of its log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Milvus => "milvus",
            Self::MongoDb => "mongodb",
            Self::S3 => "s3",
            Self::Redis => "redis",
        }
    }

    /// Port for clients.
    #[must_use]
    pub fn port(self, settings: &Settings) -> u16 {
        match self {
            Self::Kafka => settings.ports.kafka,
            Self::Milvus => settings.ports.milvus,
            Self::MongoDb => settings.ports.mongodb,
            Self::S3 => settings.ports.s3,
            Self::Redis => settings.ports.redis,
        }
    }

    /// Starts it on its existing data, if any, and waits until it answers.
    pub async fn start(self, settings: &Settings) -> Result<()> {
        self.start_with(settings, WriteLimit::None).await
    }

    /// The same, with a write limit for Milvus.
    pub async fn start_with(self, settings: &Settings, limit: WriteLimit) -> Result<()> {
        wait_for_port(self.name(), self.port(settings)).await?;
        std::fs::create_dir_all(settings.data(self.name()))?;
        let command = self.command(settings, limit)?;
        Daemon::new(settings, self.name()).start(&command)?;
        self.wait_until_ready(settings).await
    }

    /// Stops it; its data is kept.
    pub async fn stop(self, settings: &Settings, signal: Signal) -> Result<()> {
        Daemon::new(settings, self.name())
            .stop(signal, Duration::from_mins(1))
            .await
    }

    /// Waits until it answers a real request. Fails early when the process has exited.
    pub async fn wait_until_ready(self, settings: &Settings) -> Result<()> {
        let daemon = Daemon::new(settings, self.name());
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let Err(error) = self.probe(settings).await else {
                return Ok(());
            };
            if !daemon.is_alive() {
                bail!(
                    "{} exited; its log ends with\n{}",
                    self.name(),
                    daemon.log_tail(20)
                );
            }
            if Instant::now() > deadline {
                return Err(error).with_context(|| {
                    let (name, tail) = (self.name(), daemon.log_tail(20));
                    format!("{name} does not respond; its log ends with\n{tail}")
                });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Sends one real request, with a timeout.
    pub async fn probe(self, settings: &Settings) -> Result<()> {
        let request = async {
            match self {
                Self::Kafka => kafka::probe(settings).await,
                Self::Milvus => milvus::probe(settings).await,
                Self::MongoDb => mongodb::probe(settings).await,
                Self::S3 => s3::probe(settings).await,
                Self::Redis => redis::probe(settings).await,
            }
        };
        match tokio::time::timeout(Duration::from_secs(5), request).await {
            Ok(answer) => answer,
            Err(_) => bail!("no response from {} within 5 s", self.name()),
        }
    }

    fn command(self, settings: &Settings, limit: WriteLimit) -> Result<Command> {
        match self {
            Self::Kafka => kafka::command(settings),
            Self::Milvus => milvus::command(settings, limit),
            Self::MongoDb => Ok(mongodb::command(settings)),
            Self::S3 => Ok(s3::command(settings)),
            Self::Redis => Ok(redis::command(settings)),
        }
    }
}

/// Waits until the previous server has released its port, which takes a moment after a kill. A port
/// that another program uses is reported here, rather than as a server that never becomes ready.
async fn wait_for_port(name: &str, port: u16) -> Result<()> {
    let deadline = Instant::now() + PORT_LIMIT;
    loop {
        match TcpListener::bind((NODE_IP, port)) {
            Ok(_) => return Ok(()),
            Err(_) if Instant::now() < deadline => {}
            Err(error) => {
                let variable = format!("LAYRA_TESTBED_{}_PORT", name.to_uppercase());
                return Err(error).with_context(|| {
                    format!(
                        "{name} cannot listen on {NODE_IP}:{port}; set another port with {variable}"
                    )
                });
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
