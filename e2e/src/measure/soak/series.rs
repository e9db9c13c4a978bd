//! Samples as series over the time, and how fast each rises.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::sample::{Process, Sample, Size};
use super::trend::{slope, warm};

const MEMORY: &str = "resident memory, MB";
const FILES: &str = "open files";
const TASKS: &str = "asynchronous tasks";
const TOPICS: &str = "logs of the topics, KB";
const ENTRIES: &str = "documents in MongoDB";
const BYTES: &str = "MongoDB, KB";
const STORED: &str = "pages stored";
const WORKERS: &str = "workers";
/// In pairs, which stand beside each other.
pub(super) static PANELS: [&str; 8] = [
    MEMORY, FILES, TASKS, TOPICS, ENTRIES, BYTES, STORED, WORKERS,
];

/// What the values of a series are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Per {
    Hour,
    /// Pages that the process has stored.
    ThousandPages,
    ThousandDocuments,
}

impl Per {
    fn words(self) -> &'static str {
        match self {
            Self::Hour => "an hour",
            Self::ThousandPages => "1,000 pages",
            Self::ThousandDocuments => "1,000 documents",
        }
    }
}

/// A value over the time.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) panel: &'static str,
    pub(super) name: String,
    per: Per,
    /// Of each process, by its start and pid; a series that outlives all of them has one life.
    pub(super) lives: BTreeMap<(u64, u32), Vec<Point>>,
}

/// A value at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) second: f64,
    /// In the unit of [`Per`].
    along: f64,
    pub(super) value: f64,
}

/// Every series as a row: its values, and how fast it rises.
pub(super) fn table(series: &[Series]) -> String {
    let mut text =
        "| series | first | last | highest | slope |\n|---|---|---|---|---|\n".to_owned();
    for series in series {
        let lives = series.lives.values();
        let along = |life: &Vec<Point>| life.iter().map(|it| (it.along, it.value)).collect();
        let lives: Vec<Vec<(f64, f64)>> = lives.map(along).collect();
        let mut counted = lives.iter().map(|life| warm(life));
        let first = counted.find_map(|life| life.first().copied());
        let last = lives.last().and_then(|life| life.last());
        let values = lives.iter().flatten().map(|(_, value)| *value);
        let shown = |value: Option<f64>| value.map_or("?".to_owned(), |it| format!("{it:.1}"));
        let rise = slope(&lives).map_or("?".to_owned(), |it| format!("{it:+.2}"));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {}: {} | {} | {} | {} | {rise} {} |",
            series.panel,
            series.name,
            shown(first.map(|(_, value)| value)),
            shown(last.map(|(_, value)| *value)),
            shown(values.reduce(f64::max)),
            series.per.words(),
        );
    }
    text
}

/// All series, in the order of the panels.
pub(super) fn series(samples: &[Sample]) -> Vec<Series> {
    let mut all: Vec<Series> = Vec::new();
    let mut add = |panel: &'static str, name: &str, per: Per, life: (u64, u32), point: Point| {
        let mut known = all.iter_mut();
        if let Some(series) = known.find(|it| it.panel == panel && it.name == name) {
            series.lives.entry(life).or_default().push(point);
        } else {
            all.push(Series {
                panel,
                name: name.to_owned(),
                per,
                lives: BTreeMap::from([(life, vec![point])]),
            });
        }
    };
    for sample in samples {
        let second = sample.second;
        let (hours, thousands) = (second / 3600.0, sample.sent as f64 / 1000.0);
        let point = |along: f64, value: f64| Point {
            second,
            along,
            value,
        };
        for process in &sample.operators {
            let life = (process.started, process.pid);
            for (panel, value) in values(process) {
                add(panel, "operator", Per::Hour, life, point(hours, value));
            }
        }
        for process in &sample.workers {
            let life = (process.started, process.pid);
            let pages = process.pages.unwrap_or_default() / 1000.0;
            for (panel, value) in values(process) {
                let point = point(pages, value);
                add(panel, "worker", Per::ThousandPages, life, point);
            }
        }
        let mut whole = |panel: &'static str, name: &str, per: Per, value: f64| {
            let along = if per == Per::Hour { hours } else { thousands };
            add(panel, name, per, (0, 0), point(along, value));
        };
        if let Some(bytes) = sample.renderer {
            whole(MEMORY, "largest renderer", Per::Hour, bytes as f64 / 1e6);
        }
        for (topic, bytes) in &sample.topics {
            whole(TOPICS, topic, Per::ThousandDocuments, *bytes as f64 / 1e3);
        }
        for (name, Size { documents, bytes }) in &sample.collections {
            let per = Per::ThousandDocuments;
            whole(ENTRIES, name, per, *documents as f64);
            whole(BYTES, name, per, *bytes as f64 / 1e3);
        }
        if let Some(pages) = sample.pages {
            whole(STORED, "pages", Per::Hour, pages as f64);
        }
        let workers = sample.workers.len() as f64;
        whole(WORKERS, "running", Per::Hour, workers);
    }
    all.sort_by_key(|series| PANELS.iter().position(|panel| *panel == series.panel));
    all
}

fn values(process: &Process) -> [(&'static str, f64); 3] {
    [
        (MEMORY, process.resident as f64 / 1e6),
        (FILES, process.files as f64),
        (TASKS, process.tasks),
    ]
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An operator that is replaced after half of the time, and a worker whose memory grows with
    /// its pages.
    pub(in crate::measure::soak) fn samples() -> Vec<Sample> {
        let process = |pid, resident, pages| Process {
            pid,
            started: u64::from(pid),
            resident,
            files: 20,
            tasks: 7.0,
            pages,
        };
        let sample = |number: u32| {
            let operator = if number < 60 { 1 } else { 2 };
            let pages = 10.0 * f64::from(number);
            Sample {
                second: 30.0 * f64::from(number),
                sent: number as usize,
                operators: vec![process(operator, 90_000_000 / u64::from(operator), None)],
                workers: vec![process(3, 1_000_000 * u64::from(number), Some(pages))],
                topics: BTreeMap::from([("tasks".to_owned(), 500 * u64::from(number))]),
                ..Sample::default()
            }
        };
        (0..120).map(sample).collect()
    }

    #[test]
    fn each_series_has_its_slope_along_what_it_depends_on() {
        let table = table(&series(&samples()));
        for row in [
            "| resident memory, MB: operator | 90.0 | 45.0 | 90.0 | +0.00 an hour |",
            "| resident memory, MB: worker | 30.0 | 119.0 | 119.0 | +100.00 1,000 pages |",
            "| open files: worker | 20.0 | 20.0 | 20.0 | +0.00 1,000 pages |",
            "| logs of the topics, KB: tasks | 15.0 | 59.5 | 59.5 | +500.00 1,000 documents |",
        ] {
            assert!(table.contains(row), "{row}\n{table}");
        }
    }
}
