//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use layra_crds::WORKER_HTTP_PORT;
use layra_embedding::DeviceChoice;

use crate::commands::inspect::InspectArgs;

/// Renders, embeds and stores every page of every document of an ingestion pipeline
#[derive(Debug, Parser)]
#[command(name = "layra-worker", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Process the tasks of the pipeline's topic until SIGTERM or SIGINT.
    Run {
        #[command(flatten)]
        worker: WorkerArgs,
        /// Address of the HTTP server: /metrics, /counts, /healthz and /readyz.
        #[arg(long, env = "LAYRA_LISTEN", default_value_t = default_listen())]
        listen: SocketAddr,
        /// For benchmarks only: instead of using the model, wait this number of milliseconds for
        /// each page and store meaningless vectors.
        #[arg(long, hide = true)]
        benchmark_paced_embedder_ms: Option<u32>,
        /// For tests only: the paced embedder panics at pages that contain this text.
        #[arg(long, hide = true, requires = "benchmark_paced_embedder_ms")]
        benchmark_paced_embedder_panics_at: Option<String>,
        /// Seconds from SIGTERM until this process is killed. Unfinished work is released in time
        /// and will be redelivered.
        #[arg(long, env = "LAYRA_GRACE_SECONDS", default_value_t = 40)]
        grace_seconds: u32,
    },
    /// Ingest local files without Kafka.
    Ingest {
        /// PDF files, images and office documents.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Id of the knowledge base. It is created if it does not exist.
        #[arg(long)]
        knowledge_base: String,
        /// Owner of the files. Default: the name of the knowledge base up to the first `_`.
        #[arg(long)]
        username: Option<String>,
        #[command(flatten)]
        worker: WorkerArgs,
    },
    Inspect(InspectArgs),
    /// Search a knowledge base for the pages that answer a question.
    Search {
        /// Question to answer.
        question: String,
        /// Id of the knowledge base.
        #[arg(long)]
        knowledge_base: String,
        /// Number of pages to show.
        #[arg(long, default_value_t = 5)]
        top: usize,
        /// Candidates that an HNSW index examines; at least `--candidates`.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=32_768))]
        ef: u32,
        /// Nearest vectors that Milvus returns for each vector of the question. Their pages are
        /// then scored exactly.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=16_384))]
        candidates: u32,
        /// Output format.
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
        #[command(flatten)]
        worker: WorkerArgs,
    },
    /// Delete a file, or a knowledge base with all its files, from every store.
    Delete {
        /// The `file_id` of the file. Without it, the whole knowledge base is deleted.
        #[arg(long)]
        file: Option<String>,
        /// Id of the knowledge base.
        #[arg(long)]
        knowledge_base: String,
        #[command(flatten)]
        worker: WorkerArgs,
    },
    /// Send dead letters to the pipeline's topic again.
    Redrive {
        /// Redrive only dead letters with this reason, for example `Encrypted`.
        #[arg(long)]
        reason: Option<String>,
        /// Redrive only dead letters of this file.
        #[arg(long)]
        file: Option<String>,
        /// Show which dead letters would be redriven, without sending them.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        worker: WorkerArgs,
    },
    Embed(layra_embedding::colqwen::cli::EmbedArgs),
    /// Measure the performance of this machine.
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// Fetch the pipeline's model into the cache and describe it.
    FetchModel {
        /// File for the checksum, size and vector width, as JSON. Default: standard output.
        #[arg(long)]
        report: Option<PathBuf>,
        #[command(flatten)]
        worker: WorkerArgs,
    },
    /// Check the sandbox of the processes that open documents.
    Sandbox {
        #[command(subcommand)]
        what: SandboxCommand,
    },
    /// The sandboxed renderer. Its protocol uses standard input and output.
    #[command(hide = true)]
    RenderChild,
    /// The sandboxed LibreOffice.
    #[command(hide = true)]
    OfficeChild,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    Embed(layra_embedding::colqwen::bench::BenchArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum SandboxCommand {
    /// Try on this node what these processes must not be able to do. Prints a line for each check,
    /// and fails if one of them fails.
    Check {
        /// The LibreOffice program. Its sandbox is checked if it exists.
        #[arg(long, env = "LAYRA_SOFFICE", default_value = layra_rendering::SOFFICE)]
        soffice: PathBuf,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct WorkerArgs {
    /// The configuration file `worker.yaml`, which the operator creates.
    #[arg(long, env = "LAYRA_CONFIG")]
    pub(crate) config: PathBuf,
    /// Directory with the secrets, as files KIND/KEY.
    #[arg(long, env = "LAYRA_SECRETS")]
    pub(crate) secrets: PathBuf,
    /// Directory for the model and for originals in progress.
    #[arg(long, env = "LAYRA_CACHE_DIR", default_value = "/var/cache/layra")]
    pub(crate) cache_dir: PathBuf,
    /// Device for a model that reads page images: auto, cpu or cuda:N.
    #[arg(long, env = "LAYRA_DEVICE", default_value = "auto")]
    pub(crate) device: DeviceChoice,
    /// Use the model that `fetch-model` put into the cache, without any request.
    #[arg(long, env = "LAYRA_MODEL_FETCHED")]
    pub(crate) model_fetched: bool,
    /// The PDFium library.
    #[arg(
        long,
        env = "LAYRA_PDFIUM",
        default_value = "/usr/lib/layra/libpdfium.so"
    )]
    pub(crate) pdfium: PathBuf,
    /// The LibreOffice program. Without it, office documents are not supported.
    #[arg(
        long,
        env = "LAYRA_SOFFICE",
        default_value = layra_rendering::SOFFICE
    )]
    pub(crate) soffice: PathBuf,
    /// Memory limit of pages that are rendered and not yet stored, in MiB.
    #[arg(long, env = "LAYRA_PAGE_MEMORY_MIB", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(16..))]
    pub(crate) page_memory_mib: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Output {
    /// A table for people.
    Table,
    /// An array of objects with file, `file_id`, page and score.
    Json,
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], WORKER_HTTP_PORT))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
