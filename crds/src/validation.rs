//! What `kubectl layra validate --disruptive` and the workers of its pipeline agree on.

use serde::{Deserialize, Serialize};

/// The end of the name of the pipeline that the faults hit.
pub const VALIDATION_SUFFIX: &str = "-validate";
/// Digits of the UID of the pipeline that is validated, after [`VALIDATION_SUFFIX`].
const UID_DIGITS: usize = 8;

/// The variable that lets a worker serve [`VALIDATION_FAULTS_PATH`].
pub const VALIDATION_FAULTS_VARIABLE: &str = "LAYRA_VALIDATION_FAULTS";

/// Below this path a worker, and the proxy in front of Milvus, are asked for a fault by its name.
pub const VALIDATION_FAULTS_PATH: &str = "/faults";

/// The port on which the proxy forwards.
pub const VALIDATION_PROXY_PORT: u16 = 19530;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValidationFault {
    /// A renderer is killed.
    KilledRenderer,
    /// A worker ends without a chance to release anything.
    KilledWorker,
    /// The disk for originals is full for some seconds.
    FullDisk,
    /// Milvus cannot be reached for some seconds.
    MilvusCutOff,
    /// A worker takes all of its container's memory.
    OutOfMemory,
}

impl ValidationFault {
    /// In the order in which they are tried. A container that has ended twice restarts later.
    pub const ALL: [Self; 5] = [
        Self::KilledRenderer,
        Self::KilledWorker,
        Self::FullDisk,
        Self::MilvusCutOff,
        Self::OutOfMemory,
    ];

    /// Its name in paths and arguments.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KilledRenderer => "killed-renderer",
            Self::KilledWorker => "killed-worker",
            Self::FullDisk => "full-disk",
            Self::MilvusCutOff => "milvus-cut-off",
            Self::OutOfMemory => "out-of-memory",
        }
    }
}

/// The end of the names of the topic and the consumer group that the faults hit. `uid` is that of the
/// pipeline that is validated: nobody else gives this name to a topic. `None`: it is no UUID.
#[must_use]
pub fn validation_suffix(uid: &str) -> Option<String> {
    let suffix = format!("{VALIDATION_SUFFIX}-{}", uid.get(..UID_DIGITS)?);
    is_of_validation(&suffix).then_some(suffix)
}

/// Whether the name of a topic or a consumer group ends as that of a validation.
#[must_use]
pub fn is_of_validation(name: &str) -> bool {
    let is_hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    name.rsplit_once('-').is_some_and(|(start, digits)| {
        start.ends_with(VALIDATION_SUFFIX)
            && digits.len() == UID_DIGITS
            && digits.bytes().all(is_hexadecimal)
    })
}

/// What came of asking for a fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultAnswer {
    /// Whether it hit something. A fault that ends the worker comes right after the answer.
    pub met: bool,

    /// What happened, or why nothing did.
    pub words: String,
}

impl FaultAnswer {
    /// The fault hit something.
    #[must_use]
    pub fn met(words: impl Into<String>) -> Self {
        let words = words.into();
        Self { met: true, words }
    }

    /// It hit nothing.
    #[must_use]
    pub fn not_met(words: impl Into<String>) -> Self {
        let words = words.into();
        Self { met: false, words }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_of_a_validation_has_digits_of_a_uid() {
        let suffix = validation_suffix("1a2b3c4d-0000-4000-8000-000000000000").unwrap();
        assert_eq!(suffix, "-validate-1a2b3c4d");
        assert!(is_of_validation(&format!("tasks{suffix}")));
        for uid in ["", "1a2b3c", "1A2B3C4D-0000", "1a2b-c4d", "größer als"] {
            assert_eq!(validation_suffix(uid), None, "{uid}");
        }
        // These may be topics of a user.
        for name in [
            "tasks",
            "tasks-validate",
            "tasks-validate-1a2b3c4",
            "tasks-validate-1a2b3c4d5",
            "tasks-validate-1a2b3c4x",
            "tasks-1a2b3c4d",
            "tasks-validate-1a2b3c4d.ranges",
            "1a2b3c4d",
        ] {
            assert!(!is_of_validation(name), "{name}");
        }
    }

    #[test]
    fn the_name_of_a_fault_is_the_same_everywhere() {
        for fault in ValidationFault::ALL {
            assert_eq!(
                serde_json::to_value(fault).unwrap(),
                serde_json::json!(fault.as_str())
            );
        }
    }
}
