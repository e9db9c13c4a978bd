//! Where a document is, for people.

use std::io::{self, Write};

use super::whereabouts::{Document, Failed, Pages, Place, Queue, Times, Trace, Work};

/// Columns of the names in front of the lines.
const NAMES: usize = 12;

impl Place {
    fn words(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::WaitingForRoom => "waiting for room",
            Self::InWork => "in work",
            Self::Done => "done",
            Self::DeadLettered => "dead-lettered",
            Self::Deleted => "deleted",
            Self::Unknown => "unknown: neither the ledger nor Kafka knows this document",
        }
    }
}

impl Trace {
    /// Writes the lines.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut line = |name: &str, text: &str| writeln!(out, "{name:<NAMES$}{text}");
        line("file", &self.file_id)?;
        line("state", self.state.words())?;
        if let Some(document) = &self.document {
            line("document", &describe_document(document))?;
        }
        if let Some(queue) = &self.queue {
            line("queue", &describe_queue(queue))?;
        }
        for work in &self.work {
            line("work", &describe_work(work))?;
        }
        if let Some(pages) = &self.pages {
            line("pages", &describe_pages(*pages))?;
        }
        if let Some(times) = &self.times {
            for (name, text) in describe_times(times) {
                line(name, &text)?;
            }
        }
        if let Some(failure) = &self.failure {
            for (name, text) in describe_failure(failure) {
                line(name, &text)?;
            }
        }
        for note in &self.notes {
            line("note", note)?;
        }
        Ok(())
    }
}

fn describe_document(document: &Document) -> String {
    let Document {
        name,
        knowledge_base,
        task_id,
    } = document;
    format!("{name}, in knowledge base {knowledge_base}, task {task_id}")
}

fn describe_queue(queue: &Queue) -> String {
    let before = match queue.messages_before {
        0 => "no message before it".to_owned(),
        1 => "1 message before it".to_owned(),
        count => format!("{count} messages before it"),
    };
    let Queue {
        topic,
        partition,
        offset,
        ..
    } = queue;
    let expected = match queue.expected_seconds {
        Some(seconds) => format!("; at the present speed in {}", duration(seconds)),
        None => "; the expected time is not known".to_owned(),
    };
    format!("topic {topic}, partition {partition}, offset {offset}: {before}{expected}")
}

fn describe_work(work: &Work) -> String {
    let worker = work.worker.as_deref().unwrap_or("a worker");
    let since = work.since.as_deref();
    let since = since.map(|since| format!(" since {since}"));
    let of = work.pages.map(|pages| format!(" of {pages}"));
    let attempts = match work.attempts {
        0 | 1 => String::new(),
        attempts => format!(", attempt {attempts}"),
    };
    format!(
        "{worker}{}: from page {}, {}{} done{attempts}",
        since.unwrap_or_default(),
        work.first_page,
        work.pages_done,
        of.unwrap_or_default(),
    )
}

fn describe_pages(pages: Pages) -> String {
    let Pages {
        total,
        stored,
        skipped,
        vectors,
    } = pages;
    let of = total.map(|total| format!(" of {total}"));
    let of = of.unwrap_or_default();
    format!("{stored}{of} stored, {skipped} skipped, {vectors} vectors")
}

fn describe_times(times: &Times) -> Vec<(&'static str, String)> {
    let after = |at: &str, seconds: Option<f64>, what: &str| match seconds {
        Some(seconds) => format!("{at}, {seconds:.1} s after {what}"),
        None => at.to_owned(),
    };
    let mut lines = Vec::new();
    if let Some(requested) = &times.requested_at {
        lines.push(("sent", requested.clone()));
    }
    lines.push((
        "begun",
        after(&times.began_at, times.waited_seconds, "it was sent"),
    ));
    match &times.finished_at {
        Some(finished) => {
            let finished = after(finished, times.took_seconds, "it was begun");
            lines.push(("finished", finished));
        }
        None => lines.push(("changed", times.updated_at.clone())),
    }
    if !times.stages.is_empty() {
        let stages = times.stages.iter();
        let stages = stages.map(|time| format!("{} {:.1} s", time.stage, time.seconds));
        let stages: Vec<String> = stages.collect();
        lines.push(("stages", stages.join(", ")));
    }
    lines
}

fn describe_failure(failure: &Failed) -> Vec<(&'static str, String)> {
    let stage = failure.stage.as_deref();
    let stage = stage.map(|stage| format!(" in stage {stage}"));
    let mut lines = vec![(
        "reason",
        format!(
            "{}{}: {}",
            failure.reason,
            stage.unwrap_or_default(),
            failure.message
        ),
    )];
    if let Some(advice) = failure.what_to_do {
        lines.push(("what to do", advice.to_owned()));
    }
    let redrive = &failure.redrive;
    lines.push((
        "redrive",
        if failure.redriven {
            "done already".to_owned()
        } else {
            redrive.clone()
        },
    ));
    lines
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3_600),
    }
}
