//! What `layra-worker load` prints, line by line. `kubectl layra load` and `validate` read it from
//! the log of a Job.

use serde::{Deserialize, Serialize};

/// A line of the command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LoadLine {
    /// How far it is.
    Progress(LoadProgress),
    /// What came of it: the last line.
    Result(Box<LoadResult>),
}

impl LoadLine {
    /// Reads a line of a log. `None`: it is another one.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let is_one = line.starts_with("{\"progress\":") || line.starts_with("{\"result\":");
        is_one.then(|| serde_json::from_str(line).ok()).flatten()
    }
}

/// How far the command is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadProgress {
    /// Seconds since the first upload.
    pub seconds: f64,

    /// Documents whose tasks were sent.
    pub sent: u32,

    /// Documents of which every page is searchable.
    pub searchable: u32,

    /// Documents that failed.
    pub failed: u32,

    /// Messages of the pipeline that are not committed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,

    /// Pages each second, since a worker has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages_per_second: Option<f64>,
}

/// What the command measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadResult {
    /// The knowledge base of the documents.
    pub knowledge_base: String,

    /// Documents that were asked for.
    pub documents: u32,

    /// Pages of each.
    pub pages: u32,

    /// Documents whose tasks were sent.
    pub sent: u32,

    /// Documents of which every page is searchable.
    pub searchable: u32,

    /// Documents that failed.
    pub failed: u32,

    /// Why, for the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,

    /// Pages of searchable documents that were skipped.
    pub skipped_pages: u32,

    /// Seconds from the first task to the last.
    pub sending_seconds: f64,

    /// Seconds from the first task until a worker began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun_after_seconds: Option<f64>,

    /// Pages each second, from the beginning of the first document to the end of the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages_per_second: Option<f64>,

    /// Seconds from the task of a document until it is searchable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_searchable: Option<Spread>,

    /// The most messages of the pipeline that were not committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest_lag: Option<i64>,

    /// Whether everything that was sent until the documents were searchable was committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<bool>,

    /// Searchable documents of which a store does not hold what it should.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<Vec<String>>,

    /// Whether pages are found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recall: Option<Recall>,

    /// What the deletion has left in the stores. Absent: the documents were not deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<Vec<String>>,

    /// Objects and knowledge bases of earlier calls that were removed first.
    pub remainders: u32,

    /// The `file_id` of a document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub example: Option<String>,

    /// What could not be done, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,

    /// A signal has ended it before.
    pub stopped: bool,
}

/// Of several durations, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spread {
    /// Half of them are not longer.
    pub median: f64,

    /// 95 of 100 are not longer.
    pub p95: f64,

    /// The longest.
    pub longest: f64,
}

impl Spread {
    /// Of these durations, if there are any.
    #[must_use]
    pub fn of(mut seconds: Vec<f64>) -> Option<Self> {
        seconds.sort_by(f64::total_cmp);
        let rank = |percent: usize| {
            let rank = (seconds.len() * percent).div_ceil(100);
            seconds.get(rank.max(1) - 1).copied()
        };
        Some(Self {
            median: rank(50)?,
            p95: rank(95)?,
            longest: rank(100)?,
        })
    }
}

/// Whether pages are found by their own vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recall {
    /// Pages that were asked for.
    pub pages: u32,

    /// Those that came first.
    pub found: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_among_those_of_the_log() {
        let progress = LoadLine::Progress(LoadProgress {
            sent: 3,
            ..LoadProgress::default()
        });
        let result = LoadLine::Result(Box::new(LoadResult {
            recall: Some(Recall {
                pages: 10,
                found: 10,
            }),
            ..LoadResult::default()
        }));
        for line in [progress, result] {
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(LoadLine::parse(&text), Some(line));
        }
        for other in [
            "",
            "2026 WARN words",
            "{\"progress\": 7}",
            "{\"message\":1}",
        ] {
            assert_eq!(LoadLine::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_spread_names_durations_that_were_measured() {
        assert_eq!(Spread::of(Vec::new()), None);
        let one = Spread::of(vec![2.0]).unwrap();
        assert_eq!((one.median, one.p95, one.longest), (2.0, 2.0, 2.0));
        let many = Spread::of((1..=100).rev().map(f64::from).collect()).unwrap();
        assert_eq!((many.median, many.p95, many.longest), (50.0, 95.0, 100.0));
    }
}
