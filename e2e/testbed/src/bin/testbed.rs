//! `cargo testbed`: controls the test-bed by hand.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use layra_testbed::{
    Ended, Purpose, Settings, Testbed, arguments, artifacts, bill_of, check_prerequisites,
    describe_testbed, dist, processes, unless_interrupted,
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
    /// Start the test-bed or reuse the running one; download and build what is missing.
    Up,
    /// Stop the test-bed and remove everything except its logs and the cache.
    Down,
    /// Show every process with its port and memory.
    Status,
    /// Download and build everything, start nothing.
    Artifacts,
    /// Build the binaries and collect the contents of the container images in dist/.
    Dist,
    /// Write the licences and the bill of materials of a program (worker/cuda/build.sh).
    #[command(hide = true)]
    Bill {
        /// The program.
        program: String,
        /// Features of the workspace that it is built with.
        #[arg(long)]
        features: String,
        /// The folder for the licences and the bill of materials.
        #[arg(long)]
        folder: PathBuf,
        /// The file for the list of crates in the binary.
        #[arg(long)]
        section: PathBuf,
    },
    /// Build the container images, import them into the running test-bed, and print their names.
    Images,
    /// Print the environment variables with which tests and programs use the running test-bed.
    Env,
    /// Run kubectl against the running test-bed.
    Kubectl {
        /// Arguments for kubectl.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let action = Arguments::parse_from(arguments::of_alias()).action;
    let run = Box::pin(run(action));
    Ok(match unless_interrupted(run, describe_testbed).await? {
        Ended::Finished(()) => ExitCode::SUCCESS,
        Ended::Interrupted(code) => code,
    })
}

async fn run(action: Action) -> Result<()> {
    match action {
        Action::Up => {
            let testbed = Testbed::obtain().await?;
            print_environment(&testbed);
            Ok(())
        }
        Action::Down => Testbed::down().await,
        Action::Status => status().await,
        Action::Artifacts => {
            check_prerequisites(Purpose::Servers)?;
            artifacts::provide(&Settings::from_env()?, artifacts::ALL).await
        }
        Action::Dist => dist(&Settings::from_env()?).await.map(|_| ()),
        Action::Bill {
            program,
            features,
            folder,
            section,
        } => {
            let bill = bill_of(&Settings::from_env()?, &program, &features).await?;
            bill.write(&folder)?;
            Ok(std::fs::write(section, bill.section()?)?)
        }
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
        .context("no test-bed is running; start one with `cargo testbed up`")
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
        bail!("no test-bed is running; start one with `cargo testbed up`");
    }
    let error = Command::new(settings.bin("kubectl"))
        .env("KUBECONFIG", settings.kubeconfig())
        .args(arguments)
        .exec();
    Err(error).context("running kubectl")
}
