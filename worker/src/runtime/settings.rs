//! The worker's configuration and its secrets, read once at the start.
//!
//! Secrets stay in [`Secret`], which shows nothing when it is printed.

use std::fmt;
use std::path::{Path, PathBuf};

use layra_crds::{SecretKind, WorkerConfig};

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for a client library.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration is not valid.
    #[error("{path}: {source}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the field's name.
        source: layra_crds::ConfigError,
    },
    /// A secret that is needed is empty.
    #[error("{0} is empty")]
    EmptySecret(PathBuf),
}

/// What a worker needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration file.
    pub config: WorkerConfig,
    /// The secrets.
    pub secrets: Secrets,
}

/// The secrets of a worker.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// Kafka's security; all absent on a plain connection.
    pub kafka: KafkaSecrets,
    /// Access key of the object store.
    pub access_key: Secret,
    /// Secret key of the object store.
    pub secret_key: Secret,
    /// Milvus' token.
    pub milvus_token: Option<Secret>,
    /// MongoDB's connection string.
    pub mongodb_uri: Secret,
    /// Redis' connection string.
    pub redis_uri: Option<Secret>,
    /// Token for the model's address. Only who fetches the model needs it.
    pub model_token: Option<Secret>,
}

/// Security of the connection to Kafka.
#[derive(Clone, Debug, Default)]
pub struct KafkaSecrets {
    /// `security.protocol`
    pub protocol: Option<Secret>,
    /// `sasl.mechanism`
    pub mechanism: Option<Secret>,
    /// SASL user name.
    pub username: Option<Secret>,
    /// SASL password.
    pub password: Option<Secret>,
    /// The brokers' certificate authority, PEM.
    pub ca: Option<Secret>,
}

impl Settings {
    /// Reads the configuration file and, from the directory `secrets`, every secret that the
    /// configuration refers to.
    pub fn load(config: &Path, secrets: &Path) -> Result<Self, SettingsError> {
        let text = std::fs::read_to_string(config).map_err(|source| SettingsError::Unreadable {
            path: config.to_owned(),
            source,
        })?;
        let config = WorkerConfig::from_yaml(&text).map_err(|source| SettingsError::Invalid {
            path: config.to_owned(),
            source,
        })?;
        let secrets = Secrets::load(&config, secrets)?;
        Ok(Self { config, secrets })
    }
}

impl Secrets {
    fn load(config: &WorkerConfig, root: &Path) -> Result<Self, SettingsError> {
        let required = |kind: SecretKind, key: &str| required(root, kind, key);
        let stores = &config.stores;
        Ok(Self {
            kafka: match config.source.kafka.auth_secret_ref {
                Some(_) => KafkaSecrets::load(root)?,
                None => KafkaSecrets::default(),
            },
            access_key: required(SecretKind::ObjectStore, "accessKey")?,
            secret_key: required(SecretKind::ObjectStore, "secretKey")?,
            milvus_token: match stores.milvus.secret_ref {
                Some(_) => Some(required(SecretKind::Milvus, "token")?),
                None => None,
            },
            mongodb_uri: required(SecretKind::Mongodb, "uri")?,
            redis_uri: match stores.redis {
                Some(_) => Some(required(SecretKind::Redis, "uri")?),
                None => None,
            },
            model_token: match config.embedding.model.secret_ref {
                Some(_) => optional(root, SecretKind::Model, "token")?,
                None => None,
            },
        })
    }
}

impl KafkaSecrets {
    fn load(root: &Path) -> Result<Self, SettingsError> {
        let read = |key: &str| optional(root, SecretKind::Kafka, key);
        Ok(Self {
            protocol: read("security.protocol")?,
            mechanism: read("sasl.mechanism")?,
            username: read("username")?,
            password: read("password")?,
            ca: read("ca.crt")?,
        })
    }
}

fn required(root: &Path, kind: SecretKind, key: &str) -> Result<Secret, SettingsError> {
    let path = root.join(kind.directory()).join(key);
    let text = std::fs::read_to_string(&path).map_err(|source| SettingsError::Unreadable {
        path: path.clone(),
        source,
    })?;
    // Files written by hand end with a line break.
    match text.trim() {
        "" => Err(SettingsError::EmptySecret(path)),
        text => Ok(Secret::new(text)),
    }
}

fn optional(root: &Path, kind: SecretKind, key: &str) -> Result<Option<Secret>, SettingsError> {
    match required(root, kind, key) {
        Ok(secret) => Ok(Some(secret)),
        Err(SettingsError::Unreadable { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "
pipeline: rag/contracts
source: {kafka: {bootstrapServers: 'kafka:9092', authSecretRef: {name: kafka}}}
documents: {objectStore: {endpoint: 'http://minio:9000', secretRef: {name: s3}}}
embedding: {model: {family: minilm, uri: 'file:///models/minilm'}}
stores:
  milvus: {uri: 'http://milvus:19530'}
  mongodb: {secretRef: {name: mongo}}
  redis: {secretRef: {name: redis}}
";

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        directory
    }

    fn load(directory: &tempfile::TempDir) -> Result<Settings, SettingsError> {
        Settings::load(&directory.path().join("worker.yaml"), directory.path())
    }

    #[test]
    fn reads_the_secrets_that_the_configuration_refers_to_and_shows_none() {
        let directory = directory(&[
            ("worker.yaml", CONFIG),
            ("object-store/accessKey", "hidden-access"),
            ("object-store/secretKey", "hidden-secret\n"),
            ("mongodb/uri", "mongodb://root:hidden@mongo"),
            ("redis/uri", "redis://:hidden@redis/1"),
            ("kafka/password", "hidden"),
        ]);
        let settings = load(&directory).unwrap();
        assert_eq!(settings.secrets.secret_key.reveal(), "hidden-secret");
        assert!(settings.secrets.milvus_token.is_none());
        assert!(settings.secrets.kafka.password.is_some());
        assert!(settings.secrets.kafka.mechanism.is_none());
        assert!(!format!("{settings:?}").contains("hidden"));
    }

    #[test]
    fn names_the_file_that_is_missing_or_empty() {
        let missing = load(&directory(&[("worker.yaml", CONFIG)]))
            .unwrap_err()
            .to_string();
        assert!(missing.contains("object-store/accessKey"), "{missing}");
        let empty = load(&directory(&[
            ("worker.yaml", CONFIG),
            ("object-store/accessKey", "\n"),
        ]));
        assert!(matches!(empty, Err(SettingsError::EmptySecret(_))));
    }

    #[test]
    fn names_the_field_that_is_wrong() {
        let directory = directory(&[("worker.yaml", "pipeline: x\nsauce: {}\n")]);
        let error = load(&directory).unwrap_err().to_string();
        assert!(
            error.contains("sauce") && error.contains("worker.yaml"),
            "{error}"
        );
    }
}
