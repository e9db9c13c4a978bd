//! The commands about the life of collections: their arguments, and what they run.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use serde::Serialize;

use crate::cli::{Output, WorkerArgs};
use crate::commands::{archive, audit, retain};
use crate::program::common;

#[derive(Debug, Subcommand)]
pub(crate) enum CollectionCommand {
    /// List what the stores hold without a document, and documents that they do not hold exactly
    /// once. Exits with 1 if something is left.
    Audit {
        /// Remove what is left of documents that are gone, and send the tasks of incomplete
        /// documents again.
        #[arg(long)]
        repair: bool,
        /// Leave alone what changed less than this number of minutes ago.
        #[arg(long, default_value_t = 60)]
        older_than_minutes: u32,
        /// No other LAYRA uses this Milvus. Without this, a collection of no knowledge base that only
        /// its name connects with LAYRA is kept: it may be another LAYRA's.
        #[arg(long)]
        no_other_layra: bool,
        /// Output format.
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
        #[command(flatten)]
        worker: WorkerArgs,
    },
    /// Move the collection of a knowledge base to the bucket of `stores.milvus.archive`.
    Archive {
        /// Id of the knowledge base.
        #[arg(long)]
        knowledge_base: String,
        #[command(flatten)]
        worker: WorkerArgs,
    },
    /// Bring the collection of an archived knowledge base back.
    Restore {
        /// Id of the knowledge base.
        #[arg(long)]
        knowledge_base: String,
        #[command(flatten)]
        worker: WorkerArgs,
    },
    /// Release, archive or delete collections that nobody uses, as `stores.milvus.retention` asks.
    Retain {
        /// File for the report, as JSON of at most 4096 bytes. Default: standard output.
        #[arg(long)]
        report: Option<PathBuf>,
        /// Minutes without a search or a write after which a collection is unused, instead of
        /// `unusedForDays`. The notice stays.
        #[arg(long)]
        unused_for_minutes: Option<u32>,
        #[command(flatten)]
        worker: WorkerArgs,
    },
}

pub(crate) async fn execute(command: CollectionCommand) -> anyhow::Result<ExitCode> {
    match command {
        CollectionCommand::Audit {
            repair,
            older_than_minutes,
            no_other_layra,
            output,
            worker,
        } => {
            let choice = audit::Choice {
                repair,
                margin: Duration::from_mins(older_than_minutes.into()),
                no_other_layra,
            };
            let report = Box::pin(audit::audit(&common(worker)?, choice)).await?;
            match output {
                Output::Table => report.write(&mut std::io::stdout().lock())?,
                Output::Json => write_json(&report)?,
            }
            Ok(exit_code(report.is_clean()))
        }
        CollectionCommand::Archive {
            knowledge_base,
            worker,
        } => {
            let common = common(worker)?;
            let archived = Box::pin(archive::archive(&common, &knowledge_base)).await?;
            write_json(&archived)?;
            Ok(ExitCode::SUCCESS)
        }
        CollectionCommand::Restore {
            knowledge_base,
            worker,
        } => {
            let common = common(worker)?;
            let restored = Box::pin(archive::restore(&common, &knowledge_base)).await?;
            write_json(&restored)?;
            Ok(ExitCode::SUCCESS)
        }
        CollectionCommand::Retain {
            report,
            unused_for_minutes,
            worker,
        } => {
            let unused_for = unused_for_minutes.map(|minutes| Duration::from_mins(minutes.into()));
            let done = Box::pin(retain::retain(&common(worker)?, unused_for)).await?;
            match report {
                Some(path) => std::fs::write(&path, done.to_message()?)
                    .with_context(|| format!("writing {}", path.display()))?,
                None => write_json(&done)?,
            }
            Ok(exit_code(done.is_success()))
        }
    }
}

fn write_json(report: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, report)?;
    Ok(out.write_all(b"\n")?)
}

fn exit_code(is_success: bool) -> ExitCode {
    if is_success {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
