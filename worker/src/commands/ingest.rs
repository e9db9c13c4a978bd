//! The `ingest` command: ingests local files into a knowledge base, without Kafka.
//!
//! The same content under the same name in the same knowledge base is the same file: ingesting it
//! again has no effect while it is searchable. After a failure or a deletion it is ingested again:
//! each call is a request of its own.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use layra_crds::SourceFormat;
use mongodb::bson::DateTime;
use sha2::{Digest, Sha256};
use tracing::Instrument as _;

use crate::assembly::Common;
use crate::document::task::{FileMeta, Task};
use crate::document::{Sent, ids};
use crate::pipeline::{Event, Job, Outcome, Pipeline, Source, Stored};
use crate::runtime::failure::{Class, Failure, Reason, Stage};
use crate::runtime::{span, work};

/// Files that are processed concurrently.
const CONCURRENCY: usize = 2;

/// The results of all files.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    files: usize,
    pages: u32,
    /// Pages that cannot be rendered or embedded.
    skipped: u32,
    vectors: u64,
    failures: BTreeMap<PathBuf, Failure>,
    elapsed: Duration,
}

impl Summary {
    /// Whether every file is searchable.
    pub(crate) fn is_success(&self) -> bool {
        self.failures.is_empty()
    }

    /// Writes the summary for people.
    pub(crate) fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        let Self {
            files,
            pages,
            skipped,
            vectors,
            ..
        } = self;
        let seconds = self.elapsed.as_secs_f64();
        let rate = f64::from(*pages) / seconds.max(f64::MIN_POSITIVE);
        let skipped = match skipped {
            0 => String::new(),
            skipped => format!(" ({skipped} skipped)"),
        };
        writeln!(
            out,
            "{files} files, {pages} pages{skipped}, {vectors} vectors in {seconds:.1} s \
             ({rate:.1} pages/s)"
        )?;
        for (file, failure) in &self.failures {
            writeln!(
                out,
                "failed: {}: {}: {}",
                file.display(),
                failure.reason,
                failure.message
            )?;
        }
        Ok(())
    }
}

/// Ingests files into a knowledge base, which is created if it does not exist.
pub(crate) async fn ingest(
    common: &Common,
    files: Vec<PathBuf>,
    knowledge_base: &str,
    username: &str,
) -> Result<Summary, Failure> {
    if common.settings.config.source.kafka.format == SourceFormat::S3Event {
        let message = "the pipeline ingests what is in its bucket: put the files there";
        let reason = Reason::InvalidTask;
        return Err(Failure::permanent(Stage::Intake, reason, message));
    }
    let pipeline = common.pipeline().await?;
    let retry = common.retry();
    let documents = &pipeline.stores.documents;
    let ensure = |_| documents.ensure_knowledge_base(knowledge_base, knowledge_base, username);
    retry.run(Stage::Mongodb, &common.stop, ensure).await?;

    let bar = progress_bar();
    let started = Instant::now();
    let results: Vec<_> = futures::stream::iter(files)
        .map(|file| {
            let (pipeline, bar) = (&pipeline, &bar);
            async move {
                let ingest = ingest_file(common, pipeline, &file, knowledge_base, username, bar);
                let ingest = Box::pin(ingest);
                let working = common.health.working(Instant::now());
                let result = work::process(Arc::clone(&working.work), ingest).await;
                drop(working);
                (file, result)
            }
        })
        .buffer_unordered(CONCURRENCY)
        .collect()
        .await;
    bar.finish_and_clear();
    pipeline.give_back_claims().await;
    let mut summary = Summary {
        elapsed: started.elapsed(),
        ..Summary::default()
    };
    for (file, result) in results {
        match result {
            Ok(Stored {
                pages,
                skipped,
                vectors,
            }) => {
                summary.files += 1;
                summary.pages += pages;
                summary.skipped += skipped;
                summary.vectors += vectors;
            }
            Err(failure) if failure.class == Class::Fatal => return Err(failure),
            Err(failure) => {
                summary.failures.insert(file, failure);
            }
        }
    }
    Ok(summary)
}

async fn ingest_file(
    common: &Common,
    pipeline: &Pipeline,
    file: &Path,
    knowledge_base: &str,
    username: &str,
    bar: &ProgressBar,
) -> Result<Stored, Failure> {
    let task = describe(file, knowledge_base, username)?;
    let span = span::of_document(&task.file.file_id, &task.task_id);
    let ingest = Box::pin(ingest_task(common, pipeline, file, &task, bar));
    ingest.instrument(span).await
}

async fn ingest_task(
    common: &Common,
    pipeline: &Pipeline,
    file: &Path,
    task: &Task,
    bar: &ProgressBar,
) -> Result<Stored, Failure> {
    bar.set_message(task.file.name.clone());
    let upload = |_| {
        pipeline
            .stores
            .objects
            .upload(&task.file.key, file, "application/octet-stream")
    };
    let retry = common.retry();
    retry.run(Stage::Objects, &common.stop, upload).await?;
    let observer = |event| match event {
        Event::Opened(pages) => bar.inc_length(pages.into()),
        Event::Settled(pages) => bar.inc(pages.into()),
    };
    let topic = &common.settings.config.source.kafka.topic;
    let job = Job {
        task,
        request: common.request(Sent {
            origin: origin(topic, &task.file.file_id),
            at: DateTime::now(),
        }),
        source: Source::Local(file),
    };
    let outcome = pipeline
        .ingest_document(&job, &common.stop, &observer)
        .await?;
    pipeline.settle(&outcome, task, None, &common.stop).await?;
    if matches!(outcome, Outcome::Stored(_) | Outcome::AlreadyStored) {
        // Before the file was in the ledger, a worker may have cleaned up after its deletion.
        let objects = &pipeline.stores.objects;
        let exists = |_| objects.exists(&task.file.key);
        if !retry.run(Stage::Objects, &common.stop, exists).await? {
            retry.run(Stage::Objects, &common.stop, upload).await?;
        }
    }
    match outcome {
        Outcome::Stored(stored) => Ok(stored),
        Outcome::Rejected(_, rejection) => Err(rejection.into()),
        Outcome::AlreadyStored => Ok(Stored::default()),
        Outcome::NoRoom(full) => {
            let message = format!(
                "the knowledge base has no room ({} of {} {}): workers ingest the file when it has",
                full.used,
                full.limit,
                full.kind.as_str()
            );
            let reason = Reason::QuotaReached;
            Err(Failure::permanent(Stage::Intake, reason, message))
        }
        other => {
            let message = format!("another worker is processing the same file ({other:?})");
            Err(Failure::permanent(
                Stage::Intake,
                Reason::Superseded,
                message,
            ))
        }
    }
}

/// Identifies one call of the command for one file. The topic identifies the pipeline.
fn origin(topic: &str, file_id: &str) -> String {
    format!("{topic}/ingest/{file_id}/{}", uuid::Uuid::new_v4())
}

/// The task that LAYRA would have sent for this file.
fn describe(file: &Path, knowledge_base: &str, username: &str) -> Result<Task, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::permanent(
            Stage::Fetch,
            Reason::FileUnreadable,
            format!("{}: {error}", file.display()),
        )
    };
    let name = file
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let sha256 = digest(file).map_err(unreadable)?;
    let file_id = ids::file_id(username, knowledge_base, &name, &sha256);
    let key = ids::original_key(username, &name, &file_id);
    let task = Task {
        task_id: file_id.clone(),
        username: username.to_owned(),
        knowledge_base: knowledge_base.to_owned(),
        file: FileMeta {
            file_id,
            key,
            name,
            url: None,
            version: None,
        },
    };
    task.check()?;
    Ok(task)
}

fn digest(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(file)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().to_vec()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{elapsed_precise} {wide_bar} {pos}/{len} pages {per_sec} {msg}",
    )
    .expect("the template is valid");
    ProgressBar::new(0).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_file_is_the_same_document() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.pdf");
        std::fs::write(&file, "one").unwrap();
        let first = describe(&file, "kb", "u").unwrap();
        assert_eq!(first, describe(&file, "kb", "u").unwrap());
        assert_eq!(first.file.name, "a.pdf");
        std::fs::write(&file, "two").unwrap();
        assert_ne!(
            first.file.file_id,
            describe(&file, "kb", "u").unwrap().file.file_id
        );
    }

    #[test]
    fn each_call_is_a_request_of_its_own() {
        let (first, second) = (origin("tasks", "f"), origin("tasks", "f"));
        assert_ne!(first, second);
        assert!(first.starts_with("tasks/ingest/f/"), "{first}");
    }

    #[test]
    fn a_summary_lists_every_failure() {
        let mut summary = Summary {
            files: 2,
            pages: 30,
            skipped: 2,
            vectors: 90,
            ..Summary::default()
        };
        summary.elapsed = Duration::from_secs(3);
        let failure = Failure::permanent(Stage::Render, Reason::Encrypted, "needs a password");
        summary.failures.insert("secret.pdf".into(), failure);
        let mut text = Vec::new();
        summary.write(&mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "2 files, 30 pages (2 skipped), 90 vectors in 3.0 s (10.0 pages/s)\n\
             failed: secret.pdf: Encrypted: needs a password\n"
        );
        assert!(!summary.is_success());
    }
}
