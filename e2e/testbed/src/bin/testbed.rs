//! `cargo testbed`: the test-bed by hand.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use layra_testbed::{
    Settings, Testbed, arguments, artifacts, check_prerequisites, dist, interrupted, processes,
};

/// Real servers for tests: Kubernetes, Kafka, Milvus, S3, MongoDB, Redis.
#[derive(Parser)]
#[command(name = "cargo testbed", bin_name = "cargo testbed")]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start it, or show that it runs. Fetches and builds what is missing.
    Up,
    /// Stop it and remove everything but its logs.
    Down,
    /// Show each process with its port and memory.
    Status,
    /// Fetch and build everything, start nothing.
    Artifacts,
    /// Build the binaries and gather what the container images carry in dist/.
    Dist,
    /// Build the container images and put them into the running bed; print their names.
    Images,
    /// Print the variables with which tests and programs use the running bed.
    Env,
    /// Run kubectl on the running bed.
    Kubectl {
        /// Arguments of kubectl.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let action = Arguments::parse_from(arguments::of_alias()).action;
    tokio::select! {
        biased;
        code = interrupted() => code.map(ExitCode::from),
        done = act(action) => done.map(|()| ExitCode::SUCCESS),
    }
}

async fn act(action: Action) -> Result<()> {
    match action {
        Action::Up => {
            let testbed = Testbed::obtain().await?;
            print_environment(&testbed);
            Ok(())
        }
        Action::Down => Testbed::down().await,
        Action::Status => status().await,
        Action::Artifacts => {
            check_prerequisites()?;
            artifacts::provide(&Settings::from_env()?, artifacts::ALL).await
        }
        Action::Dist => dist(&Settings::from_env()?).await.map(|_| ()),
        Action::Images => {
            let images = running().await?.images().await?;
            println!("{}\n{}", images.operator, images.worker);
            Ok(())
        }
        Action::Env => {
            print_environment(&running().await?);
            Ok(())
        }
        Action::Kubectl { arguments } => kubectl(&arguments),
    }
}

async fn running() -> Result<Testbed> {
    Testbed::find()
        .await?
        .context("no test-bed answers: cargo testbed up")
}

async fn status() -> Result<()> {
    let settings = Settings::from_env()?;
    let processes = processes(&settings)?;
    if processes.is_empty() {
        println!("down");
        return Ok(());
    }
    println!("{:<26}{:>8}{:>8}{:>9}", "process", "pid", "port", "memory");
    for process in &processes {
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        println!(
            "{:<26}{:>8}{:>8}{:>9}",
            process.name,
            or_dash(process.pid.map(|pid| pid.to_string())),
            or_dash(process.port.map(|port| port.to_string())),
            or_dash(
                process
                    .resident_bytes
                    .map(|bytes| format!("{} MiB", bytes >> 20))
            ),
        );
    }
    let total: u64 = processes
        .iter()
        .filter_map(|process| process.resident_bytes)
        .sum();
    println!("{:<26}{:>25}", "total", format!("{} MiB", total >> 20));
    running().await.map(|_| ())
}

fn print_environment(testbed: &Testbed) {
    let settings = testbed.settings();
    let endpoints = testbed.endpoints();
    let variables = [
        ("KUBECONFIG", testbed.kubeconfig().display().to_string()),
        ("LAYRA_E2E_KAFKA", endpoints.kafka.clone()),
        ("LAYRA_E2E_MILVUS", endpoints.milvus.clone()),
        ("LAYRA_E2E_S3_ENDPOINT", endpoints.s3.endpoint.clone()),
        ("LAYRA_E2E_S3_ACCESS_KEY", endpoints.s3.access_key.clone()),
        ("LAYRA_E2E_S3_SECRET_KEY", endpoints.s3.secret_key.clone()),
        ("LAYRA_E2E_MONGODB_URI", endpoints.mongodb_uri.clone()),
        ("LAYRA_E2E_REDIS_URI", endpoints.redis_uri.clone()),
        (
            "LAYRA_PDFIUM",
            artifacts::PDFIUM
                .path(settings)
                .join("libpdfium.so")
                .display()
                .to_string(),
        ),
        (
            "LAYRA_MINILM",
            artifacts::MINILM.path(settings).display().to_string(),
        ),
        (
            "PATH",
            format!("{}:$PATH", settings.cache.join("bin").display()),
        ),
    ];
    for (name, value) in variables {
        println!("export {name}={value}");
    }
}

fn kubectl(arguments: &[String]) -> Result<()> {
    let settings = Settings::from_env()?;
    if !settings.kubeconfig().exists() {
        bail!("no test-bed is up: cargo testbed up");
    }
    let error = Command::new(settings.bin("kubectl"))
        .env("KUBECONFIG", settings.kubeconfig())
        .args(arguments)
        .exec();
    Err(error).context("running kubectl")
}
