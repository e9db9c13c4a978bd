//! What `retain` announced and did, small enough for a termination message. No I/O.

use serde::{Deserialize, Serialize};

/// Kubernetes keeps this many bytes of a termination message.
const LONGEST: usize = 4_096;

/// The report of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// Collections that were looked at.
    pub(crate) checked: usize,
    /// What happened, or will.
    pub(crate) items: Vec<Item>,
    /// Items that are left out, because the report would be too long.
    #[serde(default)]
    pub(crate) more: usize,
}

/// One collection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Item {
    pub(crate) collection: String,
    pub(crate) state: ItemState,
    /// RFC 3339: when the action follows, if it is announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<String>,
    /// Why the action failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
}

/// What happened to a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum ItemState {
    /// The action failed. It is tried again in the next run.
    Failed,
    /// The action was carried out.
    Done,
    /// The action was announced in this run.
    Noticed,
    /// The action was announced before.
    Waiting,
    /// The action would be announced, or carried out: `dryRun`.
    DryRun,
}

impl Report {
    pub(super) fn add(&mut self, collection: &str, state: ItemState, at: Option<i64>) {
        let at = at.and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
        self.items.push(Item {
            collection: collection.to_owned(),
            state,
            at: at.map(|at| at.to_string()),
            message: None,
        });
    }

    pub(super) fn add_failure(&mut self, collection: &str, message: &str) {
        self.items.push(Item {
            collection: collection.to_owned(),
            state: ItemState::Failed,
            at: None,
            message: Some(message[..message.floor_char_boundary(200)].to_owned()),
        });
    }

    /// Whether no action failed.
    pub(crate) fn is_success(&self) -> bool {
        self.items
            .iter()
            .all(|item| item.state != ItemState::Failed)
    }

    /// The report as JSON of at most 4096 bytes, the most important items first.
    pub(crate) fn to_message(&self) -> serde_json::Result<Vec<u8>> {
        let mut short = self.clone();
        short.items.sort_by_key(|item| item.state);
        loop {
            let message = serde_json::to_vec(&short)?;
            if message.len() <= LONGEST || short.items.pop().is_none() {
                return Ok(message);
            }
            short.more += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_about_very_many_collections_fits_and_keeps_what_matters() {
        let mut report = Report::default();
        for index in 0..500 {
            report.add(&format!("colqwen{index:0>60}"), ItemState::Waiting, Some(0));
        }
        report.add_failure("colqwenu_kb", &"ä".repeat(300));
        let message = report.to_message().unwrap();
        assert!(message.len() <= LONGEST);
        let read: Report = serde_json::from_slice(&message).unwrap();
        assert_eq!(read.items[0].state, ItemState::Failed);
        assert_eq!(read.items.len() + read.more, 501);
        assert!(!report.is_success());
        let at = read.items[1].at.as_deref();
        assert_eq!(at, Some("1970-01-01T00:00:00Z"));
    }

    #[test]
    fn the_operator_reads_this() {
        let mut report = Report {
            checked: 3,
            ..Report::default()
        };
        report.add("colqwenb", ItemState::Noticed, Some(1_796_119_200_000));
        report.add_failure("colqwena", "Milvus is away");
        let expected = concat!(
            r#"{"checked":3,"items":["#,
            r#"{"collection":"colqwena","state":"Failed","message":"Milvus is away"},"#,
            r#"{"collection":"colqwenb","state":"Noticed","at":"2026-12-01T10:00:00Z"}],"more":0}"#,
        );
        assert_eq!(report.to_message().unwrap(), expected.as_bytes());
    }
}
