//! The data services: how each is started and which real request shows that it works.

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

pub use milvus::WriteLimit;
pub(super) use milvus::milvus_ports;
pub(super) use s3::{ACCESS_KEY, SECRET_KEY};

use super::process::{Daemon, Signal};
use super::settings::{NODE_IP, Settings};

/// How long a service may take from its start to its first answer.
const START_LIMIT: Duration = Duration::from_secs(90);

/// How long a killed server may hold its port.
const PORT_LIMIT: Duration = Duration::from_secs(15);

/// The data services of the bed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Apache Kafka, one broker.
    Kafka,
    /// Milvus standalone.
    Milvus,
    /// A server of MongoDB's wire protocol.
    MongoDb,
    /// MinIO.
    S3,
    /// Redis.
    Redis,
}

impl Service {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 5] = [
        Self::Kafka,
        Self::Milvus,
        Self::MongoDb,
        Self::S3,
        Self::Redis,
    ];

    /// The name of its process and log.
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

    /// The port that its clients use.
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

    /// Starts it, on the data of its last run if there is any, and waits until it answers.
    pub async fn start(self, settings: &Settings) -> Result<()> {
        self.start_with(settings, WriteLimit::None).await
    }

    /// The same, with a limit that Milvus alone has.
    pub async fn start_with(self, settings: &Settings, limit: WriteLimit) -> Result<()> {
        wait_for_port(self.name(), self.port(settings)).await?;
        std::fs::create_dir_all(settings.data(self.name()))?;
        let command = self.command(settings, limit)?;
        Daemon::new(settings, self.name()).start(&command)?;
        self.wait_until_ready(settings).await
    }

    /// Ends it; its data stays.
    pub async fn stop(self, settings: &Settings, signal: Signal) -> Result<()> {
        Daemon::new(settings, self.name())
            .stop(signal, Duration::from_mins(1))
            .await
    }

    /// Waits until a real request is answered. Fails early when the process has ended.
    pub async fn wait_until_ready(self, settings: &Settings) -> Result<()> {
        let daemon = Daemon::new(settings, self.name());
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let Err(error) = self.probe(settings).await else {
                return Ok(());
            };
            if !daemon.is_alive() {
                bail!(
                    "{} ended; its log ends with\n{}",
                    self.name(),
                    daemon.log_tail(20)
                );
            }
            if Instant::now() > deadline {
                return Err(error).with_context(|| {
                    let (name, tail) = (self.name(), daemon.log_tail(20));
                    format!("{name} does not answer; its log ends with\n{tail}")
                });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// One real request, bounded in time.
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
            Err(_) => bail!("no answer from {} within 5 s", self.name()),
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

/// Waits until the last server has let go of its port: one that was killed takes a moment for that.
/// A port in use by somebody else would show as a server that never gets ready.
async fn wait_for_port(name: &str, port: u16) -> Result<()> {
    let deadline = Instant::now() + PORT_LIMIT;
    loop {
        match TcpListener::bind((NODE_IP, port)) {
            Ok(_) => return Ok(()),
            Err(_) if Instant::now() < deadline => {}
            Err(error) => {
                let variable = format!("LAYRA_TESTBED_{}_PORT", name.to_uppercase());
                return Err(error).with_context(|| {
                    format!("{name} cannot listen on {NODE_IP}:{port} (another port: {variable})")
                });
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
