//! `cargo demo`: shows the whole system on this machine with real documents.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use layra_e2e::audit::Audit;
use layra_e2e::cluster::{Scene, eventually};
use layra_e2e::layra::{Upload, User, random_id};
use layra_e2e::query::QueryService;
use layra_e2e::report::{self, Report, Shown};
use layra_e2e::stores::Stores;
use layra_e2e::timeline::Timeline;
use layra_testbed::phases::{Phases, since_start_of_process};
use layra_testbed::{
    Ended, Testbed, arguments, artifacts, describe_testbed, processes, target_directory,
    unless_interrupted,
};
use redis::AsyncCommands;
use serde_json::{Value, json};

const NAMESPACE: &str = "demo";
const PIPELINE: &str = "documents";
/// The Secret of the token that may search.
const TOKENS: &str = "search-tokens";
/// Questions, each with the document that answers it. The smallest document answers one.
const QUESTIONS: [(&str, &str); 6] = [
    (
        "fhs-3.0.pdf",
        "Which directory holds data for services provided by this system?",
    ),
    (
        "debian-faq.pdf",
        "How do I upgrade to a new release of the distribution?",
    ),
    (
        "developers-reference.pdf",
        "How can I find a sponsor who uploads my package?",
    ),
    (
        "policy.pdf",
        "Which control field declares the packages needed to build a source package?",
    ),
    (
        "gnuplot-doc.pdf",
        "How is a three-dimensional surface drawn?",
    ),
    (
        "developers-reference.pdf",
        "What should a maintainer do with a release-critical bug?",
    ),
];

/// Whether the pipeline was applied: then its workers continue without this program.
static APPLIED: AtomicBool = AtomicBool::new(false);

/// Shows the whole system on this machine: a real cluster, real documents, questions.
#[derive(Parser)]
#[command(name = "cargo demo", bin_name = "cargo demo")]
struct Arguments {
    /// Number of documents to upload, smallest first (default: all). Only questions that these
    /// documents answer are asked. Two cores store two to ten pages per second; all documents have
    /// about 2300 pages.
    #[arg(long)]
    documents: Option<usize>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse_from(arguments::of_alias());
    let run = Box::pin(run(&arguments));
    Ok(
        match unless_interrupted(run, describe_interruption).await? {
            Ended::Finished(()) => ExitCode::SUCCESS,
            Ended::Interrupted(code) => code,
        },
    )
}

/// What an interrupted demo leaves running, and how to continue.
fn describe_interruption() -> Result<String> {
    let left = if APPLIED.load(Ordering::Relaxed) {
        format!(
            "The test-bed is running. In its namespace {NAMESPACE} the workers of pipeline {PIPELINE} continue \
             with the uploaded documents (cargo testbed kubectl -n {NAMESPACE} get ipl)."
        )
    } else {
        describe_testbed()?
    };
    Ok(format!(
        "{left} Downloads and compiled programs are kept.\n  \
         start again with a new knowledge base:  cargo demo\n  \
         stop everything:                        cargo testbed down"
    ))
}

async fn run(arguments: &Arguments) -> Result<()> {
    let mut phases = Phases::inherited();

    let testbed = phases.run("test-bed up", Testbed::obtain()).await?;
    artifacts::provide(testbed.settings(), artifacts::FILES).await?;
    let images = phases.run("images", testbed.images()).await?;
    println!("images: {} and {}", images.operator, images.worker);
    let stores = Stores::prepare(&testbed).await?;
    let mut pdfs = documents(&artifacts::PDFS.path(testbed.settings()))?;
    pdfs.truncate(arguments.documents.unwrap_or(usize::MAX));

    let scene = phases
        .run(
            "operator installed with Helm",
            Scene::open(&testbed, &images, NAMESPACE),
        )
        .await?;
    // A new topic for each run: an interrupted one may have left tasks in its topic.
    let topic = format!("demo-{}", &random_id()[..8]);
    let object = scene.pipeline(
        PIPELINE,
        &topic,
        &json!({"spec": {
            "documents": {"pageTexts": "Keep"},
            "scaling": {"maxReplicas": 3, "drainTargetSeconds": 120, "scaleDownDelaySeconds": 15},
        }}),
    );
    println!(
        "\napplying this pipeline:\n{}",
        serde_yaml_ng::to_string(&object)?
    );
    scene.apply(&object).await?;
    APPLIED.store(true, Ordering::Relaxed);
    phases
        .run(
            "pipeline Ready",
            scene.wait_condition(PIPELINE, "Ready", "True", "", Duration::from_mins(1)),
        )
        .await?;

    let user = User::with_knowledge_base(&stores, &topic, "demo", &random_id()).await?;
    let mut timeline = Timeline::default();
    println!(
        "\nuploading {} documents to knowledge base {}",
        pdfs.len(),
        user.knowledge_base
    );
    let started = Instant::now();
    timeline
        .sample(&scene, PIPELINE, &stores, &user.knowledge_base)
        .await?;
    let mut uploads = Vec::new();
    for pdf in &pdfs {
        uploads.push(user.upload(pdf).await?);
    }
    Box::pin(watch(&mut timeline, &scene, &stores, &user, &uploads)).await?;
    phases.done("documents ingested, workers back to zero", started);

    let collection = format!("colqwen{}", user.knowledge_base.replace('-', "_"));
    let audit = phases
        .run(
            "audit of all stores",
            Box::pin(Audit::of(&stores, &user.knowledge_base, &collection)),
        )
        .await?;
    ensure!(
        audit.violations.is_empty(),
        "the stores are inconsistent: {:#?}",
        audit.violations
    );
    println!(
        "\n{} documents, {} pages, {} vectors: every page once in S3, MongoDB and Milvus; {:.1} pages/s",
        audit.pages.len(),
        audit.total_pages(),
        audit.vectors,
        timeline.mean_pages_per_second()
    );

    let service = phases
        .run("query pods Ready", query_service(&scene, object, &user))
        .await?;
    let answers = phases.run("questions", ask(&service, &user, &pdfs)).await?;
    let memory = memory(&testbed, &timeline)?;
    let file = target_directory().await?.join("demo/report.html");
    std::fs::create_dir_all(file.parent().context("a parent")?)?;
    let page = report::html(&Report {
        phases: phases.all(),
        timeline: &timeline,
        totals: (audit.pages.len(), audit.total_pages(), audit.vectors),
        answers: &answers,
        memory: &memory,
    });
    std::fs::write(&file, page)?;
    phases.print();
    println!("\nmemory:");
    for (process, bytes) in &memory {
        println!("  {:>6} MB  {process}", bytes / 1_000_000);
    }
    print_what_is_left(&testbed, &service, &pdfs, &file);
    Ok(())
}

/// What runs and is there when this program has ended.
fn print_what_is_left(
    testbed: &Testbed,
    service: &QueryService,
    documents: &[PathBuf],
    report: &Path,
) {
    let first = questions(documents).next().unwrap_or("What is this about?");
    println!(
        "\nto ask your own questions, on this machine and until the test-bed stops:\n  {}",
        service.page(first)
    );
    println!(
        "\nreport: {}\n\nto explore:\n  export KUBECONFIG={}\n  kubectl -n {NAMESPACE} get ipl {PIPELINE} -o yaml\n  \
         kubectl -n {NAMESPACE} get events --sort-by=.lastTimestamp\n  kubectl -n {NAMESPACE} logs deployment/layra-operator\n\
         (or `cargo testbed kubectl -n {NAMESPACE} get ipl`)\n\nto stop everything:\n  cargo testbed down",
        report.display(),
        testbed.kubeconfig().display()
    );
}

/// Prints the progress until every task is completed and no worker is left.
async fn watch(
    timeline: &mut Timeline,
    scene: &Scene,
    stores: &Stores,
    user: &User,
    uploads: &[Upload],
) -> Result<()> {
    println!(
        "\n{:>6} {:>6} {:>8} {:>7} {:>7} {:>8}",
        "s", "lag", "workers", "tasks", "pages", "pages/s"
    );
    let mut printed = 0;
    let mut is_empty = true;
    eventually(
        "all documents to be ingested and all workers to stop",
        Duration::from_hours(1),
        async || {
            let sample = timeline
                .sample(scene, PIPELINE, stores, &user.knowledge_base)
                .await?;
            for (_, scaling) in timeline.decisions.iter().skip(printed) {
                println!("       {}", scaling.message);
            }
            printed = timeline.decisions.len();
            if is_empty && sample.pages > 0 {
                is_empty = false;
                if let Some(time) = since_start_of_process() {
                    let minutes = time.as_secs_f64() / 60.0;
                    println!("       first page stored, {minutes:.1} minutes after the start of the command");
                }
            }
            let completed = completed(stores, uploads).await?;
            println!(
                "{:>6.0} {:>6} {:>4}/{:<3} {:>4}/{:<2} {:>7} {:>8.1}",
                sample.second,
                sample.lag.map_or("?".to_owned(), |lag| lag.to_string()),
                sample.ready,
                sample.desired,
                completed,
                uploads.len(),
                sample.pages,
                timeline.pages_per_second(Duration::from_secs(10))
            );
            tokio::time::sleep(Duration::from_millis(1700)).await;
            Ok(
                (completed == uploads.len() && sample.desired == 0 && sample.ready == 0)
                    .then_some(()),
            )
        },
    )
    .await
}

/// Number of tasks that LAYRA's progress display shows as completed. A failed one ends the demo.
async fn completed(stores: &Stores, uploads: &[Upload]) -> Result<usize> {
    let mut redis = stores.redis.clone();
    let mut completed = 0;
    for upload in uploads {
        let task = format!("task:{}", upload.task_id);
        let (status, message): (String, String) = redis.hmget(task, &["status", "message"]).await?;
        ensure!(status != "failed", "{}: {message}", upload.filename);
        completed += usize::from(status == "completed");
    }
    Ok(completed)
}

/// Adds pods that answer questions about the knowledge base, and waits until they are ready. They
/// stay when this program has ended, as the rest of the test-bed does.
async fn query_service(scene: &Scene, mut object: Value, user: &User) -> Result<QueryService> {
    let token = format!("demo-{}", random_id());
    let tokens = json!([{ "token": token, "knowledgeBases": [user.knowledge_base] }]);
    let secret = json!({ "tokens.yaml": tokens.to_string() });
    scene.create_secret(TOKENS, &secret).await?;
    let query = json!({ "query": { "tokensSecretRef": { "name": TOKENS } } });
    println!(
        "\nadding to the pipeline:\n{}",
        serde_yaml_ng::to_string(&query)?
    );
    object["spec"]["query"] = query["query"].clone();
    scene.apply(&object).await?;
    let limit = Duration::from_mins(5);
    let ready = scene.wait_condition(PIPELINE, "QueryReady", "True", "", limit);
    ready.await?;
    QueryService::of_pipeline(scene, PIPELINE, &token).await
}

/// Asks the questions that the documents answer. Returns the best pages with their pictures.
async fn ask(
    service: &QueryService,
    user: &User,
    documents: &[PathBuf],
) -> Result<Vec<(String, Vec<Shown>)>> {
    let mut answers = Vec::new();
    for question in questions(documents) {
        let found = service.ask(question, &user.knowledge_base, 3).await?;
        println!("\n{question}");
        let mut pages = Vec::new();
        for answer in found {
            println!(
                "  {:.3}  {} page {}",
                answer.score, answer.file, answer.page
            );
            let picture = service.picture(&answer).await?;
            pages.push((answer, picture));
        }
        answers.push((question.to_owned(), pages));
    }
    Ok(answers)
}

/// The questions that these documents answer.
fn questions(documents: &[PathBuf]) -> impl Iterator<Item = &'static str> {
    let is_there = |name: &str| documents.iter().any(|document| document.ends_with(name));
    QUESTIONS
        .into_iter()
        .filter(move |(document, _)| is_there(document))
        .map(|(_, question)| question)
}

/// Resident bytes of each process: the servers' at present, the product's at their peak.
fn memory(testbed: &Testbed, timeline: &Timeline) -> Result<Vec<(String, u64)>> {
    let servers = processes(testbed.settings())?
        .into_iter()
        .filter_map(|process| Some((process.name, process.resident_bytes?)));
    let own = timeline
        .memory
        .iter()
        .map(|(name, bytes)| (name.clone(), *bytes));
    Ok(own.chain(servers).collect())
}

/// The PDFs of the demo, smallest first.
fn documents(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut pdfs: Vec<PathBuf> = std::fs::read_dir(folder)
        .context("the demo's documents")?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "pdf"))
        .collect();
    pdfs.sort_by_key(|path| path.metadata().map_or(0, |metadata| metadata.len()));
    ensure!(!pdfs.is_empty(), "no PDF in {}", folder.display());
    Ok(pdfs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_questions_that_the_documents_answer_are_asked() {
        let documents =
            ["fhs-3.0.pdf", "debian-faq-it.pdf"].map(|name| Path::new("/pdfs").join(name));
        let asked: Vec<&str> = questions(&documents).collect();
        assert_eq!(asked, [QUESTIONS[0].1]);
    }
}
