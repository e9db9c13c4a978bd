//! The commands about the life of collections: their arguments, and what they run.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;

use crate::cli::{Output, WorkerArgs};
use crate::commands::audit;
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
        /// Output format.
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
        #[command(flatten)]
        worker: WorkerArgs,
    },
}

pub(crate) async fn execute(command: CollectionCommand) -> anyhow::Result<ExitCode> {
    match command {
        CollectionCommand::Audit {
            repair,
            older_than_minutes,
            output,
            worker,
        } => {
            let choice = audit::Choice {
                repair,
                margin: Duration::from_mins(older_than_minutes.into()),
            };
            let report = Box::pin(audit::audit(&common(worker)?, choice)).await?;
            match output {
                Output::Table => report.write(&mut std::io::stdout().lock())?,
                Output::Json => write_json(&report)?,
            }
            Ok(exit_code(report.is_clean()))
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
