//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use layra_crds::{VALIDATION_FAULTS_VARIABLE, WORKER_HTTP_PORT};
use layra_embedding::DeviceChoice;

use crate::collection_commands::CollectionCommand;
use crate::commands::documents::DocumentsArgs;
use crate::commands::inspect::InspectArgs;
use crate::commands::load::LoadArgs;
use crate::commands::proxy::ProxyArgs;
use crate::commands::serve::ServeArgs;
use crate::commands::trace::TraceArgs;
use crate::commands::tune::TuneOptions;

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
        /// For `kubectl layra validate --disruptive` only: serve /faults, which injects them.
        #[arg(long, hide = true, env = VALIDATION_FAULTS_VARIABLE)]
        validation_faults: bool,
    },
    /// Ingest local files without Kafka.
    Ingest {
        /// Files of any kind that the worker reads.
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
    Load(LoadArgs),
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
    /// Measure recall and latency of index settings on a copy of some of a knowledge base's vectors,
    /// and choose a preset.
    ///
    /// The copies are temporary collections of their own, one at a time, which are removed at the
    /// end, after a signal, and by the next run after a kill. The knowledge base is only read.
    Tune {
        #[command(flatten)]
        options: TuneOptions,
        /// Output format.
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
        #[command(flatten)]
        worker: WorkerArgs,
    },
    Try(layra_try::Look),
    Evaluate(layra_try::Evaluate),
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
    Documents(DocumentsArgs),
    Serve(ServeArgs),
    Trace(TraceArgs),
    Advise(AdviseArgs),
    /// Rebuild the collections of the pipeline whose index differs from the object's.
    Reindex(ReindexArgs),
    Reembed(ReembedArgs),
    #[command(flatten)]
    Collection(CollectionCommand),
    Embed(layra_embedding::colqwen::cli::EmbedArgs),
    /// Check whether a worker can work with its configuration: what an edit can have broken.
    ///
    /// Prints a line for each field that is wrong, and then fails. A server that is away is no error.
    Check {
        #[command(flatten)]
        worker: WorkerArgs,
    },
    /// Measure the performance of this machine.
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// Check the configuration, then fetch the pipeline's model into the cache and describe it.
    FetchModel {
        /// File for the checksum, size and vector width, or for the checks that failed, as JSON.
        /// Default: standard output.
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
    /// The proxy in front of Milvus of `kubectl layra validate --disruptive`.
    #[command(hide = true)]
    Proxy(ProxyArgs),
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

/// Compare the settings of Kafka, MongoDB, Milvus and Redis with the tuning guide.
///
/// Prints what is asked, what was found and what to change. It only reads. What it may not read, it
/// says so.
#[derive(Debug, Args)]
pub(crate) struct AdviseArgs {
    /// Address of Milvus' metrics. Default: port 9091 of the host of Milvus.
    #[arg(long, value_name = "URL")]
    pub(crate) milvus_metrics: Option<reqwest::Url>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) worker: WorkerArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ReindexArgs {
    /// How to rebuild. Default: as `stores.milvus.onIndexDrift` says.
    #[arg(long, value_enum)]
    pub(crate) method: Option<Method>,
    /// Begin nothing. A swap and a rebuild in place that an earlier run has begun are finished; a
    /// copy that does not serve yet is dropped.
    #[arg(long, conflicts_with_all = ["method", "dry_run"])]
    pub(crate) finish: bool,
    /// Show which collections would be rebuilt, and why.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) work: RebuildArgs,
    #[command(flatten)]
    pub(crate) worker: WorkerArgs,
}

/// Embed the collections of the pipeline again that are of another model than the object's.
///
/// Each is filled beside the one that serves, from the stored page images, or for a model that reads
/// text from the texts that are kept, and takes its place. It may be killed, and run again.
#[derive(Clone, Debug, Args)]
pub(crate) struct ReembedArgs {
    /// Begin nothing. A swap that an earlier run has begun is finished; a copy that does not serve yet
    /// is dropped, and workers write into the collection again.
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) finish: bool,
    /// Show which collections would be embedded again, and why.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) work: RebuildArgs,
    #[command(flatten)]
    pub(crate) worker: WorkerArgs,
}

// What all rebuilds of collections have in common. A doc comment would be shown as help.
#[derive(Clone, Debug, Args)]
pub(crate) struct RebuildArgs {
    /// Rebuild only this collection.
    #[arg(long)]
    pub(crate) collection: Option<String>,
    /// Address of the HTTP server: /reindex, /metrics and /healthz.
    #[arg(long, env = "LAYRA_LISTEN", default_value_t = default_listen())]
    pub(crate) listen: SocketAddr,
    /// For tests only: seconds until a request that was in flight has landed or failed.
    #[arg(long, env = "LAYRA_LATE_WRITES_SECONDS", hide = true)]
    pub(crate) late_writes_seconds: Option<u64>,
}

/// How to rebuild a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Method {
    /// Fill a new collection beside it, which takes its place. Searches go on.
    Beside,
    /// Release it, replace its index and load it. Nothing finds its pages meanwhile.
    InPlace,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Output {
    /// A table for people.
    Table,
    /// For programs: one array or object.
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
