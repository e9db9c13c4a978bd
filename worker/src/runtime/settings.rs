//! The worker's configuration and secrets, read once at the start.
//!
//! Secrets are held in [`Secret`], which is never printed.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use layra_crds::{
    CA_FILE, CaSecretRef, KNOWN_MODEL_FILE, KafkaSecurity, KafkaSecurityError, KnownModel,
    SecretKind, WorkerConfig, secret_text,
};

/// A text that is never printed or logged.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for a client library.
    pub(crate) fn reveal(&self) -> &str {
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
pub(crate) enum SettingsError {
    #[error("cannot read {path}: {source}")]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the configuration {path} is not valid: {source}")]
    Invalid {
        path: PathBuf,
        /// Names the field.
        source: layra_crds::ConfigError,
    },
    #[error("the secret file {0} is empty")]
    EmptySecret(PathBuf),
    #[error("the secret file {0} is not UTF-8 text")]
    BinarySecret(PathBuf),
    #[error("the Secret in {directory} cannot be used: {source}")]
    KafkaSecret {
        /// Has a file for each key.
        directory: PathBuf,
        /// Names the key.
        source: KafkaSecurityError,
    },
}

/// The configuration and secrets of a worker.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) config: WorkerConfig,
    pub(crate) secrets: Secrets,
    /// What the operator knows about the model.
    pub(crate) known_model: KnownModel,
}

/// The secrets of a worker.
#[derive(Clone, Debug)]
pub(crate) struct Secrets {
    /// Encryption and login of the connection to Kafka.
    pub(crate) kafka: KafkaSecurity,
    /// Access key of the object store.
    pub(crate) access_key: Secret,
    /// Secret key of the object store.
    pub(crate) secret_key: Secret,
    /// Milvus' token.
    pub(crate) milvus_token: Option<Secret>,
    /// MongoDB's connection string.
    pub(crate) mongodb_uri: Secret,
    /// Redis' connection string.
    pub(crate) redis_uri: Option<Secret>,
    /// The files with the authorities of the stores; `None`: those of the image.
    pub(crate) authorities: Authorities,
    /// Token for the source of the model. Only fetching the model needs it.
    pub(crate) model_token: Option<Secret>,
}

impl Settings {
    /// Reads the configuration file, and from the directory `secrets` every secret that the
    /// configuration references.
    pub(crate) fn load(config: &Path, secrets: &Path) -> Result<Self, SettingsError> {
        let known_model = known_model(&config.with_file_name(KNOWN_MODEL_FILE))?;
        let text = std::fs::read_to_string(config).map_err(|source| SettingsError::Unreadable {
            path: config.to_owned(),
            source,
        })?;
        let config = WorkerConfig::from_yaml(&text).map_err(|source| SettingsError::Invalid {
            path: config.to_owned(),
            source,
        })?;
        let secrets = Secrets::load(&config, secrets)?;
        Ok(Self {
            config,
            secrets,
            known_model,
        })
    }
}

/// Nothing is known without the file, as on a workstation.
fn known_model(path: &Path) -> Result<KnownModel, SettingsError> {
    match std::fs::read_to_string(path) {
        Ok(text) => KnownModel::from_yaml(&text).map_err(|source| SettingsError::Invalid {
            path: path.to_owned(),
            source,
        }),
        Err(source) if source.kind() == ErrorKind::NotFound => Ok(KnownModel::default()),
        Err(source) => Err(SettingsError::Unreadable {
            path: path.to_owned(),
            source,
        }),
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
            authorities: Authorities::find(config, root)?,
            model_token: match config.embedding.model.token_secret_ref {
                Some(_) => optional(root, SecretKind::Model, "token")?,
                None => None,
            },
        })
    }
}

/// Files with the certificates of private authorities, in PEM format. The clients read them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Authorities {
    pub(crate) object_store: Option<PathBuf>,
    pub(crate) milvus: Option<PathBuf>,
    pub(crate) mongodb: Option<PathBuf>,
    pub(crate) redis: Option<PathBuf>,
}

impl Authorities {
    /// The files that the configuration names. They must exist and have contents.
    fn find(config: &WorkerConfig, root: &Path) -> Result<Self, SettingsError> {
        let file = |kind: SecretKind, reference: Option<&CaSecretRef>| match reference {
            Some(_) => {
                required(root, kind, CA_FILE)?;
                Ok(Some(root.join(kind.directory()).join(CA_FILE)))
            }
            None => Ok(None),
        };
        let stores = &config.stores;
        let object_store = &config.documents.object_store;
        let redis = stores.redis.as_ref();
        Ok(Self {
            object_store: file(SecretKind::ObjectStore, object_store.ca_secret_ref.as_ref())?,
            milvus: file(SecretKind::Milvus, stores.milvus.ca_secret_ref.as_ref())?,
            mongodb: file(SecretKind::Mongodb, stores.mongodb.ca_secret_ref.as_ref())?,
            redis: file(
                SecretKind::Redis,
                redis.and_then(|redis| redis.ca_secret_ref.as_ref()),
            )?,
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

/// The names of the files in `directory`. Kubernetes' own entries in the mount of a Secret are left
/// out: they begin with `..`, which is not allowed for keys. A directory that does not exist is
/// empty.
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

/// The contents of a file. `None`: it does not exist.
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
    fn referenced_secrets_are_read_and_never_shown() {
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
    fn what_is_known_about_the_model_is_read_beside_the_configuration() {
        let files = [
            ("worker.yaml", CONFIG),
            ("object-store/accessKey", "a"),
            ("object-store/secretKey", "s"),
            ("mongodb/uri", "mongodb://mongo"),
            ("redis/uri", "redis://redis"),
            ("kafka/security.protocol", "PLAINTEXT"),
        ];
        let nothing = load(&directory(&files)).unwrap();
        assert_eq!(nothing.known_model, KnownModel::default());
        // With a field of a later version.
        let known = "{request: '1', reference: {uri: 'file:///m', checksum: 'sha256:1', new: 1}}";
        let both = [files.as_slice(), &[("known-model.yaml", known)]].concat();
        let known = load(&directory(&both)).unwrap().known_model;
        assert_eq!(known.request.as_deref(), Some("1"));
        assert_eq!(known.reference.unwrap().checksum, "sha256:1");
        let damaged = [files.as_slice(), &[("known-model.yaml", "reference: 1")]].concat();
        let error = load(&directory(&damaged)).unwrap_err().to_string();
        assert!(error.contains("known-model.yaml is not valid"), "{error}");
    }

    #[test]
    fn an_error_names_the_missing_or_empty_file() {
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
    fn worker_and_operator_agree_on_kafkas_secret() {
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
    fn an_error_names_the_wrong_field() {
        let directory = directory(&[("worker.yaml", "pipeline: x\nsource: 3\n")]);
        let error = load(&directory).unwrap_err().to_string();
        assert!(
            error.contains("source") && error.contains("worker.yaml"),
            "{error}"
        );
    }
}
