//! Why a Secret is refused.

/// A Secret that does not describe a connection. The messages name keys and no values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KafkaSecurityError {
    /// Nothing in the Secret is for Kafka.
    #[error(
        "it has none of the keys `security.protocol`, `sasl.mechanism`, `username`, `password`, \
         `ca.crt`, `tls.crt` and `tls.key`, or all are empty. For a connection without login and \
         encryption set `security.protocol` to PLAINTEXT"
    )]
    NoKeys,
    /// A key looks meant for the connection and is not read.
    #[error(
        "its key `{key}` looks meant for the connection but is not read, and the nearest key that \
         is read is `{nearest}`: give `{nearest}` instead, or remove `{key}`"
    )]
    Misnamed {
        /// The key.
        key: String,
        /// The key that is read.
        nearest: &'static str,
    },
    /// A value is binary.
    #[error(
        "its key `{key}` is not UTF-8 text: give text, certificates and keys in PEM form (not DER \
         or PKCS #12)"
    )]
    NotText {
        /// The key.
        key: &'static str,
    },
    /// A value holds a byte that no setting can have.
    #[error("its key `{key}` holds a NUL byte: give plain text without one")]
    HasNul {
        /// The key.
        key: &'static str,
    },
    /// `security.protocol` is none of Kafka's.
    #[error("its key `security.protocol` must be PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL")]
    UnknownProtocol,
    /// `sasl.mechanism` is none of Kafka's.
    #[error("its key `sasl.mechanism` must be PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")]
    UnknownMechanism,
    /// `sasl.mechanism` is one that is left out here.
    #[error(
        "its key `sasl.mechanism` asks for {mechanism}, which is not supported: use PLAIN, \
         SCRAM-SHA-256 or SCRAM-SHA-512"
    )]
    UnsupportedMechanism {
        /// The mechanism.
        mechanism: &'static str,
    },
    /// One of a pair is absent.
    #[error("its key `{key}` is absent or empty, and its key `{needed_by}` needs it: add `{key}`")]
    Missing {
        /// The absent key.
        key: &'static str,
        /// The key that makes it necessary.
        needed_by: &'static str,
    },
    /// A key that the named protocol does not use.
    #[error(
        "its key `{key}` is of no use with `security.protocol` {protocol}: set \
         `security.protocol` to {instead}, or remove `{key}`"
    )]
    Unused {
        /// The key.
        key: &'static str,
        /// The protocol that is named.
        protocol: &'static str,
        /// The protocol that would use it.
        instead: &'static str,
    },
    /// A certificate or key in another form.
    #[error("its key `{key}` must hold a {expected} in PEM form")]
    NotPem {
        /// The key.
        key: &'static str,
        /// What should be there.
        expected: &'static str,
    },
    /// The private key has a passphrase.
    #[error("its key `tls.key` is encrypted: give the private key without a passphrase")]
    EncryptedKey,
}
