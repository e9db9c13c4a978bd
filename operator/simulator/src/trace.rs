//! What arrives and when, and what the world around the workers does meanwhile: read from a CSV
//! file, or made by [`super::shapes`].

use std::path::Path;

/// Documents that a file may hold; more are a mistake, or fill the memory.
const MOST_DOCUMENTS: usize = 5_000_000;
/// A trace ends here at the latest: 31 days.
const LAST_SECOND: u32 = 31 * 86_400;
/// The columns; the last one may be missing.
const COLUMNS: [&str; 4] = ["second", "documents", "pages_per_document", "partition"];

/// What happens in one simulation, the same for every policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Trace {
    /// In the order of time.
    pub(super) arrivals: Vec<Arrival>,
    /// The second at which arrivals end for good.
    pub(super) ends: u32,
    /// Partitions that nobody gets on with for a while.
    pub(super) stalls: Vec<Stall>,
    /// Pages a second that the stores take from all workers together, where they are the limit.
    pub(super) store_limit: Option<f64>,
}

/// A document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    /// When it is sent.
    pub(super) second: u32,
    /// Its pages, at least one.
    pub(super) pages: u32,
    /// To which partition; `None`: to any.
    pub(super) partition: Option<u32>,
}

/// A partition whose work stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stall {
    /// Of the topic with the tasks.
    pub(super) partition: u32,
    /// From this second ...
    pub(super) from: u32,
    /// ... until before this one.
    pub(super) until: u32,
}

/// A trace that cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TraceError {
    #[error(
        "{file}, line 1: found the header `{found}`; expected `second,documents,pages_per_document` or the same with `,partition` at the end"
    )]
    Header { file: String, found: String },
    #[error("{file}, line {line}: found {found} columns; expected {expected}, as in the header")]
    Columns {
        file: String,
        line: usize,
        found: usize,
        expected: usize,
    },
    #[error(
        "{file}, line {line}, column {column} (`{name}`): found `{found}`; expected {expected}"
    )]
    Value {
        file: String,
        line: usize,
        column: usize,
        name: &'static str,
        found: String,
        expected: String,
    },
    #[error(
        "{file}, line {line}: more than {MOST_DOCUMENTS} documents so far; split the trace or scale it down"
    )]
    TooMany { file: String, line: usize },
    #[error(
        "{file}: no document arrives; expected at least one line after the header with documents"
    )]
    Empty { file: String },
}

/// Reads the text of a CSV file; `partitions` is how many the topic has.
pub(super) fn from_csv(path: &Path, text: &str, partitions: u32) -> Result<Trace, TraceError> {
    let file = path.display().to_string();
    let mut lines = text.lines().enumerate();
    let header = lines.next().map_or("", |(_, line)| line);
    let columns = header_columns(&file, header)?;
    let mut arrivals = Vec::new();
    for (index, line) in lines {
        if line.trim().is_empty() {
            continue;
        }
        let row = Row::new(&file, index + 1, line, columns)?;
        row.read(partitions, &mut arrivals)?;
    }
    arrivals.sort_by_key(|arrival| arrival.second);
    let Some(last) = arrivals.last() else {
        return Err(TraceError::Empty { file });
    };
    Ok(Trace {
        ends: last.second + 1,
        arrivals,
        ..Trace::default()
    })
}

fn header_columns(file: &str, header: &str) -> Result<usize, TraceError> {
    let names: Vec<&str> = header
        .trim_start_matches('\u{feff}')
        .split(',')
        .map(str::trim)
        .collect();
    if names == COLUMNS || names == COLUMNS[..3] {
        Ok(names.len())
    } else {
        Err(TraceError::Header {
            file: file.to_owned(),
            found: header.to_owned(),
        })
    }
}

/// One line of the file.
struct Row<'a> {
    file: &'a str,
    line: usize,
    fields: Vec<&'a str>,
}

impl<'a> Row<'a> {
    fn new(file: &'a str, line: usize, text: &'a str, expected: usize) -> Result<Self, TraceError> {
        let fields: Vec<&str> = text.split(',').map(str::trim).collect();
        if fields.len() == expected {
            return Ok(Self { file, line, fields });
        }
        Err(TraceError::Columns {
            file: file.to_owned(),
            line,
            found: fields.len(),
            expected,
        })
    }

    fn read(&self, partitions: u32, arrivals: &mut Vec<Arrival>) -> Result<(), TraceError> {
        let second = self.whole(0, LAST_SECOND)?;
        let documents = self.whole(1, u32::MAX)?;
        let pages = self.pages(2)?;
        let partition = match self.fields.get(3) {
            None | Some(&"") => None,
            Some(_) => Some(self.whole(3, partitions.saturating_sub(1))?),
        };
        let count = usize::try_from(documents).unwrap_or(usize::MAX);
        if count > MOST_DOCUMENTS.saturating_sub(arrivals.len()) {
            return Err(TraceError::TooMany {
                file: self.file.to_owned(),
                line: self.line,
            });
        }
        // With 2.5 pages a document, documents have two and three pages in turn.
        let mut given = 0;
        for number in 1..=documents {
            let all = super::whole(f64::from(number) * pages);
            let pages = all.saturating_sub(given).max(1);
            given += pages;
            arrivals.push(Arrival {
                second,
                pages,
                partition,
            });
        }
        Ok(())
    }

    fn whole(&self, column: usize, most: u32) -> Result<u32, TraceError> {
        let parsed = self.fields[column].parse().ok();
        parsed.filter(|value| *value <= most).ok_or_else(|| {
            let unit = if column == 3 {
                " (the pipeline's partitions)"
            } else {
                ""
            };
            self.wrong(column, format!("a whole number from 0 to {most}{unit}"))
        })
    }

    fn pages(&self, column: usize) -> Result<f64, TraceError> {
        let parsed = self.fields[column].parse().ok();
        parsed
            .filter(|value| (1.0..=100_000.0).contains(value))
            .ok_or_else(|| self.wrong(column, "a number from 1 to 100000".to_owned()))
    }

    fn wrong(&self, column: usize, expected: String) -> TraceError {
        TraceError::Value {
            file: self.file.to_owned(),
            line: self.line,
            column: column + 1,
            name: COLUMNS[column],
            found: self.fields[column].to_owned(),
            expected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Trace, String> {
        from_csv(Path::new("t.csv"), text, 4).map_err(|error| error.to_string())
    }

    fn refused(text: &str) -> String {
        read(text).unwrap_err()
    }

    #[test]
    fn seconds_may_repeat_and_come_in_any_order() {
        let trace = read("second,documents,pages_per_document\n5,1,7\n2,2,3\n\n5,1,9\n").unwrap();
        let seen: Vec<(u32, u32)> = trace
            .arrivals
            .iter()
            .map(|arrival| (arrival.second, arrival.pages))
            .collect();
        assert_eq!(seen, [(2, 3), (2, 3), (5, 7), (5, 9)]);
        assert_eq!(trace.ends, 6);
    }

    #[test]
    fn a_broken_number_of_pages_holds_on_average() {
        let trace = read("second,documents,pages_per_document\n0,4,2.5\n").unwrap();
        let pages: Vec<u32> = trace.arrivals.iter().map(|arrival| arrival.pages).collect();
        assert_eq!(pages, [2, 3, 2, 3]);
    }

    #[test]
    fn a_partition_may_be_named_or_left_open() {
        let text = "second,documents,pages_per_document,partition\n0,1,1,3\n0,1,1,\n";
        let trace = read(text).unwrap();
        assert_eq!(trace.arrivals[0].partition, Some(3));
        assert_eq!(trace.arrivals[1].partition, None);
    }

    #[test]
    fn what_is_wrong_is_named_with_line_and_column() {
        let header = "second,documents,pages_per_document,partition";
        for (text, error) in [
            (
                "time,documents\n".to_owned(),
                "t.csv, line 1: found the header `time,documents`; expected `second,documents,pages_per_document` or the same with `,partition` at the end",
            ),
            (
                format!("{header}\n0,1,1,0\n1,1\n"),
                "t.csv, line 3: found 2 columns; expected 4, as in the header",
            ),
            (
                format!("{header}\n-1,1,1,0\n"),
                "t.csv, line 2, column 1 (`second`): found `-1`; expected a whole number from 0 to 2678400",
            ),
            (
                format!("{header}\n0,many,1,0\n"),
                "t.csv, line 2, column 2 (`documents`): found `many`; expected a whole number from 0 to 4294967295",
            ),
            (
                format!("{header}\n0,1,0,0\n"),
                "t.csv, line 2, column 3 (`pages_per_document`): found `0`; expected a number from 1 to 100000",
            ),
            (
                format!("{header}\n0,1,1,4\n"),
                "t.csv, line 2, column 4 (`partition`): found `4`; expected a whole number from 0 to 3 (the pipeline's partitions)",
            ),
            (
                format!("{header}\n0,4000000000,1,0\n"),
                "t.csv, line 2: more than 5000000 documents so far; split the trace or scale it down",
            ),
            (
                format!("{header}\n7,0,1,0\n"),
                "t.csv: no document arrives; expected at least one line after the header with documents",
            ),
        ] {
            assert_eq!(refused(&text), error);
        }
    }
}
