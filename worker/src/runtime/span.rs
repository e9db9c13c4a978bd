//! The span of a document: all log lines about it, of every stage, carry its ids. Its trace has them,
//! too.

use tracing::Span;
use tracing::field::Empty;

use crate::runtime::traces::{self, Trace};

/// The span of a message, from its delivery to the end of its work. The ids come with
/// [`name_document`], and with traces the id of its trace. A level that every filter of the log lets through: the ids belong to warnings,
/// too.
pub(crate) fn of_message(topic: &str, partition: i32, offset: i64, trace: &Trace) -> Span {
    let span = tracing::error_span!(
        "message",
        topic,
        partition,
        offset,
        file_id = Empty,
        task_id = Empty,
        first_page = Empty,
        trace_id = Empty,
    );
    if let Some(id) = trace.id() {
        span.record("trace_id", id);
    }
    span
}

/// The span of a document that a command ingests.
pub(crate) fn of_document(file_id: &str, task_id: &str) -> Span {
    tracing::error_span!("document", file_id, task_id)
}

/// Names the document that the current span is about.
pub(crate) fn name_document(file_id: &str, task_id: Option<&str>) {
    let span = Span::current();
    span.record("file_id", file_id);
    traces::describe("file_id", file_id.to_owned());
    if let Some(task_id) = task_id {
        span.record("task_id", task_id);
        traces::describe("task_id", task_id.to_owned());
    }
}

/// Names the page range, by its first page from 1, that the current span is about.
pub(crate) fn name_range(first_page: u32) {
    Span::current().record("first_page", first_page);
    traces::describe("first_page", i64::from(first_page));
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use serde_json::Value;
    use tracing::Instrument;
    use tracing_subscriber::EnvFilter;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Two documents in one thread, as a worker has them, with the filter of `RUST_LOG=warn`.
    #[test]
    fn every_line_of_a_document_has_its_ids_and_no_other() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new("warn"))
            .with_writer(move || writer.clone())
            .json()
            .flatten_event(true)
            .finish();
        let work = |offset: i64| {
            async move {
                let (file, task) = (format!("f{offset}"), format!("t{offset}"));
                name_document(&file, Some(&task));
                name_range(7);
                let stage = async || {
                    tokio::task::yield_now().await;
                    tracing::warn!(expected = offset, "a stage");
                };
                tokio::join!(stage(), stage());
            }
            .instrument(of_message("tasks", 2, offset, &Trace::default()))
        };
        tracing::subscriber::with_default(subscriber, || {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            runtime.unwrap().block_on(async {
                tokio::join!(work(1), work(2));
            });
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 4, "{text}");
        for line in lines {
            let (offset, span) = (&line["expected"], &line["span"]);
            assert_eq!(span["file_id"], format!("f{offset}"));
            assert_eq!(span["task_id"], format!("t{offset}"));
            assert_eq!((&span["partition"], &span["offset"]), (&2.into(), offset));
            assert_eq!(
                (&span["topic"], &span["first_page"]),
                (&"tasks".into(), &7.into())
            );
        }
    }
}
