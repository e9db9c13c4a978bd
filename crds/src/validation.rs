//! What `kubectl layra validate --disruptive` and the workers of its pipeline agree on.

use serde::{Deserialize, Serialize};

/// The end of the name of the pipeline that the faults hit, of its topic and of its consumer group.
pub const VALIDATION_SUFFIX: &str = "-validate";

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
    fn the_name_of_a_fault_is_the_same_everywhere() {
        for fault in ValidationFault::ALL {
            assert_eq!(
                serde_json::to_value(fault).unwrap(),
                serde_json::json!(fault.as_str())
            );
        }
    }
}
