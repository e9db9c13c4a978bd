//! How to reach a cluster: brokers and security, read from the pipeline and its Secret. The
//! password appears in no log and no `Debug` output.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use rdkafka::{ClientConfig, config::RDKafkaLogLevel};
use sha2::{Digest, Sha256};

/// A cluster and the credentials for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    /// Comma-separated `host:port`.
    pub(crate) bootstrap_servers: String,
    /// Protocol and credentials.
    pub(crate) security: Security,
}

impl Connection {
    /// Two connections with the same key may share a client. The key tells nothing of the secret.
    pub(super) fn key(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [
            Some(self.bootstrap_servers.as_str()),
            Some(self.security.protocol.as_str()),
            self.security.mechanism.as_deref(),
            self.security.username.as_deref(),
            self.security.password.as_deref(),
            self.security.ca.as_deref(),
        ] {
            // The length keeps neighbouring parts apart.
            hash.update(part.map_or(usize::MAX, str::len).to_le_bytes());
            hash.update(part.unwrap_or_default());
        }
        hash.finalize().into()
    }

    /// The settings that every client of this cluster has.
    pub(super) fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("client.id", "layra-operator")
            // The reasons of failed connections are logged at this level, whatever is shown.
            .set_log_level(RDKafkaLogLevel::Info)
            .set("security.protocol", &self.security.protocol);
        let optional = [
            ("sasl.mechanism", &self.security.mechanism),
            ("sasl.username", &self.security.username),
            ("sasl.password", &self.security.password),
            ("ssl.ca.pem", &self.security.ca),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                config.set(key, value);
            }
        }
        config
    }
}

/// Protocol and credentials, as the keys of a Secret give them.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Security {
    protocol: String,
    mechanism: Option<String>,
    username: Option<String>,
    password: Option<String>,
    ca: Option<String>,
}

impl Security {
    /// No encryption, no credentials.
    pub(crate) fn plaintext() -> Self {
        Self {
            protocol: "PLAINTEXT".to_owned(),
            mechanism: None,
            username: None,
            password: None,
            ca: None,
        }
    }

    /// Reads the keys `security.protocol`, `sasl.mechanism`, `username`, `password` and `ca.crt`.
    /// What is absent follows from what is there: a user name means SASL, a CA means TLS.
    pub(crate) fn from_secret(data: &BTreeMap<String, ByteString>) -> Result<Self, SecurityError> {
        let text = |key: &'static str| -> Result<Option<String>, SecurityError> {
            let Some(ByteString(bytes)) = data.get(key) else {
                return Ok(None);
            };
            let text = std::str::from_utf8(bytes).map_err(|_| SecurityError::NoText { key })?;
            Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
        };
        let username = text("username")?;
        let ca = text("ca.crt")?;
        let protocol = match text("security.protocol")? {
            Some(named) => named,
            None => match (username.is_some(), ca.is_some()) {
                (true, true) => "SASL_SSL",
                (true, false) => "SASL_PLAINTEXT",
                (false, true) => "SSL",
                (false, false) => "PLAINTEXT",
            }
            .to_owned(),
        };
        let sasl = match protocol.as_str() {
            "PLAINTEXT" | "SSL" => false,
            "SASL_PLAINTEXT" | "SASL_SSL" => true,
            _ => return Err(SecurityError::UnknownProtocol),
        };
        if !sasl {
            return Ok(Self {
                protocol,
                mechanism: None,
                username: None,
                password: None,
                ca,
            });
        }
        let password = text("password")?;
        if username.is_none() || password.is_none() {
            return Err(SecurityError::NoCredentials);
        }
        let mechanism = text("sasl.mechanism")?.unwrap_or_else(|| "PLAIN".to_owned());
        if !["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].contains(&mechanism.as_str()) {
            return Err(SecurityError::UnknownMechanism);
        }
        Ok(Self {
            protocol,
            mechanism: Some(mechanism),
            username,
            password,
            ca,
        })
    }
}

impl std::fmt::Debug for Security {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Security")
            .field("protocol", &self.protocol)
            .field("mechanism", &self.mechanism)
            .field("username", &self.username.as_ref().map(|_| "..."))
            .finish_non_exhaustive()
    }
}

/// A Secret that does not describe a connection; the messages name no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SecurityError {
    /// A key holds something else than text.
    #[error("its key `{key}` is not text")]
    NoText {
        /// The key.
        key: &'static str,
    },
    /// `security.protocol` is none that is supported.
    #[error("its key `security.protocol` must be PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL")]
    UnknownProtocol,
    /// `sasl.mechanism` is none that is supported.
    #[error("its key `sasl.mechanism` must be PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")]
    UnknownMechanism,
    /// SASL without a user name or password.
    #[error("SASL needs its keys `username` and `password`")]
    NoCredentials,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(entries: &[(&str, &str)]) -> BTreeMap<String, ByteString> {
        entries
            .iter()
            .map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())))
            .collect()
    }

    fn connection(entries: &[(&str, &str)]) -> Connection {
        Connection {
            bootstrap_servers: "kafka:9092".into(),
            security: Security::from_secret(&secret(entries)).unwrap(),
        }
    }

    #[test]
    fn the_protocol_follows_from_what_is_there() {
        let both = [("username", "u"), ("password", "p"), ("ca.crt", "PEM")];
        for (entries, protocol) in [
            (&both[..0], "PLAINTEXT"),
            (&both[..2], "SASL_PLAINTEXT"),
            (&both[2..], "SSL"),
            (&both[..], "SASL_SSL"),
        ] {
            assert_eq!(connection(entries).security.protocol, protocol);
        }
    }

    #[test]
    fn a_named_protocol_holds() {
        let entries = [
            ("security.protocol", "SASL_SSL"),
            ("username", "u"),
            ("password", "p\n"),
        ];
        let config = connection(&entries).client_config();
        assert_eq!(config.get("security.protocol"), Some("SASL_SSL"));
        assert_eq!(config.get("sasl.mechanism"), Some("PLAIN"));
        assert_eq!(
            config.get("sasl.password"),
            Some("p"),
            "a trailing newline is no password"
        );
    }

    #[test]
    fn unusable_secrets_are_named() {
        for (entries, error) in [
            (
                vec![("security.protocol", "TLS")],
                SecurityError::UnknownProtocol,
            ),
            (vec![("username", "u")], SecurityError::NoCredentials),
            (
                vec![
                    ("username", "u"),
                    ("password", "p"),
                    ("sasl.mechanism", "GSSAPI"),
                ],
                SecurityError::UnknownMechanism,
            ),
        ] {
            assert_eq!(Security::from_secret(&secret(&entries)), Err(error));
        }
    }

    #[test]
    fn the_password_is_not_shown() {
        let connection = connection(&[("username", "alice"), ("password", "hunter2")]);
        let shown = format!("{connection:?}");
        assert!(
            !shown.contains("hunter2") && !shown.contains("alice"),
            "{shown}"
        );
    }

    #[test]
    fn another_password_is_another_client() {
        let key = |password| connection(&[("username", "u"), ("password", password)]).key();
        assert_eq!(key("one"), key("one"));
        assert_ne!(key("one"), key("two"));
    }
}
