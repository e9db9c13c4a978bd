//! `layra-operator`: makes workers, topics and scaling decisions from `IngestionPipeline` objects.

#[cfg(test)]
mod fixtures;
mod kafka;
mod leader;
mod milvus;
mod reconcile;
mod resources;
mod telemetry;

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use kube::{Client, Config, CustomResourceExt, client::ClientBuilder, runtime::events::Reporter};
use layra_crds::IngestionPipeline;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::limit::ConcurrencyLimitLayer;

use leader::Lease;
use reconcile::Shared;
use telemetry::{Health, Metrics};

/// Requests to the API server at the same time.
const REQUESTS_AT_ONCE: usize = 16;

/// Makes workers, topics and scaling decisions from ingestion pipelines.
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
    /// Namespaces whose pipelines are reconciled. Default: the operator's own.
    #[arg(long, env = "WATCH_NAMESPACES", value_delimiter = ',')]
    namespaces: Vec<String>,

    /// Image of workers whose pipeline names none.
    #[arg(long, env = "WORKER_IMAGE", default_value = concat!("layra-worker:", env!("CARGO_PKG_VERSION")))]
    worker_image: String,

    /// Address of /metrics, /healthz and /readyz.
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,

    /// Name of the lease that the leader holds.
    #[arg(long, env = "LEASE_NAME", default_value = "layra-operator")]
    lease_name: String,

    /// Name of this pod, the holder of the lease. Default: the host's name.
    #[arg(long, env = "POD_NAME")]
    pod_name: Option<String>,

    /// Namespace of this pod and of the lease. Default: that of the Kubernetes configuration.
    #[arg(long, env = "POD_NAMESPACE")]
    pod_namespace: Option<String>,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Crd => print_crd(),
        Command::Run(args) => {
            telemetry::start_logs();
            block_on(run(args))
        }
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider is installed already"))?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

fn print_crd() -> anyhow::Result<()> {
    print!("{}", serde_yaml_ng::to_string(&IngestionPipeline::crd())?);
    Ok(())
}

async fn run(args: RunArgs) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    stop_on_signal(stop.clone())?;

    let access = Config::infer()
        .await
        .context("no access to a Kubernetes API server")?;
    let client = Client::try_from(access.clone())?;
    let own_namespace = args
        .pod_namespace
        .unwrap_or_else(|| client.default_namespace().to_owned());
    let identity = args.pod_name.unwrap_or_else(identity);
    let metrics = Metrics::new()?;
    let health = Health::default();
    let mut server = tokio::spawn(telemetry::serve(
        args.listen,
        metrics.clone(),
        health.clone(),
        stop.clone(),
    ));

    let joining = Lease::join(client, &own_namespace, &args.lease_name, &identity);
    let mut lease = tokio::select! {
        lease = joining => lease,
        ended = &mut server => return ended?.context("the HTTP endpoints failed"),
        () = stop.cancelled() => return Ok(()),
    };
    health.set_ready();
    tracing::info!(identity, lease = args.lease_name, "waiting for the lease");

    let shared = Arc::new(Shared {
        client: in_turns(access)?,
        kafka: kafka::KafkaClients::default(),
        milvus: milvus::MilvusClients::default(),
        http: reconcile::metrics_client()?,
        reporter: Reporter {
            controller: "layra-operator".to_owned(),
            instance: Some(identity),
        },
        metrics,
        worker_image: args.worker_image,
    });
    let namespaces = watched(args.namespaces, own_namespace);
    let outcome = tokio::select! {
        outcome = lead(&mut lease, shared, namespaces, &stop) => outcome,
        ended = &mut server => ended?.context("the HTTP endpoints failed"),
    };
    stop.cancel();
    lease.release().await;
    outcome
}

/// A client with a limited number of requests at the same time, each of which is a connection of its
/// own; an open watch counts only until its answer begins. The lease has a client without limit, so
/// that no queue holds up its renewal.
fn in_turns(config: Config) -> kube::Result<Client> {
    let limit = ConcurrencyLimitLayer::new(REQUESTS_AT_ONCE);
    Ok(ClientBuilder::try_from(config)?.with_layer(&limit).build())
}

/// The namespaces to watch; an empty variable of the environment names none.
fn watched(named: Vec<String>, own: String) -> Vec<String> {
    let mut namespaces: Vec<String> = named.into_iter().filter(|name| !name.is_empty()).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    if namespaces.is_empty() {
        vec![own]
    } else {
        namespaces
    }
}

/// Waits for the lease, and reconciles while it is held.
async fn lead(
    lease: &mut Lease,
    shared: Arc<Shared>,
    namespaces: Vec<String>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        leads = lease.until(true) => leads?,
        () = stop.cancelled() => return Ok(()),
    }
    tracing::info!(?namespaces, "leading");
    shared.metrics.leads(true);
    let halt = stop.child_token();
    let mut loops = JoinSet::new();
    for namespace in namespaces {
        loops.spawn(reconcile::run(Arc::clone(&shared), namespace, halt.clone()));
    }
    let outcome = tokio::select! {
        // A process that lost the lease starts anew: nothing of what it knows may live on.
        _ = lease.until(false) => Err(leader::LeaseLost.into()),
        ended = loops.join_next() => match ended {
            Some(Err(error)) => Err(anyhow::Error::new(error).context("a reconcile loop died")),
            _ if stop.is_cancelled() => Ok(()),
            _ => Err(anyhow::anyhow!("a reconcile loop ended")),
        },
    };
    halt.cancel();
    // What has begun is finished while the lease is still held.
    while loops.join_next().await.is_some() {}
    shared.metrics.leads(false);
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
        tracing::info!("stopping");
        stop.cancel();
    });
    Ok(())
}

/// The host's name and the process: enough to tell operators on one machine apart.
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
    fn without_a_name_the_operator_watches_its_own_namespace() {
        assert_eq!(watched(vec![], "own".into()), ["own"]);
        assert_eq!(watched(vec![String::new()], "own".into()), ["own"]);
        assert_eq!(
            watched(vec!["b".into(), "a".into(), "b".into()], "own".into()),
            ["a", "b"]
        );
    }
}
