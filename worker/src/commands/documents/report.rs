//! Documents for people and programs. No I/O but the writer's.

use std::fmt::Write as _;
use std::io::Write;

use serde::Serialize;

use crate::stores::ledger::{Entry, State};

/// What is shown of a document.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shown {
    file_id: String,
    name: String,
    knowledge_base: String,
    state: State,
    waits_for_room: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pages: Option<u32>,
    stored_pages: u32,
    skipped_pages: Vec<Skipped>,
    /// Of the page range with the most, since its last stored page.
    attempts: u32,
    created_at: String,
    updated_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Failed>,
    ranges: Vec<Range>,
}

/// A page that was skipped, by its number from 1.
#[derive(Clone, Debug, Serialize)]
struct Skipped {
    page: u32,
    reason: String,
    message: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Failed {
    stage: String,
    reason: String,
    message: String,
    /// Whether its dead letter was sent, and redriven.
    dead_letter: bool,
    redriven: bool,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Range {
    /// Its first page, from 1.
    first_page: u32,
    pages: u32,
    stored_pages: u32,
    attempts: u32,
    done: bool,
    /// What the worker of the last attempt reported before it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<String>,
}

impl Shown {
    pub(super) fn of(entry: &Entry) -> Self {
        let time = |time: mongodb::bson::DateTime| time.try_to_rfc3339_string().unwrap_or_default();
        let units = entry.units.values();
        let ranges = entry.ranges().into_iter().map(|(first, pages)| {
            let range = entry.range_entry(first);
            Range {
                first_page: first + 1,
                pages,
                stored_pages: range.stored,
                attempts: range.attempts,
                done: range.done,
                ended: range.ended.map(|ended| ended.message),
            }
        });
        let failure = entry
            .failure
            .as_ref()
            .filter(|_| entry.state == State::Failed);
        Self {
            file_id: entry.file_id.clone(),
            name: entry.filename.clone(),
            knowledge_base: entry.knowledge_db_id.clone(),
            state: entry.state,
            waits_for_room: entry.waits_for_room(),
            pages: entry.pages,
            stored_pages: units.clone().map(|range| range.stored).sum(),
            skipped_pages: units
                .clone()
                .flat_map(|range| &range.skipped)
                .map(|page| Skipped {
                    page: page.page + 1,
                    reason: page.reason.clone(),
                    message: page.message.clone(),
                })
                .collect(),
            attempts: units.map(|range| range.attempts).max().unwrap_or(0),
            created_at: time(entry.created_at),
            updated_at: time(entry.updated_at),
            failure: failure.map(|failure| Failed {
                stage: failure.stage.clone(),
                reason: failure.reason.clone(),
                message: failure.message.clone(),
                dead_letter: failure.letter,
                redriven: failure.redriven,
            }),
            ranges: ranges.collect(),
        }
    }

    fn state_words(&self) -> &'static str {
        match self.state {
            State::Working if self.waits_for_room => "waits for room",
            State::Working => "in progress",
            State::Done => "searchable",
            State::Failed => "failed",
            State::Deleted => "deleted",
        }
    }

    fn pages_words(&self) -> String {
        let pages = self
            .pages
            .map_or_else(|| "?".to_owned(), |pages| pages.to_string());
        format!("{}/{pages}", self.stored_pages)
    }

    /// Why it failed, or what was skipped.
    fn remark(&self) -> String {
        match (&self.failure, self.skipped_pages.len()) {
            (Some(failure), _) => format!("{}: {}", failure.reason, failure.message),
            (None, 0) => String::new(),
            (None, 1) => "1 page skipped".to_owned(),
            (None, count) => format!("{count} pages skipped"),
        }
    }
}

pub(super) fn write_json(documents: &[Shown], out: &mut impl Write) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, documents)?;
    Ok(out.write_all(b"\n")?)
}

pub(super) fn write_table(documents: &[Shown], out: &mut impl Write) -> std::io::Result<()> {
    if documents.is_empty() {
        return writeln!(out, "there are no such documents");
    }
    let title = ["FILE", "STATE", "PAGES", "CHANGED", "NAME"].map(str::to_owned);
    let rows = documents.iter().map(|document| {
        [
            document.file_id.clone(),
            document.state_words().to_owned(),
            document.pages_words(),
            seconds(&document.updated_at),
            document.name.clone(),
        ]
    });
    let rows: Vec<[String; 5]> = std::iter::once(title).chain(rows).collect();
    let mut widths = [0; 5];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let remarks = std::iter::once("WHY".to_owned()).chain(documents.iter().map(Shown::remark));
    for (row, remark) in rows.iter().zip(remarks) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        line.push_str(&remark);
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

pub(super) fn write_details(documents: &[Shown], out: &mut impl Write) -> std::io::Result<()> {
    for document in documents {
        let mut line = |name: &str, value: &str| writeln!(out, "{name:<15}  {value}");
        line("file", &document.file_id)?;
        line("name", &document.name)?;
        line("knowledge base", &document.knowledge_base)?;
        line("state", document.state_words())?;
        line("pages", &document.pages_words())?;
        line("first task", &document.created_at)?;
        line("last change", &document.updated_at)?;
        if let Some(failure) = &document.failure {
            let why = format!(
                "{} in stage {}: {}",
                failure.reason, failure.stage, failure.message
            );
            line("failure", &why)?;
            let letter = match (failure.dead_letter, failure.redriven) {
                (_, true) => "redriven",
                (true, false) => "sent, can be redriven",
                (false, false) => "not sent yet",
            };
            line("dead letter", letter)?;
        }
        for page in &document.skipped_pages {
            let why = format!("page {}: {} {}", page.page, page.reason, page.message);
            line("skipped", why.trim_end())?;
        }
        for range in &document.ranges {
            let last = range.first_page + range.pages.saturating_sub(1);
            let state = if range.done { "done" } else { "not done" };
            let ended = range.ended.as_deref().unwrap_or_default();
            let what = format!(
                "pages {}-{last}: {state}, {} of {} stored, {} attempts  {ended}",
                range.first_page, range.stored_pages, range.pages, range.attempts
            );
            line("range", what.trim_end())?;
        }
    }
    Ok(())
}

/// A time without fractions of a second.
fn seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::runtime::failure::{Failure, Reason, Stage};
    use crate::stores::ledger::{RangeEntry, Rejection, SkippedPage, an_entry};

    fn entries() -> Vec<Entry> {
        let mut done = an_entry(State::Done);
        done.pages = Some(3);
        done.units = BTreeMap::from([(
            "0".to_owned(),
            RangeEntry {
                stored: 3,
                done: true,
                skipped: vec![SkippedPage {
                    page: 1,
                    reason: "TimedOut".to_owned(),
                    message: String::new(),
                }],
                ..RangeEntry::default()
            },
        )]);
        let mut failed = an_entry(State::Failed);
        "another-file".clone_into(&mut failed.file_id);
        let failure = Failure::permanent(Stage::Render, Reason::Encrypted, "it needs a password");
        failed.failure = Some(Rejection {
            letter: true,
            ..Rejection::from(&failure)
        });
        vec![done, failed]
    }

    fn shown() -> Vec<Shown> {
        entries().iter().map(Shown::of).collect()
    }

    fn text(write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
        let mut text = Vec::new();
        write(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn the_list_has_aligned_columns_and_says_why_a_document_failed() {
        let shown = shown();
        let text = text(|out| write_table(&shown, out));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        let column = lines[0].find("STATE").unwrap();
        assert!(lines[1][column..].starts_with("searchable  3/3"), "{text}");
        assert!(lines[1].ends_with("1 page skipped"), "{text}");
        assert!(lines[2][column..].starts_with("failed      0/?"), "{text}");
        assert!(
            lines[2].ends_with("Encrypted: it needs a password"),
            "{text}"
        );
        let none = self::text(|out| write_table(&[], out));
        assert_eq!(none, "there are no such documents\n");
    }

    #[test]
    fn the_details_have_page_ranges_skipped_pages_and_the_dead_letter() {
        let shown = shown();
        let text = text(|out| write_details(&shown, out));
        for line in [
            "skipped          page 2: TimedOut\n",
            "range            pages 1-3: done, 3 of 3 stored, 0 attempts\n",
            "failure          Encrypted in stage render: it needs a password\n",
            "dead letter      sent, can be redriven\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    #[test]
    fn programs_get_numbers() {
        let value = serde_json::to_value(shown()).unwrap();
        assert_eq!(value[0]["storedPages"], 3);
        assert_eq!(value[0]["state"], "done");
        assert_eq!(value[1]["failure"]["deadLetter"], true);
    }
}
