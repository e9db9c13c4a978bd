//! What all commands with a report have in common: where it goes, and the exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::Report;
use crate::style::Style;

/// The exit code when a check fails.
const FAILED: u8 = 1;

#[derive(Args)]
pub(crate) struct Reporting {
    /// Write a report into this file: HTML, or JSON if its name ends with .json.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Image of the Jobs. Default: spec.worker.image, else that of the worker Deployment.
    #[arg(long)]
    image: Option<String>,

    /// Format of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// Lines for people.
    Table,
    Json,
}

impl Reporting {
    pub(crate) fn image(&self) -> Option<&str> {
        self.image.as_deref()
    }

    /// Writes and prints the report.
    pub(crate) fn finish(&self, report: &Report) -> anyhow::Result<ExitCode> {
        if let Some(file) = &self.report {
            report.write(file)?;
        }
        crate::print(&match self.output {
            Output::Table => report.text(Style::of_output()),
            Output::Json => report.json()?,
        })?;
        Ok(if report.passed {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(FAILED)
        })
    }
}
