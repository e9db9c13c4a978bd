//! Why a Secret is refused.

/// A Secret that does not describe a connection. The messages contain keys but no values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KafkaSecurityError {
    /// No key of the Secret is for Kafka.
    #[error(
        "it has none of the keys `security.protocol`, `sasl.mechanism`, `username`, `password`, \
         `ca.crt`, `tls.crt` and `tls.key`, or all are empty. For a connection without \
         authentication and encryption, set `security.protocol` to PLAINTEXT"
    )]
    NoKeys,
    /// A key resembles one that is read, but is not read itself.
    #[error(
        "its key `{key}` resembles a connection setting but is not read: rename it to `{nearest}`, \
         or remove it"
    )]
    Misnamed {
        /// The key.
        key: String,
        /// The key that is read.
        nearest: &'static str,
    },
    /// A value is binary.
    #[error(
        "its key `{key}` is not UTF-8 text: use text, and PEM format for certificates and keys (not \
         DER or PKCS #12)"
    )]
    NotText {
        /// The key.
        key: &'static str,
    },
    /// A value contains a byte that no setting can have.
    #[error("its key `{key}` contains a NUL byte: remove it")]
    HasNul {
        /// The key.
        key: &'static str,
    },
    /// `security.protocol` is not one of Kafka's protocols.
    #[error("its key `security.protocol` must be PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL")]
    UnknownProtocol,
    /// `sasl.mechanism` is not one of Kafka's mechanisms.
    #[error("its key `sasl.mechanism` must be PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")]
    UnknownMechanism,
    /// `sasl.mechanism` is a mechanism of Kafka that is not supported.
    #[error(
        "its key `sasl.mechanism` is {mechanism}, which is not supported: use PLAIN, SCRAM-SHA-256 \
         or SCRAM-SHA-512"
    )]
    UnsupportedMechanism {
        /// The mechanism.
        mechanism: &'static str,
    },
    /// One of a pair is absent.
    #[error(
        "its key `{key}` is missing or empty, but its key `{needed_by}` requires it: add `{key}`"
    )]
    Missing {
        /// The absent key.
        key: &'static str,
        /// The key that requires it.
        needed_by: &'static str,
    },
    /// A key that the given protocol does not use.
    #[error(
        "its key `{key}` is not used with `security.protocol` {protocol}: set \
         `security.protocol` to {instead}, or remove `{key}`"
    )]
    Unused {
        /// The key.
        key: &'static str,
        /// The given protocol.
        protocol: &'static str,
        /// The protocol that would use it.
        instead: &'static str,
    },
    /// A certificate or key that is not in PEM format.
    #[error("its key `{key}` must be a {expected} in PEM format")]
    NotPem {
        /// The key.
        key: &'static str,
        /// The expected content.
        expected: &'static str,
    },
    /// The private key has a passphrase.
    #[error("its key `tls.key` is encrypted: use a private key without a passphrase")]
    EncryptedKey,
}
