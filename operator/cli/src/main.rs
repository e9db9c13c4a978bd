//! `kubectl-layra`: a kubectl plugin for people who run ingestion pipelines. It also works alone.
//!
//! It reads objects and starts Jobs. Only `pause` and `resume` change the spec of a pipeline.

mod advise;
mod checks;
mod cluster;
mod conditions;
mod cost;
mod doctor;
mod documents;
mod explain;
mod forget;
mod guide;
mod load;
mod logs;
mod object_file;
mod pause;
mod run;
mod simulate;
mod status;
mod style;
mod validate;
mod weekly;

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use cluster::Access;

/// The name of the program, as the shell finds it.
const PROGRAM: &str = "kubectl-layra";

/// Explains, simulates and operates LAYRA ingestion pipelines.
#[derive(Parser)]
#[command(name = PROGRAM, bin_name = "kubectl layra", version)]
#[command(after_help = "\
Exit codes: 0 success, 1 failure, 2 wrong usage. `doctor`, `run` and the commands that run a Job
have more: see `doctor --help` and `run --help`.

Flags come after the plugin's name: `kubectl layra explain NAME -n NAMESPACE`.")]
struct Cli {
    #[command(flatten)]
    access: Access,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Advise(advise::AdviseArgs),
    Cost(cost::CostArgs),
    Dlq(documents::DlqArgs),
    Doctor(doctor::DoctorArgs),
    Document(documents::DocumentArgs),
    Documents(documents::DocumentsArgs),
    Explain(explain::ExplainArgs),
    Forget(forget::ForgetArgs),
    Load(load::LoadArgs),
    Logs(logs::LogsArgs),
    Pause(pause::PauseArgs),
    Resume(pause::ResumeArgs),
    Run(run::RunArgs),
    Simulate(simulate::Command),
    Status(status::StatusArgs),
    Validate(validate::ValidateArgs),
    Weekly(weekly::WeeklyArgs),
    /// Print the completion script of a shell.
    ///
    /// It completes the command `kubectl-layra`. In bash: `source <(kubectl-layra completion bash)`.
    Completion {
        /// The shell.
        shell: Shell,
    },
}

fn main() -> ExitCode {
    let Cli { access, command } = Cli::parse();
    let (result, code_of_errors) = match command {
        Command::Advise(args) => (block_on(advise::run(&args, &access)), run::CANNOT_RUN),
        Command::Cost(args) => (block_on(cost::run(&args, &access)), 1),
        Command::Dlq(args) => (
            block_on(documents::dead_letters(args, &access)),
            run::CANNOT_RUN,
        ),
        Command::Document(args) => (block_on(documents::show(args, &access)), run::CANNOT_RUN),
        Command::Documents(args) => (block_on(documents::list(args, &access)), run::CANNOT_RUN),
        Command::Doctor(args) => (block_on(doctor::run(&args, &access)), doctor::CANNOT_LOOK),
        Command::Explain(args) => (block_on(explain::run(&args, &access)), 1),
        Command::Forget(args) => (block_on(forget::run(&args, &access)), 1),
        Command::Load(args) => (block_on(load::run(&args, &access)), run::CANNOT_RUN),
        Command::Logs(args) => (block_on(logs::run(&args, &access)), 1),
        Command::Pause(args) => (block_on(pause::pause(&args, &access)), 1),
        Command::Resume(args) => (block_on(pause::resume(&args, &access)), 1),
        Command::Run(args) => (block_on(run::run(&args, &access)), run::CANNOT_RUN),
        Command::Simulate(command) => (simulate::run(&command).and_then(|text| print(&text)), 1),
        Command::Status(args) => (block_on(status::run(&args, &access)), 1),
        Command::Validate(args) => (block_on(validate::run(&args, &access)), run::CANNOT_RUN),
        Command::Weekly(args) => (block_on(weekly::run(&args, &access)), run::CANNOT_RUN),
        Command::Completion { shell } => (print(&completion(shell)), 1),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(code_of_errors)
        }
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider is installed already"))?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// Prints the answer of a command. A reader that has seen enough is no failure.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn completion(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), PROGRAM, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_the_cluster_stand_anywhere_before_the_arguments_of_the_worker() {
        let words = "kubectl-layra run -n rag contracts --context prod -- search -n x --gpu";
        let cli = Cli::try_parse_from(words.split(' ')).unwrap();
        let Command::Run(run) = cli.command else {
            panic!("expected the command `run`");
        };
        assert_eq!(cli.access.namespace.as_deref(), Some("rag"));
        assert_eq!(cli.access.context.as_deref(), Some("prod"));
        assert_eq!(run.arguments, ["search", "-n", "x", "--gpu"]);
        assert!(!run.gpu);
        assert!(Cli::try_parse_from(["kubectl-layra", "run", "contracts"]).is_err());
    }

    #[test]
    fn completion_knows_the_commands() {
        let script = completion(Shell::Bash);
        for word in ["explain", "simulate", "--kubeconfig"] {
            assert!(script.contains(word), "{word} is missing");
        }
    }
}
