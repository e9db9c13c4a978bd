//! `kubectl layra documents`, `document` and `dlq`: commands of the worker, run as a Job, so that
//! the credentials of the stores stay in the cluster.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::cluster::Access;
use crate::run::{self, RunArgs, duration};

const EXIT_CODES: &str = "\
Exit codes: that of the command, 0 or 1; 2 wrong usage; 124 --timeout expired; 125 the command could
not be run, or its result is unknown; 130 Ctrl-C.";

/// List the documents of a pipeline that changed last, and why they failed.
///
/// Runs `layra-worker documents` as a Job, which reads the ledger.
#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct DocumentsArgs {
    /// Name of the pipeline.
    pipeline: String,

    /// Only documents that failed.
    #[arg(long, conflicts_with = "working")]
    failed: bool,

    /// Only documents in progress.
    #[arg(long)]
    working: bool,

    /// Only documents of this knowledge base.
    #[arg(long, value_name = "ID")]
    knowledge_base: Option<String>,

    /// At most so many.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,

    /// Format of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,

    #[command(flatten)]
    job: JobArgs,
}

/// Show how far a document is: its page ranges, skipped pages, and why it failed.
///
/// Runs `layra-worker documents --file ID` as a Job, which reads the ledger.
#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct DocumentArgs {
    /// Name of the pipeline.
    pipeline: String,

    /// The file id of the document.
    #[arg(value_name = "ID")]
    document: String,

    /// Format of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,

    #[command(flatten)]
    job: JobArgs,
}

/// List dead letters, show one, or send them to the pipeline's topic again.
///
/// Runs `layra-worker redrive` as a Job; `list` and `show` with --dry-run, which sends nothing.
#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct DlqArgs {
    /// Name of the pipeline.
    pipeline: String,

    #[command(subcommand)]
    action: Action,

    #[command(flatten)]
    job: JobArgs,
}

#[derive(Subcommand)]
enum Action {
    /// List the dead letters that `redrive` would send.
    ///
    /// Those that are no valid task are listed only with their reason, for example `NotJson`.
    List(Choice),
    /// Show the dead letter of a document.
    Show {
        /// The file id of the document.
        #[arg(value_name = "ID")]
        document: String,
    },
    /// Send dead letters to the pipeline's topic again, each once.
    Redrive(Choice),
}

#[derive(Args)]
struct Choice {
    /// Only dead letters with this reason, for example `Encrypted`.
    #[arg(long)]
    reason: Option<String>,

    /// Only the dead letter of this document: its file id.
    #[arg(long, value_name = "ID")]
    document: Option<String>,
}

/// How the Job runs.
#[derive(Args)]
struct JobArgs {
    /// Image of the command. Default: spec.worker.image, else that of the worker Deployment.
    #[arg(long, global = true)]
    image: Option<String>,

    /// Request the GPUs of a worker, for an image that does not start without one.
    #[arg(long, global = true)]
    gpu: bool,

    /// Stop the command after this time, for example 90s or 10m.
    #[arg(
        long,
        global = true,
        value_name = "DURATION",
        value_parser = duration,
        default_value = "10m"
    )]
    timeout: Duration,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// For people.
    Table,
    Json,
}

impl Output {
    fn word(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Json => "json",
        }
    }
}

pub(crate) async fn list(args: DocumentsArgs, access: &Access) -> anyhow::Result<ExitCode> {
    let limit = args.limit.to_string();
    let mut arguments = vec![
        "documents",
        "--output",
        args.output.word(),
        "--limit",
        &limit,
    ];
    if args.failed {
        arguments.push("--failed");
    }
    if args.working {
        arguments.push("--working");
    }
    if let Some(knowledge_base) = &args.knowledge_base {
        arguments.extend(["--knowledge-base", knowledge_base]);
    }
    let command = args.job.command(args.pipeline, &arguments);
    run::run(&command, access).await
}

pub(crate) async fn show(args: DocumentArgs, access: &Access) -> anyhow::Result<ExitCode> {
    let output = args.output.word();
    let file = format!("--file={}", args.document);
    let arguments = ["documents", "--output", output, &file];
    let command = args.job.command(args.pipeline, &arguments);
    run::run(&command, access).await
}

pub(crate) async fn dead_letters(args: DlqArgs, access: &Access) -> anyhow::Result<ExitCode> {
    let arguments = args.action.arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let command = args.job.command(args.pipeline, &arguments);
    run::run(&command, access).await
}

impl Action {
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["redrive".to_owned()];
        let (reason, document) = match self {
            Self::List(choice) | Self::Redrive(choice) => {
                (choice.reason.as_ref(), choice.document.as_ref())
            }
            Self::Show { document } => (None, Some(document)),
        };
        arguments.extend(reason.map(|reason| format!("--reason={reason}")));
        arguments.extend(document.map(|document| format!("--file={document}")));
        if !matches!(self, Self::Redrive(_)) {
            arguments.push("--dry-run".to_owned());
        }
        arguments
    }
}

impl JobArgs {
    fn command(self, pipeline: String, arguments: &[&str]) -> RunArgs {
        RunArgs {
            pipeline,
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
            image: self.image,
            gpu: self.gpu,
            timeout: Some(self.timeout),
            keep: false,
        }
    }
}
