//! What a worker reports about a configuration that it cannot work with.

use serde::{Deserialize, Serialize};

/// Kubernetes keeps this many bytes of a termination message.
const MESSAGE_BYTES: usize = 4096;
/// Bytes of a problem that are kept.
const PROBLEM_BYTES: usize = 600;

/// The termination message of the init container `fetch-model`, if the configuration cannot be used.
/// Workers of earlier versions report no such thing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// What is wrong, with the most fundamental first.
    pub failed_checks: Vec<FailedCheck>,
}

/// A check of the configuration that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedCheck {
    /// Path of the field of `spec` that must be corrected, or that names what must be.
    pub field: String,
    /// What is wrong and what to do, without a secret.
    pub problem: String,
}

impl CheckReport {
    /// The text of the termination message. What does not fit is left out.
    #[must_use]
    pub fn to_message(&self) -> String {
        let mut kept = Self::default();
        let mut message = kept.to_json();
        for FailedCheck { field, problem } in &self.failed_checks {
            let mut problem = problem.clone();
            problem.truncate(problem.floor_char_boundary(PROBLEM_BYTES));
            kept.failed_checks.push(FailedCheck {
                field: field.clone(),
                problem,
            });
            let longer = kept.to_json();
            if longer.len() > MESSAGE_BYTES {
                break;
            }
            message = longer;
        }
        message
    }

    /// Reads a termination message. `None`: it is something else.
    #[must_use]
    pub fn from_message(message: &str) -> Option<Self> {
        let report: Self = serde_json::from_str(message.trim()).ok()?;
        (!report.failed_checks.is_empty()).then_some(report)
    }

    fn to_json(&self) -> String {
        // Texts and lists: nothing here can fail to serialise.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(count: usize, problem: &str) -> CheckReport {
        let failed = FailedCheck {
            field: "stores.mongodb.uriSecretRef".to_owned(),
            problem: problem.to_owned(),
        };
        CheckReport {
            failed_checks: vec![failed; count],
        }
    }

    #[test]
    fn a_message_is_read_as_it_was_written_and_fits() {
        let one = report(1, "the server refuses the credentials");
        assert_eq!(CheckReport::from_message(&one.to_message()), Some(one));
        let message = report(50, &"ü\"".repeat(5_000)).to_message();
        assert!(message.len() <= MESSAGE_BYTES);
        let read = CheckReport::from_message(&message).unwrap();
        assert!(read.failed_checks.len() > 2);
    }

    #[test]
    fn other_messages_are_no_reports() {
        for other in [
            r#"{"checksum": "sha256:1", "bytes": 1}"#,
            r#"{"failedChecks": []}"#,
            "model: ModelNotFound: s3://models/x has no file config.json",
            "",
        ] {
            assert_eq!(CheckReport::from_message(other), None, "{other}");
        }
        let later = r#"{"failedChecks": [{"field": "a", "problem": "b", "since": 1}], "took": 2}"#;
        assert!(CheckReport::from_message(later).is_some());
    }
}
