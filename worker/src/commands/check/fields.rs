//! Which field of the object a failed check is about. No I/O.

use std::path::Path;

use layra_crds::{CA_FILE, SecretKind, WorkerConfig};

use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::settings::SettingsError;

/// The field that names a file that cannot be used. `secrets` is the directory of the Secrets.
pub(super) fn of_settings(error: &SettingsError, secrets: &Path) -> &'static str {
    let path = match error {
        SettingsError::Invalid { .. } => return "spec",
        SettingsError::KafkaSecret { .. } => return "source.kafka.authSecretRef",
        SettingsError::Unreadable { path, .. }
        | SettingsError::EmptySecret(path)
        | SettingsError::BinarySecret(path) => path,
    };
    let Ok(file) = path.strip_prefix(secrets) else {
        return "spec";
    };
    let mut parts = file.iter().map(|part| part.to_str().unwrap_or_default());
    let (kind, key) = (parts.next().unwrap_or_default(), parts.next());
    field(kind, key.unwrap_or_default())
}

/// The field of a file in the directory of a kind.
fn field(kind: &str, key: &str) -> &'static str {
    let is = |expected: SecretKind| kind == expected.directory();
    let [reference, authority] = if is(SecretKind::Milvus) {
        ["stores.milvus.tokenSecretRef", "stores.milvus.caSecretRef"]
    } else if is(SecretKind::Mongodb) {
        ["stores.mongodb.uriSecretRef", "stores.mongodb.caSecretRef"]
    } else if is(SecretKind::Redis) {
        ["stores.redis.uriSecretRef", "stores.redis.caSecretRef"]
    } else if is(SecretKind::ObjectStore) && key == "secretKey" {
        return "documents.objectStore.secretKeySecretRef";
    } else if is(SecretKind::ObjectStore) {
        [
            "documents.objectStore.accessKeySecretRef",
            "documents.objectStore.caSecretRef",
        ]
    } else if is(SecretKind::Kafka) {
        return "source.kafka.authSecretRef";
    } else if is(SecretKind::Model) {
        return "embedding.model.tokenSecretRef";
    } else {
        return "spec";
    };
    if key == CA_FILE { authority } else { reference }
}

/// The field that a failure of a worker's start is about.
pub(super) fn of_failure(failure: &Failure, config: &WorkerConfig) -> &'static str {
    match (failure.reason, failure.stage) {
        (Reason::InvalidKafkaConfig, _) if config.source.kafka.auth_secret_ref.is_none() => {
            "source.kafka"
        }
        (Reason::InvalidKafkaConfig, _) => "source.kafka.authSecretRef",
        (Reason::InvalidRedisUri, _) => "stores.redis.uriSecretRef",
        (Reason::BucketNotFound, _) => "documents.objectStore.bucket",
        (Reason::ObjectStoreForbidden, _) => "documents.objectStore.accessKeySecretRef",
        (_, Stage::Objects) => "documents.objectStore",
        (_, Stage::Mongodb) => "stores.mongodb.uriSecretRef",
        (Reason::MilvusTooOld, _) => "stores.milvus.vectorType",
        (Reason::MilvusForbidden, _) => "stores.milvus.tokenSecretRef",
        (_, Stage::Milvus) => "stores.milvus.uri",
        (_, Stage::Model) => "embedding.model",
        (_, Stage::Render) => "worker.image",
        _ => "spec",
    }
}

/// What is wrong and what to do.
pub(super) fn problem(failure: &Failure) -> String {
    let advice = match (failure.reason, failure.stage) {
        (Reason::InvalidKafkaConfig, _) => "Correct the keys of the Secret",
        (Reason::InvalidRedisUri | Reason::InvalidMongodbUri, _) => {
            "Correct the connection string in the Secret"
        }
        (Reason::BucketNotFound, _) => "Create the bucket, or correct its name",
        (Reason::ObjectStoreForbidden, _) => {
            "Correct the keys in the Secrets, or let their user list and write the bucket"
        }
        (Reason::MongodbForbidden, _) => {
            "Correct the user and password in the Secret, or grant the user its rights"
        }
        (Reason::MilvusForbidden, _) => "Correct the token in the Secret",
        (Reason::MilvusTooOld, _) => "Choose another vectorType, or upgrade Milvus",
        (Reason::PdfiumNotFound | Reason::RendererUnavailable, _) => {
            "Use an image of the worker that is complete"
        }
        (_, Stage::Model) => "Correct the address, or mount the volume with the files",
        _ => "Correct the field",
    };
    let message = failure.message.trim_end_matches('.');
    format!("{message} ({}). {advice}", failure.reason)
}
