//! The command line's words.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use layra_embedding::DeviceChoice;

/// Renders, embeds and stores every page of every document of an ingestion pipeline.
#[derive(Debug, Parser)]
#[command(name = "layra-worker", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Work on the tasks of the pipeline's topic until told to stop.
    Run {
        #[command(flatten)]
        worker: WorkerArgs,
        /// Where /metrics, /healthz and /readyz answer.
        #[arg(long, env = "LAYRA_LISTEN", default_value = "0.0.0.0:9090")]
        listen: SocketAddr,
        /// For benchmarks alone: in place of the model, wait so many milliseconds for each page and
        /// store vectors that mean nothing.
        #[arg(long, hide = true)]
        benchmark_paced_embedder_ms: Option<u32>,
        /// Seconds from the request to stop until this process is killed. Work that would take
        /// longer is given back before.
        #[arg(long, env = "LAYRA_GRACE_SECONDS", default_value_t = 40)]
        grace_seconds: u32,
    },
    /// Ingest local files, without Kafka.
    Ingest {
        /// The files: PDF, images, office documents.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The knowledge base; made when it does not exist.
        #[arg(long)]
        knowledge_base: String,
        /// Owner of the files. Default: the knowledge base's name up to the first `_`.
        #[arg(long)]
        username: Option<String>,
        #[command(flatten)]
        worker: WorkerArgs,
    },
    /// Show the pages that answer a question.
    Search {
        /// The question.
        question: String,
        /// The knowledge base.
        #[arg(long)]
        knowledge_base: String,
        /// How many pages.
        #[arg(long, default_value_t = 5)]
        top: usize,
        /// Candidates that an HNSW index examines; at least `--candidates`.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=32_768))]
        ef: u32,
        /// Nearest vectors that Milvus returns for each vector of the question. Their pages are
        /// then scored exactly.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=16_384))]
        candidates: u32,
        /// How to write them.
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
        #[command(flatten)]
        worker: WorkerArgs,
    },
    /// Delete a file, or a knowledge base with all its files, from every store.
    Delete {
        /// The file's `file_id`. Without it the whole knowledge base goes.
        #[arg(long)]
        file: Option<String>,
        /// The knowledge base.
        #[arg(long)]
        knowledge_base: String,
        #[command(flatten)]
        worker: WorkerArgs,
    },
    /// Put dead letters back into the pipeline's topic.
    Redrive {
        /// Only letters with this reason, for example `Encrypted`.
        #[arg(long)]
        reason: Option<String>,
        /// Only letters of this file.
        #[arg(long)]
        file: Option<String>,
        /// Say what would be put back, and do nothing.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        worker: WorkerArgs,
    },
    Embed(layra_embedding::colqwen::cli::EmbedArgs),
    /// Measure this machine.
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// Fetch the pipeline's model into the cache, and say which it is.
    FetchModel {
        /// Where to write its checksum, size and width, as JSON. Default: standard output.
        #[arg(long)]
        report: Option<PathBuf>,
        #[command(flatten)]
        worker: WorkerArgs,
    },
    /// The sandboxed renderer; speaks on standard input and output.
    #[command(hide = true)]
    RenderChild,
    /// Becomes LibreOffice, confined.
    #[command(hide = true)]
    OfficeChild,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    Embed(layra_embedding::colqwen::bench::BenchArgs),
    Text(layra_worker::commands::bench::text::TextArgs),
    Render(layra_worker::commands::bench::render::RenderArgs),
    Milvus(layra_worker::commands::bench::milvus::MilvusArgs),
    Resolution(layra_worker::commands::bench::resolution::ResolutionArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct WorkerArgs {
    /// The configuration, `worker.yaml`, that the operator makes.
    #[arg(long, env = "LAYRA_CONFIG")]
    pub(crate) config: PathBuf,
    /// The directory with the secrets, as files KIND/KEY.
    #[arg(long, env = "LAYRA_SECRETS")]
    pub(crate) secrets: PathBuf,
    /// Where the model and originals are kept meanwhile.
    #[arg(long, env = "LAYRA_CACHE_DIR", default_value = "/var/cache/layra")]
    pub(crate) cache_dir: PathBuf,
    /// Where a model that sees pages runs: auto, cpu or cuda:N.
    #[arg(long, env = "LAYRA_DEVICE", default_value = "auto")]
    pub(crate) device: DeviceChoice,
    /// Use the model that `fetch-model` left in the cache; ask no server for it.
    #[arg(long, env = "LAYRA_MODEL_FETCHED")]
    pub(crate) model_fetched: bool,
    /// The PDFium library.
    #[arg(
        long,
        env = "LAYRA_PDFIUM",
        default_value = "/usr/lib/layra/libpdfium.so"
    )]
    pub(crate) pdfium: PathBuf,
    /// LibreOffice. Where it is not there, office documents are refused.
    #[arg(
        long,
        env = "LAYRA_SOFFICE",
        default_value = layra_rendering::SOFFICE
    )]
    pub(crate) soffice: PathBuf,
    /// Memory for pages that are drawn and not yet stored, in MiB. Documents wait for room.
    #[arg(long, env = "LAYRA_PAGE_MEMORY_MIB", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(16..))]
    pub(crate) page_memory_mib: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Output {
    /// Columns for people.
    Table,
    /// An array of objects with file, `file_id`, page and score.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_words_fit_together() {
        Cli::command().debug_assert();
    }
}
