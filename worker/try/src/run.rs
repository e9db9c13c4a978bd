//! Puts the parts together.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use layra_rendering::SandboxPolicy;
use sha2::{Digest as _, Sha256};

use crate::answer::{SearchAnswer, SearchRequest, Searcher};
use crate::cli::{Cli, Evaluate, Look, Place, Sandbox};
use crate::indexing::{self, Indexer};
use crate::measure;
use crate::model::Checkpoint;
use crate::progress::Progress;
use crate::server::{self, Served};
use crate::store::{State, Store};

/// Time between two looks at the folder.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Runs what the command line asks for.
pub(crate) fn run(cli: Cli) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the async runtime")?;
    let result = match cli {
        Cli::Evaluate(arguments) => runtime.block_on(evaluate(arguments)),
        Cli::Look(arguments) => runtime.block_on(look(arguments)),
    };
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Reads a folder, and answers in the terminal if there are questions, else on a page.
pub async fn look(look: Look) -> Result<()> {
    if look.ask.is_empty() {
        open(look).await
    } else {
        ask(look).await
    }
}

/// Everything that is needed to read a folder and to answer.
struct Parts {
    indexer: Indexer,
    searcher: Arc<Searcher>,
}

async fn parts(place: &Place) -> Result<Parts> {
    let root = place
        .folder
        .canonicalize()
        .with_context(|| format!("the folder {}", place.folder.display()))?;
    ensure!(root.is_dir(), "{} is not a folder", root.display());
    let checkpoint = Checkpoint::find(&place.model)?;
    let data = match &place.data {
        Some(data) => std::path::absolute(data)?,
        None => default_data(&root, &checkpoint.fingerprint)?,
    };
    ensure!(
        !holds(&root, &data),
        "the folder for vectors must not be among the documents: choose another with --data"
    );
    let store = Arc::new(Store::open(&data, &checkpoint.fingerprint)?);
    let scratch = data.join("scratch");
    // What a killed run has left of office documents.
    let _ = std::fs::remove_dir_all(&scratch);
    std::fs::create_dir_all(&scratch).context("making the folder for office documents")?;
    let sandbox = match place.sandbox {
        Sandbox::Required => SandboxPolicy::Required,
        Sandbox::BestEffort => SandboxPolicy::BestEffort,
    };
    let renderer = indexing::renderer(&place.pdfium, &scratch, sandbox)?;
    renderer.self_test().await.context(
        "documents cannot be read on this machine (--sandbox best-effort does with less)",
    )?;
    let model = tokio::task::spawn_blocking(move || checkpoint.load()).await??;
    let indexer = Indexer {
        root: root.clone(),
        store: Arc::clone(&store),
        embedder: Arc::clone(&model.embedder),
        renderer,
        progress: Arc::new(Progress::new()),
    };
    indexer.retry_failed()?;
    let root_name = root
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let searcher = Arc::new(Searcher {
        store,
        model,
        root_name: root_name.unwrap_or_else(|| "documents".to_owned()),
    });
    Ok(Parts { indexer, searcher })
}

/// Whether files in `data` would be taken for documents.
fn holds(root: &Path, data: &Path) -> bool {
    let Ok(inside) = data.strip_prefix(root) else {
        return false;
    };
    let is_hidden =
        |part: std::path::Component<'_>| part.as_os_str().to_string_lossy().starts_with('.');
    !inside.components().any(is_hidden)
}

/// A folder in the user's cache for each folder of documents and model.
fn default_data(root: &Path, fingerprint: &str) -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = match cache.filter(|cache| cache.is_absolute()) {
        Some(cache) => cache,
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    let digest = Sha256::digest(format!("{}\0{fingerprint}", root.display()));
    let digest = format!("{digest:x}");
    let name = root.file_name().unwrap_or_default().to_string_lossy();
    Ok(cache
        .join("layra-try")
        .join(format!("{name}-{}", &digest[..12])))
}

/// Answers in the terminal.
async fn ask(look: Look) -> Result<()> {
    let Parts { indexer, searcher } = parts(&look.place).await?;
    indexer.pass(false).await?;
    tell_failed(&searcher.store);
    for question in look.ask {
        let request = SearchRequest {
            question,
            knowledge_base: None,
            top: look.top.into(),
            heat: true,
        };
        searcher.check(&request)?;
        let asking = Arc::clone(&searcher);
        let asked = request.question.clone();
        let answer = tokio::task::spawn_blocking(move || asking.search(&request)).await??;
        print_answer(&asked, &answer)?;
    }
    Ok(())
}

fn print_answer(question: &str, answer: &SearchAnswer) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "\n{}", printable(question))?;
    if answer.pages.is_empty() {
        writeln!(output, "  no page can be searched")?;
    }
    for (place, page) in (1..).zip(&answer.pages) {
        let file = printable(&page.file);
        writeln!(
            output,
            "{place:>3}. {:.3}  {file}, page {}",
            page.score, page.page
        )?;
        if !page.snippet.is_empty() {
            writeln!(output, "       {}", printable(&page.snippet))?;
        }
    }
    Ok(output.flush()?)
}

/// Text of documents and names of files must not control the terminal.
fn printable(text: &str) -> String {
    let letters = text.chars();
    letters
        .map(|letter| {
            if letter.is_control() {
                '\u{fffd}'
            } else {
                letter
            }
        })
        .collect()
}

fn tell_failed(store: &Store) {
    for (name, file) in store.files() {
        if let State::Failed { reason, .. } = file.state {
            eprintln!("left out: {}: {}", printable(&name), printable(&reason));
        }
    }
}

/// Reads a folder, and measures how well questions find their pages.
pub async fn evaluate(arguments: Evaluate) -> Result<()> {
    let judged = measure::read(&arguments.questions)?;
    let Parts { indexer, searcher } = parts(&arguments.place).await?;
    indexer.pass(false).await?;
    let report = tokio::task::spawn_blocking(move || measure::measure(&searcher, &judged));
    let report = report.await??;
    let text = if arguments.json {
        serde_json::to_string_pretty(&report)?
    } else {
        measure::table(&report)
    };
    Ok(writeln!(std::io::stdout().lock(), "{text}")?)
}

/// Opens the page, and keeps the store up to date until the program is ended.
async fn open(look: Look) -> Result<()> {
    let Parts { indexer, searcher } = parts(&look.place).await?;
    let listener = server::listen(look.port).await?;
    let address = format!("http://localhost:{}/", listener.local_addr()?.port());
    eprintln!("ask at {address} (Ctrl-C ends; what was read is kept)");
    if !look.no_open {
        open_browser(&address);
    }
    let store = Arc::clone(&searcher.store);
    let served = Served::new(
        searcher,
        Arc::clone(&indexer.progress),
        indexer.root.clone(),
    );
    tokio::try_join!(server::serve(listener, served), watch(indexer, store))?;
    Ok(())
}

/// Picks up files that come, change or go. The first look must succeed.
async fn watch(indexer: Indexer, store: Arc<Store>) -> Result<()> {
    indexer.pass(false).await?;
    tell_failed(&store);
    let mut has_failed = false;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match indexer.pass(true).await {
            Ok(_) => has_failed = false,
            Err(error) if !has_failed => {
                has_failed = true;
                eprintln!("the folder cannot be read, trying again: {error:#}");
            }
            Err(_) => {}
        }
    }
}

/// Opens the page if there is a desktop.
fn open_browser(address: &str) {
    let has_desktop = ["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    if has_desktop {
        // Without the program, the address is printed anyway.
        let _ = Command::new("xdg-open")
            .arg(address)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_not_kept_among_the_documents() {
        let root = Path::new("/home/me/docs");
        assert!(holds(root, Path::new("/home/me/docs")));
        assert!(holds(root, Path::new("/home/me/docs/data")));
        assert!(!holds(root, Path::new("/home/me/docs/.try")));
        assert!(!holds(root, Path::new("/home/me/other")));
    }

    #[test]
    fn documents_do_not_control_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb"), "a\u{fffd}[31mb");
    }
}
