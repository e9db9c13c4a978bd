//! What the program does: it reads the command line and runs one command.

use std::io::{StdoutLock, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::assembly::{Common, PacedEmbedder, Paths};
use crate::collection_commands;
use crate::commands::trace::TraceArgs;
use crate::commands::{
    advise, check, delete, documents, ingest, inspect, load, proxy, redrive, reindex, run, search,
    serve, trace, tune,
};
use crate::document::task::Deletion;
use crate::runtime::process_metrics::open_traffic;
use crate::runtime::settings::Settings;
use crate::runtime::{telemetry, traces};
use crate::stores::milvus::SearchLimits;
use anyhow::Context as _;
use clap::Parser;
use layra_crds::FailedCheck;
use layra_embedding::colqwen::cli::{self as embed_cli, EmbedArgs};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::{
    AdviseArgs, Bench, Cli, Command, Output, ReembedArgs, ReindexArgs, SandboxCommand, WorkerArgs,
};

/// Runs the command that the command line names.
pub fn main() -> ExitCode {
    // This must come first: a renderer must not inherit anything that the worker opens.
    match std::env::args().nth(1).as_deref() {
        Some("render-child") => return layra_rendering::child::main(),
        Some("office-child") => return layra_rendering::office_child::main(),
        _ => {}
    }
    let cli = Cli::parse();
    telemetry::init(default_log(&cli.command));
    open_traffic();
    if let Err(error) = layra_rendering::hide_memory() {
        tracing::warn!(%error, "other processes of this user may read the worker's memory");
    }
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        tracing::debug!("a TLS provider is already installed");
    }
    // The name shows up in `top -H`.
    if let Err(error) = rayon::ThreadPoolBuilder::new()
        .thread_name(|index| format!("compute-{index}"))
        .build_global()
    {
        tracing::debug!(%error, "the compute thread pool already exists");
    }
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Commands for people log less: their output is the answer.
fn default_log(command: &Command) -> &'static str {
    match command {
        Command::Run { .. }
        | Command::Serve(_)
        | Command::FetchModel { .. }
        | Command::Reindex(_)
        | Command::Reembed(_) => "info",
        _ => "warn",
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let service = match command {
        Command::Run { .. } => Some("layra-worker"),
        Command::Serve(_) => Some("layra-query"),
        _ => None,
    };
    let (result, spans) = runtime.block_on(async {
        let spans = service.and_then(traces::start);
        (Box::pin(execute(command)).await, spans)
    });
    traces::stop(spans);
    // Only calls that do not return are still running.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn execute(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run {
            worker,
            listen,
            grace_seconds,
            benchmark_paced_embedder_ms,
            benchmark_paced_embedder_panics_at: panics_at,
            validation_faults,
        } => {
            let mut common = common(worker)?;
            common.paths.paced_embedder = paced(benchmark_paced_embedder_ms, panics_at);
            let grace = Duration::from_secs(grace_seconds.into());
            run::run(common, listen, grace, validation_faults).await?;
        }
        Command::Ingest {
            files,
            knowledge_base,
            username,
            worker,
        } => {
            let username = username.unwrap_or_else(|| owner_of(&knowledge_base));
            let summary =
                ingest::ingest(&common(worker)?, files, &knowledge_base, &username).await?;
            summary.write(&mut std::io::stdout().lock())?;
            if !summary.is_success() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Inspect(args) => return inspect::run(args).await,
        Command::Load(args) => return Box::pin(load::run(args)).await,
        Command::FetchModel { report, worker } => return fetch_model(worker, report).await,
        Command::Check { worker } => return check(worker).await,
        Command::Bench {
            what: Bench::Embed(args),
        } => bench_embed(args).await?,
        Command::Delete {
            file,
            knowledge_base,
            worker,
        } => delete(worker, file, knowledge_base).await?,
        Command::Redrive {
            reason,
            file,
            dry_run,
            worker,
        } => {
            let choice = redrive::Choice {
                reason,
                file_id: file,
                dry_run,
            };
            return redrive(worker, &choice).await;
        }
        Command::Documents(args) => return Box::pin(documents::run(args)).await,
        Command::Serve(args) => {
            let common = common(args.worker.clone())?;
            Box::pin(serve::run(&common, &args)).await?;
        }
        Command::Trace(args) => return trace(args).await,
        Command::Advise(args) => advise(args).await?,
        Command::Reindex(args) => return Box::pin(reindex(args)).await,
        Command::Reembed(args) => return Box::pin(reembed(args)).await,
        Command::Collection(command) => return collection_commands::execute(command).await,
        Command::Embed(args) => embed(args).await?,
        Command::Search {
            question,
            knowledge_base,
            top,
            ef,
            candidates,
            output,
            worker,
        } => {
            let limits = SearchLimits { ef, candidates };
            let common = common(worker)?;
            let answers = search::search(&common, &question, &knowledge_base, top, limits).await?;
            print(output, &answers, |out| search::write_table(&answers, out))?;
        }
        Command::Tune {
            options,
            output,
            worker,
        } => {
            let report = Box::pin(tune::tune(&common(worker)?, &options)).await?;
            print(output, &report, |out| report.write(out))?;
        }
        Command::Try(look) => Box::pin(layra_try::look(look)).await?,
        Command::Evaluate(evaluate) => Box::pin(layra_try::evaluate(evaluate)).await?,
        Command::Sandbox { what } => return sandbox(&what),
        Command::Proxy(args) => proxy::run(args, stop_on_signals()?).await?,
        Command::RenderChild | Command::OfficeChild => {
            anyhow::bail!("this command must be the first argument of the program")
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn embed(args: EmbedArgs) -> anyhow::Result<()> {
    let report = move || embed_cli::run(&args, &mut std::io::stdout().lock());
    Ok(tokio::task::spawn_blocking(report).await??)
}

async fn check(worker: WorkerArgs) -> anyhow::Result<ExitCode> {
    let report = Box::pin(check::check(worker)).await?;
    check::write(&report, &mut std::io::stdout().lock())?;
    Ok(code_of(report.failed_checks.is_empty()))
}

/// Writes an answer to standard output.
fn print(
    output: Output,
    answer: &impl serde::Serialize,
    table: impl FnOnce(&mut StdoutLock<'static>) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match output {
        Output::Table => table(&mut out)?,
        Output::Json => {
            serde_json::to_writer_pretty(&mut out, answer)?;
            out.write_all(b"\n")?;
        }
    }
    Ok(())
}

/// Fetches the model, if a worker can work with its configuration: a rollout stops here otherwise.
async fn fetch_model(worker: WorkerArgs, report: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let checked = Box::pin(check::check(worker.clone())).await?;
    let is_good = checked.failed_checks.is_empty();
    for FailedCheck { field, problem } in &checked.failed_checks {
        tracing::error!(field, problem, "the configuration cannot be used");
    }
    let text = if is_good {
        serde_json::to_string(&common(worker)?.fetch_model().await?)?
    } else {
        checked.to_message()
    };
    match report {
        Some(path) => {
            let written = std::fs::write(&path, &text);
            written.with_context(|| format!("writing {}", path.display()))?;
        }
        None => std::io::stdout().lock().write_all(text.as_bytes())?,
    }
    Ok(code_of(is_good))
}

fn code_of(is_good: bool) -> ExitCode {
    if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Deletes a file, or without one its whole knowledge base.
async fn delete(
    worker: WorkerArgs,
    file: Option<String>,
    knowledge_base: String,
) -> anyhow::Result<()> {
    let deletion = match file {
        Some(file_id) => Deletion::File {
            file_id,
            knowledge_base,
        },
        None => Deletion::KnowledgeBase(knowledge_base),
    };
    Ok(delete::run(&common(worker)?, &deletion).await?)
}

async fn advise(args: AdviseArgs) -> anyhow::Result<()> {
    let settings = common(args.worker)?.settings;
    let metrics = args.milvus_metrics.as_ref();
    let advice = Box::pin(advise::advise(&settings, metrics)).await;
    advise::write(&advice, args.output, &mut std::io::stdout().lock())?;
    Ok(())
}

async fn redrive(worker: WorkerArgs, choice: &redrive::Choice) -> anyhow::Result<ExitCode> {
    let report = redrive::redrive(&common(worker)?, choice).await?;
    report.write(&mut std::io::stdout().lock(), choice.dry_run)?;
    Ok(if report.is_complete() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn trace(args: TraceArgs) -> anyhow::Result<ExitCode> {
    let common = common(args.worker.clone())?;
    let trace = Box::pin(trace::trace(&common, &args)).await?;
    print(args.output, &trace, |out| trace.write(out))?;
    Ok(code_of(trace.is_known()))
}

async fn reindex(args: ReindexArgs) -> anyhow::Result<ExitCode> {
    let common = common(args.worker.clone())?;
    Ok(if reindex::run(&common, &args).await? {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn reembed(args: ReembedArgs) -> anyhow::Result<ExitCode> {
    let common = common(args.worker.clone())?;
    let is_done = Box::pin(reindex::reembed(&common, &args)).await?;
    Ok(code_of(is_done))
}

fn sandbox(command: &SandboxCommand) -> anyhow::Result<ExitCode> {
    let SandboxCommand::Check { soffice } = command;
    let program = std::env::current_exe().context("cannot find this program")?;
    let report = layra_rendering::check_sandbox(&program, soffice)?;
    report.write(&mut std::io::stdout().lock())?;
    Ok(if report.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn bench_embed(args: layra_embedding::colqwen::bench::BenchArgs) -> anyhow::Result<()> {
    let report = move || layra_embedding::colqwen::bench::run(&args, &mut std::io::stdout().lock());
    tokio::task::spawn_blocking(report).await??;
    Ok(())
}

pub(crate) fn common(arguments: WorkerArgs) -> anyhow::Result<Common> {
    let settings = Settings::load(&arguments.config, &arguments.secrets)?;
    let paths = Paths {
        cache: arguments.cache_dir,
        pdfium: arguments.pdfium,
        soffice: arguments.soffice,
        device: arguments.device,
        model_fetched: arguments.model_fetched,
        page_memory_bytes: usize::try_from(arguments.page_memory_mib).unwrap_or(usize::MAX >> 20)
            << 20,
        paced_embedder: None,
    };
    Ok(Common::new(settings, paths, stop_on_signals()?))
}

fn paced(milliseconds: Option<u32>, panics_at: Option<String>) -> Option<PacedEmbedder> {
    let page = Duration::from_millis(milliseconds?.into());
    Some(PacedEmbedder { page, panics_at })
}

/// The user in the name of a knowledge base, `{username}_{uuid}`.
fn owner_of(knowledge_base: &str) -> String {
    knowledge_base
        .split('_')
        .next()
        .unwrap_or(knowledge_base)
        .to_owned()
}

/// A token that the first SIGTERM or SIGINT cancels. The second signal ends the process.
fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let token = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if token.is_cancelled() {
                tracing::warn!("second signal, exiting now");
                std::process::exit(130);
            }
            tracing::info!("shutting down");
            token.cancel();
        }
    });
    Ok(stop)
}
