//! `layra-operator`: reconciles `IngestionPipeline` objects into topics and an autoscaled fleet of
//! workers.

#[cfg(test)]
mod chart_tests;
#[cfg(test)]
mod fixtures;
mod kafka;
mod leader;
mod milvus;
mod reconcile;
mod resources;
mod telemetry;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use kube::{Client, Config, client::ClientBuilder, runtime::events::Reporter};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::limit::ConcurrencyLimitLayer;

use leader::{Fence, Leases};
use mimalloc::MiMalloc;
use reconcile::Shared;
use telemetry::{Health, Metrics};

/// Each reconcile makes and drops thousands of small strings beside those that are kept for hours. With
/// glibc's allocator, searching its holes was a third of the operator's CPU time.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Concurrent requests to the API server.
const MAX_REQUESTS: usize = 16;
/// How often the API server is asked whether it is there, and for how long.
const API_SERVER_INTERVAL: Duration = Duration::from_secs(10);
const API_SERVER_TIMEOUT: Duration = Duration::from_secs(5);

/// Threads of the async runtime.
const WORKER_THREADS: usize = 2;

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the operator until SIGTERM or Ctrl-C.
    Run(RunArgs),
    /// Print the CustomResourceDefinition as YAML.
    Crd,
}

#[derive(Args)]
struct RunArgs {
    /// Comma-separated namespaces to watch. Default: the operator's own namespace.
    #[arg(long, env = "WATCH_NAMESPACES", value_delimiter = ',')]
    namespaces: Vec<String>,

    /// Worker image for pipelines that do not set `spec.worker.image`.
    #[arg(long, env = "WORKER_IMAGE", default_value = concat!("layra-worker:", env!("CARGO_PKG_VERSION")))]
    worker_image: String,

    /// Address to serve /metrics, /healthz and /readyz on.
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,

    /// Name of the Leases for leader election, one in each watched namespace. Operators that may
    /// watch the same namespace need the same name.
    #[arg(long, env = "LEASE_NAME", default_value = "layra-operator")]
    lease_name: String,

    /// Name of this pod, its identity in leader election. Default: host name and process ID.
    #[arg(long, env = "POD_NAME")]
    pod_name: Option<String>,

    /// Namespace of this pod. Default: that of the service account or kubeconfig.
    #[arg(long, env = "POD_NAMESPACE")]
    pod_namespace: Option<String>,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Crd => print_crd(),
        Command::Run(args) => {
            telemetry::start_logs();
            use_small_pages();
            block_on(run(args))
        }
    }
}

/// The allocator asks for huge pages of 2 MiB, and one small object that outlives its neighbours keeps
/// such a page resident. With 1,000 pipelines a third of the operator's memory was unused.
fn use_small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::warn!(%error, "the kernel keeps transparent huge pages: the operator needs more memory");
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider is already installed"))?;
    tokio::runtime::Builder::new_multi_thread()
        // It mostly waits. Each further thread would have a heap of its own.
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()?
        .block_on(work)
}

fn print_crd() -> anyhow::Result<()> {
    print!("{}", layra_crds::crd_yaml()?);
    Ok(())
}

async fn run(args: RunArgs) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    stop_on_signal(stop.clone())?;

    let config = Config::infer()
        .await
        .context("no configuration for a Kubernetes API server found")?;
    let client = Client::try_from(config.clone())?;
    let own_namespace = args
        .pod_namespace
        .unwrap_or_else(|| client.default_namespace().to_owned());
    let identity = args.pod_name.unwrap_or_else(identity);
    let metrics = Metrics::new()?;
    let health = Health::default();
    // It answers until the end: while reconciles in progress finish, the pod is alive.
    let answered = CancellationToken::new();
    let mut server = tokio::spawn(telemetry::serve(
        args.listen,
        metrics.clone(),
        health.clone(),
        answered.clone(),
    ));

    let watching = tokio::spawn(watch_api_server(client.clone(), health.clone()));
    let namespaces = watched_namespaces(args.namespaces, own_namespace);
    let reached = || health.set_ready();
    let name = &args.lease_name;
    let acquired = Leases::acquire(&client, &namespaces, name, &identity, reached, &stop);
    let acquired = tokio::select! {
        leases = acquired => leases,
        ended = &mut server => return ended?.context("the HTTP server failed"),
    };
    let Some(mut leases) = acquired else {
        return Ok(());
    };

    let fence = leases.fence();
    let shared = Arc::new(Shared {
        client: limited_client(config, &fence)?,
        kafka: kafka::KafkaClients::new(fence),
        milvus: milvus::MilvusClients::default(),
        http: reconcile::worker_client()?,
        reporter: Reporter {
            controller: "layra-operator".to_owned(),
            instance: Some(identity),
        },
        metrics,
        worker_image: args.worker_image,
        pipelines: reconcile::Pipelines::default(),
    });
    let outcome = tokio::select! {
        outcome = lead(shared, namespaces, &stop) => outcome,
        ended = &mut server => ended?.context("the HTTP server failed"),
        lost = leases.lost() => {
            // At once: what is in progress was decided by a leader. Nothing of it is written any
            // more, and nothing waits for it.
            tracing::error!("exiting: {lost}");
            std::process::exit(1);
        }
    };
    stop.cancel();
    watching.abort();
    leases.release().await;
    answered.cancel();
    outcome
}

/// Asks the API server regularly whether it is there, for `/readyz`.
async fn watch_api_server(client: Client, health: Health) {
    loop {
        let answer = tokio::time::timeout(API_SERVER_TIMEOUT, client.apiserver_version()).await;
        // Without the permission to ask, it answers, too.
        if matches!(answer, Ok(Ok(_) | Err(kube::Error::Api(_)))) {
            health.answered();
        }
        tokio::time::sleep(API_SERVER_INTERVAL).await;
    }
}

/// A client with a limit on concurrent requests, each of which has its own connection. An open watch
/// counts only until its response starts. The leases have a client without a limit, so that no queue
/// delays their renewal. A write is refused after the leases' time has passed; that is checked last,
/// when the request has waited for its turn.
fn limited_client(config: Config, fence: &Fence) -> kube::Result<Client> {
    let limit = ConcurrencyLimitLayer::new(MAX_REQUESTS);
    let builder = ClientBuilder::try_from(config)?;
    Ok(builder.with_layer(fence).with_layer(&limit).build())
}

/// The namespaces to watch. An empty environment variable counts as not set.
fn watched_namespaces(named: Vec<String>, own: String) -> Vec<String> {
    let mut namespaces: Vec<String> = named.into_iter().filter(|name| !name.is_empty()).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    if namespaces.is_empty() {
        vec![own]
    } else {
        namespaces
    }
}

/// Reconciles until `stop`.
async fn lead(
    shared: Arc<Shared>,
    namespaces: Vec<String>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    tracing::info!(?namespaces, "leases acquired, reconciling");
    shared.metrics.set_leader(true);
    let halt = stop.child_token();
    let mut controllers = JoinSet::new();
    // All caches before the first reconcile, which looks at the pipelines of all namespaces.
    let caches: Vec<_> = namespaces.iter().map(|_| shared.pipelines.add()).collect();
    for (namespace, pipelines) in namespaces.into_iter().zip(caches) {
        controllers.spawn(reconcile::run(
            Arc::clone(&shared),
            namespace,
            pipelines,
            halt.clone(),
        ));
    }
    let outcome = match controllers.join_next().await {
        Some(Err(error)) => Err(anyhow::Error::new(error).context("a controller panicked")),
        _ if stop.is_cancelled() => Ok(()),
        _ => Err(anyhow::anyhow!("a controller ended unexpectedly")),
    };
    halt.cancel();
    // Reconciles in progress finish while the leases are still held.
    while controllers.join_next().await.is_some() {}
    shared.metrics.set_leader(false);
    outcome
}

fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("shutting down");
        stop.cancel();
    });
    Ok(())
}

/// Host name and process ID: unique among operators on one machine.
fn identity() -> String {
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    format!("{}-{}", host.trim(), std::process::id())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_namespaces_the_operator_watches_its_own() {
        assert_eq!(watched_namespaces(vec![], "own".into()), ["own"]);
        assert_eq!(
            watched_namespaces(vec![String::new()], "own".into()),
            ["own"]
        );
        assert_eq!(
            watched_namespaces(vec!["b".into(), "a".into(), "b".into()], "own".into()),
            ["a", "b"]
        );
    }
}
