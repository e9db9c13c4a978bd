//! The test-bed: Kubernetes and the data services, real ones, on this machine, and the images that
//! run there. It is started at most once and reused; it never touches anything that it did not
//! make, and it is no client of what it starts: that takes libraries which are long to compile.

pub mod arguments;
pub mod artifacts;
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

pub use cargo::{build_release, cargo, target_directory, test_targets};
pub use images::{Images, dist};
pub use interrupt::interrupted;
pub use logs::print_logs;
pub use prerequisites::{check as check_prerequisites, is_root};
pub use process::{Daemon, Signal};
pub use progress::{Progress, Step};
pub use running::{Frozen, RunningService};
pub use services::{Service, WriteLimit};
pub use settings::Settings;
pub use status::{ProcessStatus, processes};

use lock::Lock;

/// How an end-to-end test begins the line with its time: seconds and name follow.
pub const TOOK: &str = "took ";

/// A bed that answers. It keeps running when this value is dropped.
#[derive(Clone, Debug)]
pub struct Testbed {
    settings: Settings,
    kubeconfig: PathBuf,
    endpoints: Endpoints,
    is_external: bool,
}

/// Where the services are, for pods and the host alike.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// Kafka's bootstrap servers, `host:port`.
    pub kafka: String,
    /// `http://host:port`.
    pub milvus: String,
    /// The S3 server.
    pub s3: S3Endpoint,
    /// `mongodb://host:port`.
    pub mongodb_uri: String,
    /// `redis://host:port`.
    pub redis_uri: String,
}

/// An S3 server and the credentials of a user that may do everything.
#[derive(Clone)]
pub struct S3Endpoint {
    /// `http://host:port`.
    pub endpoint: String,
    /// The user.
    pub access_key: String,
    /// The user's secret.
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
    /// A bed that answers: the servers named by the environment, else the one that is running,
    /// else a new one. What a killed run or a reboot left behind is removed first.
    pub async fn obtain() -> Result<Self> {
        let settings = Settings::from_env()?;
        if let Some((kubeconfig, endpoints)) = external::from_env()? {
            return Ok(Self {
                settings,
                kubeconfig,
                endpoints,
                is_external: true,
            });
        }
        let _lock = bed_lock(&settings).await?;
        if !is_healthy(&settings).await {
            prerequisites::check()?;
            artifacts::provide(&settings, artifacts::BED).await?;
            restart(&settings).await?;
        }
        Ok(Self::running(settings))
    }

    /// The running bed, or none when there is none that answers. Starts nothing.
    pub async fn find() -> Result<Option<Self>> {
        let settings = Settings::from_env()?;
        if let Some((kubeconfig, endpoints)) = external::from_env()? {
            return Ok(Some(Self {
                settings,
                kubeconfig,
                endpoints,
                is_external: true,
            }));
        }
        Ok(is_healthy(&settings).await.then(|| Self::running(settings)))
    }

    /// Stops the bed and removes everything of it but the logs. Safe when nothing runs.
    pub async fn down() -> Result<()> {
        let settings = Settings::from_env()?;
        let _lock = bed_lock(&settings).await?;
        tear_down(&settings).await
    }

    /// Where the services are.
    #[must_use]
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Folders and ports.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether the servers are somebody else's.
    #[must_use]
    pub fn is_external(&self) -> bool {
        self.is_external
    }

    /// The images to test: those named by `LAYRA_E2E_OPERATOR_IMAGE` and `LAYRA_E2E_WORKER_IMAGE`,
    /// else built from this repository and put into the bed.
    pub async fn images(&self) -> Result<Images> {
        match Images::from_env() {
            Some(images) => Ok(images),
            None if self.is_external => bail!(
                "on servers that are not ours, name the images: LAYRA_E2E_OPERATOR_IMAGE and \
                 LAYRA_E2E_WORKER_IMAGE"
            ),
            // Boxed: it would make every future that awaits it large.
            None => Box::pin(Images::build(&self.settings)).await,
        }
    }

    /// A service of our own bed, to be stopped and started by fault tests.
    pub fn service(&self, service: Service) -> Result<RunningService<'_>> {
        if self.is_external {
            bail!("{} is not ours to stop", service.name());
        }
        Ok(RunningService {
            settings: &self.settings,
            service,
        })
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
        }
    }
}

async fn bed_lock(settings: &Settings) -> Result<Lock> {
    Lock::acquire(
        &settings.cache.join("bed.lock"),
        "starts or stops the test-bed",
    )
    .await
}

/// Every process that was started still runs and answers, with the settings asked for.
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
        .context("removing what an earlier run left")?;
    let progress = Progress::new();
    match start(settings, &progress).await {
        Ok(()) => Ok(()),
        Err(error) => {
            // Nobody can use half a bed; its logs stay.
            tear_down(settings)
                .await
                .context("removing a bed that did not start")?;
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
    // To the end, also when one fails: nothing may be starting when the rest is torn down.
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
        // Nothing here is worth a graceful end: a loaded Milvus takes most of a minute for it.
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
