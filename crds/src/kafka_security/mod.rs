//! Encryption and authentication of a Kafka connection, from the Secret of
//! `source.kafka.authSecretRef`. The operator and the workers both use this module, so that either
//! both connect or both refuse. No value of the Secret appears in errors or `Debug` output.

mod error;
mod names;
mod secret;

use std::fmt;

pub use error::KafkaSecurityError;
use secret::Given;

const PROTOCOL: &str = "security.protocol";
const MECHANISM: &str = "sasl.mechanism";
const USERNAME: &str = "username";
const PASSWORD: &str = "password";
const CA: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Encryption and authentication of a Kafka connection.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaSecurity {
    tls: Option<Tls>,
    login: Option<Login>,
}

#[derive(Clone, PartialEq, Eq)]
struct Tls {
    /// PEM; absent: the system's CA certificates.
    authorities: Option<String>,
    client: Option<ClientCertificate>,
}

#[derive(Clone, PartialEq, Eq)]
struct ClientCertificate {
    /// PEM, the client's own certificate first.
    chain: String,
    /// PEM.
    key: String,
}

#[derive(Clone, PartialEq, Eq)]
struct Login {
    mechanism: Mechanism,
    username: String,
    password: String,
}

impl KafkaSecurity {
    /// The keys that are read. A Secret may have other keys, unless they resemble one of these.
    pub const KEYS: [&'static str; 7] = [
        PROTOCOL,
        MECHANISM,
        USERNAME,
        PASSWORD,
        CA,
        CERTIFICATE,
        KEY,
    ];

    /// No encryption and no authentication: a connection without a Secret.
    #[must_use]
    pub fn plaintext() -> Self {
        Self {
            tls: None,
            login: None,
        }
    }

    /// Parses a Secret: `keys` are all its keys, and `value` returns the value of one of
    /// [`Self::KEYS`].
    ///
    /// An empty value counts as absent. Trailing line breaks are removed, because files have them.
    /// The rest of a password is used as is; other values are trimmed.
    ///
    /// Without `security.protocol`, any of `username`, `password` and `sasl.mechanism` means SASL,
    /// and any of `ca.crt`, `tls.crt` and `tls.key` means TLS. The mechanism is PLAIN unless named.
    ///
    /// # Errors
    /// If the keys do not describe a connection: every key must be used, and no other key may
    /// resemble one of them.
    pub fn from_secret<'k, 'v>(
        keys: impl IntoIterator<Item = &'k str>,
        value: impl Fn(&'static str) -> Option<&'v [u8]>,
    ) -> Result<Self, KafkaSecurityError> {
        let given = Given::read(keys, value)?;
        let (has_tls, has_login) = given.protocol()?;
        Ok(Self {
            tls: has_tls.then(|| given.tls()).transpose()?,
            login: has_login.then(|| given.login()).transpose()?,
        })
    }

    /// Kafka's name for the protocol.
    #[must_use]
    pub fn protocol(&self) -> &'static str {
        protocol_name(self.tls.is_some(), self.login.is_some())
    }

    /// The settings of librdkafka, by name. They contain the secrets.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, &str)> {
        let mut settings = vec![(PROTOCOL, self.protocol())];
        if let Some(login) = &self.login {
            settings.extend([
                ("sasl.mechanism", login.mechanism.name()),
                ("sasl.username", &login.username),
                ("sasl.password", &login.password),
            ]);
        }
        if let Some(tls) = &self.tls {
            settings.push(match &tls.authorities {
                Some(authorities) => ("ssl.ca.pem", authorities),
                // The statically linked OpenSSL does not know the system's directory.
                None => ("ssl.ca.location", "probe"),
            });
            if let Some(client) = &tls.client {
                settings.extend([
                    ("ssl.certificate.pem", client.chain.as_str()),
                    ("ssl.key.pem", &client.key),
                ]);
            }
        }
        settings
    }
}

/// The message for a setting that librdkafka refused, without the setting's value, which may be a
/// secret. Some of librdkafka's descriptions repeat the value or a part of it.
#[must_use]
pub fn refused_setting(name: &str, description: &str, value: &str) -> String {
    let has_value = !value.is_empty() && description.contains(value);
    if has_value || description.starts_with("Invalid value") {
        format!("`{name}`: the Kafka client rejects the value")
    } else {
        format!("`{name}`: {description}")
    }
}

impl fmt::Debug for KafkaSecurity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSecurity")
            .field("protocol", &self.protocol())
            .field(
                "mechanism",
                &self.login.as_ref().map(|login| login.mechanism),
            )
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mechanism {
    Plain,
    ScramSha256,
    ScramSha512,
}

impl Mechanism {
    const ALL: [Self; 3] = [Self::Plain, Self::ScramSha256, Self::ScramSha512];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }

    fn from_name(name: &str) -> Result<Self, KafkaSecurityError> {
        if let Some(mechanism) = Self::ALL.into_iter().find(|it| it.name() == name) {
            return Ok(mechanism);
        }
        let unsupported = ["GSSAPI", "OAUTHBEARER"]
            .into_iter()
            .find(|it| it.eq_ignore_ascii_case(name));
        Err(match unsupported {
            Some(mechanism) => KafkaSecurityError::UnsupportedMechanism { mechanism },
            None => KafkaSecurityError::UnknownMechanism,
        })
    }
}

fn protocol_name(has_tls: bool, has_login: bool) -> &'static str {
    match (has_tls, has_login) {
        (false, false) => "PLAINTEXT",
        (true, false) => "SSL",
        (false, true) => "SASL_PLAINTEXT",
        (true, true) => "SASL_SSL",
    }
}

#[cfg(test)]
mod tests;
