//! Settings of the workers' Kafka clients that may be chosen. The others are fixed: see
//! `docs/kafka.md`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of the workers' Kafka clients. Acknowledgement by all in-sync replicas and idempotence
/// are no settings: a producer that waits for less loses documents when a broker fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaClientSpec {
    /// Bytes for which a broker waits before it answers a fetch, at most `fetchMaxWaitMs`. Workers
    /// need few messages ahead, so a high value only delays them. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_485_760))]
    pub fetch_min_bytes: Option<u32>,

    /// Longest wait of a broker for `fetchMinBytes`, in milliseconds. A partition that was paused
    /// and goes on waits as long. Default: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 5000))]
    pub fetch_max_wait_ms: Option<u32>,

    /// How long a message waits for others to be sent together, in milliseconds. Default: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 5000))]
    pub linger_ms: Option<u32>,

    /// Compression of the messages that workers send: page ranges, dead letters, tasks that are sent
    /// again and forwarded messages. `none`, `gzip`, `snappy`, `lz4` or `zstd`. Default: `zstd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
}

impl KafkaClientSpec {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Compression of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// None.
    None,
    /// Small, and slow to compress.
    Gzip,
    /// Fast.
    Snappy,
    /// The fastest.
    Lz4,
    /// As small as `gzip`, and faster.
    Zstd,
}

impl Compression {
    /// Its name in Kafka's settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}
