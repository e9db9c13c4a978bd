//! Rebuilds of a collection on a Milvus that is full, slow or away, and what becomes of a rebuild
//! when drift is only reported again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use layra_e2e::cluster::eventually;
use layra_e2e::milvus_admin;
use layra_e2e::rebuild::{Library, Reindex};
use layra_e2e::worker_cli::WorkerCli;
use layra_testbed::settings::NODE_IP;
use layra_testbed::tight_milvus;
use milvus::v2::ClientV2;
use milvus::v2::prelude::{ConnectConfig, ListCollectionsRequest};
use mongodb::bson::{DateTime, Document, doc};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::reindex::{LATE_WRITES, add, check, library, rename, wait_for};
use crate::scene::{Stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);
/// Ports of a Milvus, and the one of its health.
const PORTS: u16 = 13;
const METRICS: u16 = 11;

/// A Milvus with tight limits. It ends with this value.
struct Server {
    client: ClientV2,
    port: u16,
    _process: Child,
    _folder: TempDir,
}

impl Server {
    async fn start(stage: &Stage) -> Result<Self> {
        let folder = TempDir::new()?;
        let port = free_ports()?;
        let command = tight_milvus(stage.testbed.settings(), folder.path(), port)?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let process = Command::from(command)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let health = format!("http://{NODE_IP}:{}/healthz", port + METRICS);
        eventually("a Milvus of its own", 2 * MINUTE, async || {
            let answer = reqwest::get(&health).await?.text().await?;
            Ok(answer.contains("OK").then_some(()))
        })
        .await?;
        let config = ConnectConfig::new().uri(format!("http://{NODE_IP}:{port}"));
        let client = ClientV2::new(&config).await?;
        Ok(Self {
            client,
            port,
            _process: process,
            _folder: folder,
        })
    }

    async fn collections(&self) -> Result<Vec<String>> {
        let request = ListCollectionsRequest::builder().build()?;
        let answer = self.client.list_collections(request).await?;
        Ok(answer.collection_names().to_vec())
    }
}

/// The first of so many free ports, below those that the kernel gives to clients.
fn free_ports() -> Result<u16> {
    let is_free = |port: u16| std::net::TcpListener::bind(("0.0.0.0", port)).is_ok();
    let mut starts = (0..100).map(|_| fastrand::u16(21_000..29_000));
    starts
        .find(|start| (*start..start + PORTS).all(is_free))
        .context("free ports")
}

/// Passes connections on to a server until they are cut.
struct Relay {
    address: SocketAddr,
    away: watch::Sender<bool>,
}

impl Relay {
    async fn start(port: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (away, is_away) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mut is_away = is_away.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        biased;
                        _ = is_away.wait_for(|away| *away) => {}
                        _ = pass(client, port) => {}
                    }
                });
            }
        });
        Ok(Self { address, away })
    }

    /// Cuts all connections, and accepts none until it is called with `false`.
    fn set_away(&self, away: bool) {
        self.away.send_replace(away);
    }
}

async fn pass(mut client: TcpStream, port: u16) -> std::io::Result<()> {
    let mut server = TcpStream::connect((NODE_IP, port)).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// What a run says about the server.
async fn says(run: &Reindex, what: &str, words: impl Fn(&str) -> bool) -> Result<()> {
    let end = Instant::now() + MINUTE;
    let mut last = String::new();
    // It says so only during the pauses, of which the first are short.
    while !words(&last) {
        ensure!(Instant::now() < end, "{what}: it said last: {last}");
        tokio::time::sleep(Duration::from_millis(30)).await;
        if let Ok(progress) = run.progress().await {
            last = progress.message;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_rebuild_waits_for_a_milvus_that_is_full_slow_or_away_and_says_so() -> Result<()> {
    on_stage("rebuild-faults", async |stage| {
        let patch = json!({"spec": {
            "stores": {"milvus": {"index": {"m": 24, "efConstruction": 100}}},
            "scaling": {"mode": "Manual", "replicas": 0},
        }});
        stage.apply_until_ready(&patch).await?;
        let server = Server::start(stage).await?;
        let relay = Relay::start(server.port).await?;
        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
        let config = cli.configuration()?;
        let here = format!("http://{}", relay.address);
        let config = config.replace(&stage.testbed.endpoints().milvus, &here);
        ensure!(config.contains(&here), "{config}");
        std::fs::write(cli.directory().join("worker.yaml"), config)?;

        let user = stage.user().await?;
        let mut stores = stage.stores.clone();
        stores.milvus = server.client.clone();
        let library = Library {
            stores,
            collection: format!("colqwen{}", user.knowledge_base.replace('-', "_")),
            knowledge_base: user.knowledge_base,
            dimensions: 128,
            rows: 100,
        };
        milvus_admin::create_like_layra(&server.client, &library.collection, 128).await?;
        let mut files = BTreeMap::new();
        for number in 0..30 {
            let file = format!("{}_{number}", library.knowledge_base);
            library.add(&file, 2, &library.collection).await?;
            files.insert(file, 2);
        }
        let other = "another_application";
        milvus_admin::create_like_layra(&server.client, other, 8).await?;

        let run = Reindex::start(&cli, &library.collection, LATE_WRITES)?;
        says(&run, "the limit of collections to be named", |words| {
            words.contains("limit number of collections")
        })
        .await?;
        let state = library.rebuild().await?.context("a state")?;
        ensure!(state.get_str("phase")? == "filling", "{state:?}");
        ensure!(library.index_m().await? == "16");
        let violations = library.violations(&files).await?;
        ensure!(violations.is_empty(), "it serves: {violations:#?}");

        milvus_admin::drop(&server.client, other).await?;
        says(&run, "the limited rate to be named", |words| {
            words.contains("rate limit")
        })
        .await?;

        relay.set_away(true);
        says(&run, "the lost connection to be named", |words| {
            words.contains("retrying") && !words.contains("rate limit")
        })
        .await?;
        let state = library.rebuild().await?.context("a state")?;
        ensure!(state.get_str("phase")? == "filling", "{state:?}");
        let violations = library.violations(&files).await?;
        ensure!(violations.is_empty(), "it serves: {violations:#?}");
        relay.set_away(false);

        run.finish(2 * MINUTE, &cli).await?;
        let violations = library.violations(&files).await?;
        ensure!(violations.is_empty(), "{violations:#?}");
        ensure!(library.index_m().await? == "24");
        ensure!(library.rebuild().await?.is_none(), "its state is left");
        let collections = server.collections().await?;
        ensure!(
            collections == [library.collection.clone()],
            "{collections:?}"
        );
        Ok(())
    })
    .await
}

/// As the Job of a pipeline whose `onIndexDrift` is Report.
async fn finish(cli: &WorkerCli, library: &Library) -> Result<()> {
    let late_writes = LATE_WRITES.as_secs().to_string();
    let arguments = [
        "reindex",
        "--finish",
        "--collection",
        &library.collection,
        "--listen",
        "127.0.0.1:0",
        "--late-writes-seconds",
        &late_writes,
    ];
    cli.run(&arguments).await?;
    Ok(())
}

/// Begins a rebuild, and kills it while rows are copied. Returns its state.
async fn killed(cli: &WorkerCli, library: &Library) -> Result<Document> {
    let run = Reindex::start(cli, &library.collection, LATE_WRITES)?;
    let state = wait_for(library, "some rows to be copied", |rebuild| {
        rebuild.get_i64("copied").is_ok_and(|copied| copied > 0)
    })
    .await?;
    run.kill()?;
    Ok(state)
}

#[tokio::test]
async fn a_swap_is_finished_and_a_copy_dropped_when_drift_is_only_reported() -> Result<()> {
    on_stage("reindex-finish", async |stage| {
        let mut files = BTreeMap::new();
        let library = library(stage, &mut files).await?;
        let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;

        let state = killed(&cli, &library).await?;
        finish(&cli, &library).await?;
        ensure!(library.rebuild().await?.is_none(), "its state is left");
        ensure!(library.index_m().await? == "16", "it serves as before");
        let violations = library.violations(&files).await?;
        ensure!(violations.is_empty(), "{violations:#?}");
        let token = state.get_str("token")?;
        let request = ListCollectionsRequest::builder().build()?;
        let all = stage.stores.milvus.list_collections(request).await?;
        let left = all.collection_names().iter();
        ensure!(left.filter(|name| name.contains(token)).count() == 0);

        // As if it was killed between the two renames.
        let state = killed(&cli, &library).await?;
        let old = format!("layra_reindex_{}_old", state.get_str("token")?);
        let rebuilds = stage
            .stores
            .mongodb
            .collection::<Document>("ingestion_rebuilds");
        let swapping = doc! { "$set": { "phase": "swapping", "swapped_at": DateTime::now() } };
        rebuilds
            .update_one(doc! { "_id": &library.collection }, swapping)
            .await?;
        // Written at the last moment.
        add(&library, &mut files, 30, &library.collection).await?;
        rename(stage, &library.collection, &old).await?;
        finish(&cli, &library).await?;
        check(stage, &library, &files).await
    })
    .await
}
