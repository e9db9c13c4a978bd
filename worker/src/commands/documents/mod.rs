//! The `documents` command: how far documents of the pipeline are, by the ledger. It changes no
//! document.

mod report;

use std::process::ExitCode;

use clap::Args;

use crate::cli::{Output, WorkerArgs};
use crate::program::common;
use crate::runtime::failure::{Failure, Stage};
use crate::stores::ledger::{Entry, Listing, State};
use report::Shown;

// The help text of the command is the comment on its arguments.
/// List the documents of the pipeline that changed last, by the ledger.
#[derive(Clone, Debug, Args)]
pub(crate) struct DocumentsArgs {
    /// Show this document, with all its page ranges. Fails if the ledger does not know it.
    #[arg(long, value_name = "FILE_ID", conflicts_with_all = ["failed", "working", "knowledge_base"])]
    file: Option<String>,
    /// List only documents that failed.
    #[arg(long, conflicts_with = "working")]
    failed: bool,
    /// List only documents in progress.
    #[arg(long)]
    working: bool,
    /// List only documents of this knowledge base.
    #[arg(long)]
    knowledge_base: Option<String>,
    /// List at most so many.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    worker: WorkerArgs,
}

pub(crate) async fn run(args: DocumentsArgs) -> anyhow::Result<ExitCode> {
    let output = args.output;
    let entries = find(args.clone()).await?;
    let mut out = std::io::stdout().lock();
    let shown: Vec<Shown> = entries.iter().map(Shown::of).collect();
    match (output, &args.file) {
        (Output::Json, _) => report::write_json(&shown, &mut out)?,
        (Output::Table, Some(_)) => report::write_details(&shown, &mut out)?,
        (Output::Table, None) => report::write_table(&shown, &mut out)?,
    }
    if let Some(file) = args.file.filter(|_| shown.is_empty()) {
        anyhow::bail!(
            "the ledger does not know the file {file}: no worker has received a task for it, or its \
             id is another one"
        );
    }
    Ok(ExitCode::SUCCESS)
}

async fn find(args: DocumentsArgs) -> Result<Vec<Entry>, anyhow::Error> {
    let listing = Listing {
        state: match (args.failed, args.working) {
            (true, _) => Some(State::Failed),
            (false, true) => Some(State::Working),
            (false, false) => None,
        },
        knowledge_base: args.knowledge_base,
        limit: args.limit,
    };
    let common = common(args.worker)?;
    let documents = common.documents().await?;
    let ledger = common.ledger(&documents).await?;
    let retry = common.retry();
    let entries: Result<Vec<Entry>, Failure> = if let Some(file) = &args.file {
        let find = |_| ledger.find(file);
        let found = retry.run(Stage::Mongodb, &common.stop, find).await;
        found.map(|found| found.into_iter().collect())
    } else {
        let list = |_| ledger.latest(&listing);
        retry.run(Stage::Mongodb, &common.stop, list).await
    };
    Ok(entries?)
}
