//! The worker's configuration and its secrets, read once at the start.
//!
//! Secrets stay in [`Secret`], which shows nothing when it is printed.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use layra_crds::{KafkaSecurity, KafkaSecurityError, SecretKind, WorkerConfig, secret_text};

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
    /// A secret is binary.
    #[error("{0} is not UTF-8 text")]
    BinarySecret(PathBuf),
    /// The files of Kafka's Secret do not describe a connection.
    #[error("the Secret in {directory} cannot be used: {source}")]
    KafkaSecret {
        /// The directory with a file for each key.
        directory: PathBuf,
        /// What is wrong, with the key's name.
        source: KafkaSecurityError,
    },
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
    /// Encryption and login of the connection to Kafka.
    pub kafka: KafkaSecurity,
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
                Some(_) => kafka_security(&root.join(SecretKind::Kafka.directory()))?,
                None => KafkaSecurity::plaintext(),
            },
            access_key: required(SecretKind::ObjectStore, "accessKey")?,
            secret_key: required(SecretKind::ObjectStore, "secretKey")?,
            milvus_token: match stores.milvus.token_secret_ref {
                Some(_) => Some(required(SecretKind::Milvus, "token")?),
                None => None,
            },
            mongodb_uri: required(SecretKind::Mongodb, "uri")?,
            redis_uri: match stores.redis {
                Some(_) => Some(required(SecretKind::Redis, "uri")?),
                None => None,
            },
            model_token: match config.embedding.model.token_secret_ref {
                Some(_) => optional(root, SecretKind::Model, "token")?,
                None => None,
            },
        })
    }
}

/// Reads the Secret whose keys are the files of `directory`.
fn kafka_security(directory: &Path) -> Result<KafkaSecurity, SettingsError> {
    let keys = file_names(directory)?;
    let mut values = BTreeMap::new();
    for key in KafkaSecurity::KEYS {
        if let Some(value) = contents(&directory.join(key))? {
            values.insert(key, value);
        }
    }
    let value = |key: &'static str| values.get(key).map(Vec::as_slice);
    KafkaSecurity::from_secret(keys.iter().map(String::as_str), value).map_err(|source| {
        SettingsError::KafkaSecret {
            directory: directory.to_owned(),
            source,
        }
    })
}

/// The names in `directory`, without those that Kubernetes puts into the folder of a Secret beside
/// the keys: they begin with `..`, which no key may. There are none if there is no such folder.
fn file_names(directory: &Path) -> Result<Vec<String>, SettingsError> {
    let unreadable = |source| SettingsError::Unreadable {
        path: directory.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unreadable)?,
    };
    let mut names = entries
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(unreadable)?;
    names.retain(|name| !name.starts_with(".."));
    Ok(names)
}

fn required(root: &Path, kind: SecretKind, key: &str) -> Result<Secret, SettingsError> {
    let path = root.join(kind.directory()).join(key);
    optional(root, kind, key)?.ok_or_else(|| SettingsError::Unreadable {
        path,
        source: ErrorKind::NotFound.into(),
    })
}

fn optional(root: &Path, kind: SecretKind, key: &str) -> Result<Option<Secret>, SettingsError> {
    let path = root.join(kind.directory()).join(key);
    let Some(value) = contents(&path)? else {
        return Ok(None);
    };
    match secret_text(&value) {
        Ok(Some(text)) => Ok(Some(Secret::new(text))),
        Ok(None) => Err(SettingsError::EmptySecret(path)),
        Err(_) => Err(SettingsError::BinarySecret(path)),
    }
}

/// What a file holds; `None` if there is none.
fn contents(path: &Path) -> Result<Option<Vec<u8>>, SettingsError> {
    match std::fs::read(path) {
        Ok(contents) => Ok(Some(contents)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SettingsError::Unreadable {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "
pipeline: rag/contracts
source: {kafka: {bootstrapServers: 'kafka:9092', authSecretRef: {name: kafka}}}
documents:
  objectStore:
    endpoint: 'http://minio:9000'
    accessKeySecretRef: {name: s3}
    secretKeySecretRef: {name: s3}
embedding: {model: {family: minilm, uri: 'file:///models/minilm'}}
stores:
  milvus: {uri: 'http://milvus:19530'}
  mongodb: {uriSecretRef: {name: mongo}}
  redis: {uriSecretRef: {name: redis}}
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
            ("kafka/username", "hidden"),
            ("kafka/password", "hidden"),
        ]);
        let settings = load(&directory).unwrap();
        assert_eq!(settings.secrets.secret_key.reveal(), "hidden-secret");
        assert!(settings.secrets.milvus_token.is_none());
        assert_eq!(settings.secrets.kafka.protocol(), "SASL_PLAINTEXT");
        assert!(!format!("{settings:?}").contains("hidden"));
    }

    #[test]
    fn names_the_file_that_is_missing_or_empty() {
        let kafka = ("kafka/security.protocol", "PLAINTEXT");
        let missing = load(&directory(&[("worker.yaml", CONFIG), kafka]))
            .unwrap_err()
            .to_string();
        assert!(missing.contains("object-store/accessKey"), "{missing}");
        let empty = load(&directory(&[
            ("worker.yaml", CONFIG),
            kafka,
            ("object-store/accessKey", "\n"),
        ]));
        assert!(matches!(empty, Err(SettingsError::EmptySecret(_))));
    }

    /// The operator reads the same Secret from the API.
    #[test]
    fn kafka_is_reached_as_the_operator_reaches_it_or_not_at_all() {
        for secret in [
            &[("username", "me"), ("password", "hidden\n")][..],
            &[("username", "me"), ("password", "")],
            &[("security.protocol", "SSL"), ("username", "\n")],
            &[("security.protocol", "PLAINTEXT"), ("ca.crt", "x")],
            &[("password", "hidden")],
            &[("password", "hidden"), ("username", "me"), ("ca.pem", "x")],
            &[("user.key", "x"), ("user.crt", "x"), ("note", "x")],
            &[("password", "hid\0den"), ("username", "me")],
            &[("security.protocol", "PLAINTEXT"), ("note", "x")],
            &[],
        ] {
            let directory = tempfile::tempdir().unwrap();
            for (key, value) in secret {
                std::fs::write(directory.path().join(key), value).unwrap();
            }
            // As Kubernetes mounts it.
            std::fs::create_dir(directory.path().join("..2026_01_01")).unwrap();
            std::fs::write(directory.path().join("..data"), "").unwrap();
            let operator = KafkaSecurity::from_secret(secret.iter().map(|(key, _)| *key), |key| {
                let entry = secret.iter().find(|(name, _)| *name == key);
                entry.map(|(_, value)| value.as_bytes())
            });
            match (kafka_security(directory.path()), operator) {
                (Ok(worker), Ok(operator)) => {
                    assert_eq!(worker.settings(), operator.settings());
                }
                (Err(worker), Err(operator)) => {
                    let message = worker.to_string();
                    assert!(message.contains(&operator.to_string()), "{message}");
                    let path = directory.path().display().to_string();
                    assert!(message.contains(&path), "{message}");
                }
                (worker, operator) => panic!("{secret:?}: {worker:?}, {operator:?}"),
            }
        }
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
