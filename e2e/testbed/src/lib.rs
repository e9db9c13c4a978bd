//! The test-bed: real Kubernetes and data services on this machine, and the images that run there.
//!
//! It is started at most once and reused, and it never touches anything that it did not create. The
//! crate uses no client library of the servers that it starts: those take long to compile.

pub mod arguments;
pub mod artifacts;
mod bill;
mod cargo;
pub mod causes;
mod external;
mod images;
mod interrupt;
mod kubernetes;
mod lock;
mod logs;
pub mod phases;
mod prerequisites;
mod process;
mod progress;
mod running;
mod services;
pub mod settings;
mod status;
mod strays;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::join_all;

pub use bill::{Bill, LICENCES, Part, SBOM, SECTION};
pub use cargo::{
    DependencyGraph, Metadata, Package, build_release, cargo, target_directory, test_targets,
};
pub use images::{Images, bill as bill_of, dist};
pub use interrupt::{Ended, unless_interrupted};
pub use logs::print_logs;
pub use prerequisites::{Purpose, check as check_prerequisites};
pub use progress::{Progress, Step};
pub use running::{Frozen, RunningService};
pub use services::{BUCKET_EVENTS, Service, WriteLimit, tight_milvus};
pub use settings::Settings;
pub use status::{ProcessStatus, describe_testbed, processes};

use lock::Lock;
use process::{Daemon, Signal};

/// Start of the line with the duration of an end-to-end test; seconds and name follow.
pub const TOOK: &str = "took ";

/// A running test-bed. It keeps running when this value is dropped.
#[derive(Clone, Debug)]
pub struct Testbed {
    settings: Settings,
    kubeconfig: PathBuf,
    endpoints: Endpoints,
    is_external: bool,
    is_new: bool,
}

/// Addresses of the services, the same for pods and the host.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// Kafka's bootstrap servers, `host:port`.
    pub kafka: String,
    /// Milvus, `http://host:port`.
    pub milvus: String,
    /// The S3 server.
    pub s3: S3Endpoint,
    /// The MongoDB wire server, `mongodb://host:port`.
    pub mongodb_uri: String,
    /// Redis, `redis://host:port`.
    pub redis_uri: String,
}

/// An S3 server and the credentials of a user with all permissions.
#[derive(Clone)]
pub struct S3Endpoint {
    /// Address, `http://host:port`.
    pub endpoint: String,
    /// Access key of the user.
    pub access_key: String,
    /// Secret key of the user.
    pub secret_key: String,
}

impl std::fmt::Debug for S3Endpoint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("S3Endpoint")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl Testbed {
    /// Returns the servers that the environment names, else the running test-bed, else a new one.
    /// The remains of a killed run or of a reboot are removed first, and servers that it has left
    /// frozen are resumed.
    pub async fn obtain() -> Result<Self> {
        let settings = Settings::from_env()?;
        if let Some(external) = Self::external(&settings)? {
            return Ok(external);
        }
        let _lock = bed_lock(&settings).await?;
        // A killed fault run may have left a server frozen.
        for service in Service::ALL {
            Daemon::new(&settings, service.name()).send(Signal::Thaw)?;
        }
        let is_new = !is_healthy(&settings).await;
        if is_new {
            prerequisites::check(Purpose::Servers)?;
            artifacts::provide(&settings, artifacts::BED).await?;
            restart(&settings).await?;
        }
        Ok(Self {
            is_new,
            ..Self::running(settings)
        })
    }

    /// Returns the running test-bed, or none when there is no healthy one. Starts nothing.
    pub async fn find() -> Result<Option<Self>> {
        let settings = Settings::from_env()?;
        if let Some(external) = Self::external(&settings)? {
            return Ok(Some(external));
        }
        Ok(is_healthy(&settings).await.then(|| Self::running(settings)))
    }

    /// Stops the test-bed and removes everything but its logs. Does nothing when nothing runs.
    pub async fn down() -> Result<()> {
        let settings = Settings::from_env()?;
        let _lock = bed_lock(&settings).await?;
        tear_down(&settings).await
    }

    /// Addresses of the services.
    #[must_use]
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Directories and ports.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether the environment named the servers, so that they must not be stopped.
    #[must_use]
    pub fn is_external(&self) -> bool {
        self.is_external
    }

    /// Whether [`Testbed::obtain`] has started it, so that this program may stop it again.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// The images to test: those named by `LAYRA_E2E_OPERATOR_IMAGE` and `LAYRA_E2E_WORKER_IMAGE`,
    /// else images built from this repository and imported into the test-bed.
    pub async fn images(&self) -> Result<Images> {
        match Images::from_env() {
            Some(images) => Ok(images),
            None if self.is_external => bail!(
                "with your own servers, name the images in LAYRA_E2E_OPERATOR_IMAGE and \
                 LAYRA_E2E_WORKER_IMAGE"
            ),
            // Boxed: it would make every future that awaits it large.
            None => Box::pin(Images::build(&self.settings)).await,
        }
    }

    /// A service of the test-bed that fault tests may stop and start.
    pub fn service(&self, service: Service) -> Result<RunningService<'_>> {
        if self.is_external {
            bail!(
                "{} was not started by the test-bed and must not be stopped",
                service.name()
            );
        }
        Ok(RunningService {
            settings: &self.settings,
            service,
        })
    }

    /// Kills the API server as a crash would, and starts it again on its data.
    pub async fn restart_api_server(&self) -> Result<()> {
        if self.is_external {
            bail!("the API server was not started by the test-bed and must not be stopped");
        }
        kubernetes::restart_api_server(&self.settings).await
    }

    fn running(settings: Settings) -> Self {
        let address =
            |service: Service| format!("{}:{}", settings::NODE_IP, service.port(&settings));
        let endpoints = Endpoints {
            kafka: address(Service::Kafka),
            milvus: format!("http://{}", address(Service::Milvus)),
            s3: S3Endpoint {
                endpoint: format!("http://{}", address(Service::S3)),
                access_key: services::ACCESS_KEY.to_owned(),
                secret_key: services::SECRET_KEY.to_owned(),
            },
            mongodb_uri: format!("mongodb://{}", address(Service::MongoDb)),
            redis_uri: format!("redis://{}", address(Service::Redis)),
        };
        Self {
            kubeconfig: settings.kubeconfig(),
            endpoints,
            settings,
            is_external: false,
            is_new: false,
        }
    }

    /// The servers that the environment names, if it does.
    fn external(settings: &Settings) -> Result<Option<Self>> {
        let external = external::from_env()?;
        Ok(external.map(|(kubeconfig, endpoints)| Self {
            settings: settings.clone(),
            kubeconfig,
            endpoints,
            is_external: true,
            is_new: false,
        }))
    }
}

async fn bed_lock(settings: &Settings) -> Result<Lock> {
    Lock::acquire(
        &settings.cache.join("bed.lock"),
        "is starting or stopping the test-bed",
    )
    .await
}

/// Whether every process of the test-bed runs with these settings and answers.
async fn is_healthy(settings: &Settings) -> bool {
    let started_with = fs::read_to_string(settings.state.join("settings"));
    if started_with.is_ok_and(|text| text != format!("{settings:?}")) || !has_all(settings) {
        return false;
    }
    let services = join_all(Service::ALL.map(|service| service.probe(settings)));
    let (kubernetes, services) = tokio::join!(kubernetes::probe(settings), services);
    kubernetes.is_ok() && services.iter().all(Result::is_ok)
}

fn has_all(settings: &Settings) -> bool {
    let kubernetes = kubernetes::PROCESSES.iter().map(|(name, _)| *name);
    let services = Service::ALL.map(Service::name);
    kubernetes
        .chain(services)
        .all(|name| Daemon::new(settings, name).is_alive())
}

async fn restart(settings: &Settings) -> Result<()> {
    tear_down(settings)
        .await
        .context("removing the remains of an earlier run")?;
    let progress = Progress::new();
    match start(settings, &progress).await {
        Ok(()) => Ok(()),
        Err(error) => {
            // A partly started test-bed is of no use; its logs stay.
            tear_down(settings)
                .await
                .context("removing a test-bed that did not start")?;
            Err(error.context(format!("logs: {}/log", settings.state.display())))
        }
    }
}

async fn start(settings: &Settings, progress: &Progress) -> Result<()> {
    fs::remove_dir_all(settings.state.join("log")).or_else(absent_is_fine)?;
    for folder in ["pid", "log", "data"] {
        fs::create_dir_all(settings.state.join(folder))?;
    }
    fs::write(settings.state.join("settings"), format!("{settings:?}"))?;
    kubernetes::network_up(settings).await?;
    let kubernetes = progress.step("kubernetes", "starting", kubernetes::up(settings));
    let services = Service::ALL
        .map(|service| progress.step(service.name(), "starting", service.start(settings)));
    // Wait for all, even when one fails: nothing may be starting while the rest is torn down.
    let (kubernetes, services) = tokio::join!(kubernetes, join_all(services));
    kubernetes?;
    services.into_iter().collect()
}

async fn tear_down(settings: &Settings) -> Result<()> {
    if !settings.state.exists() && strays::find(settings).is_empty() {
        return Ok(());
    }
    fs::create_dir_all(settings.state.join("log"))?;
    if settings.pod_logs().exists() {
        let kept = settings.state.join("log/pods");
        fs::remove_dir_all(&kept).or_else(absent_is_fine)?;
        fs::rename(settings.pod_logs(), kept).context("keeping the logs of pods")?;
    }
    kubernetes::down(settings).await?;
    for daemon in Daemon::recorded(settings)? {
        // No graceful shutdown: the data is deleted anyway, and a loaded Milvus takes most of a
        // minute.
        daemon.stop(Signal::Kill, Duration::from_secs(10)).await?;
    }
    strays::kill(settings).await?;
    kubernetes::network_down(settings).await?;
    for name in ["pid", "data"] {
        fs::remove_dir_all(settings.state.join(name)).or_else(absent_is_fine)?;
    }
    fs::remove_file(settings.state.join("settings")).or_else(absent_is_fine)?;
    Ok(())
}

fn absent_is_fine(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound {
        Ok(())
    } else {
        Err(error)
    }
}
