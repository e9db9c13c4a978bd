use std::path::PathBuf;

use layra_crds::WorkerConfig;
use layra_embedding::DeviceChoice;

use super::*;

const CONFIG: &str = "
pipeline: rag/contracts
source: {kafka: {bootstrapServers: '127.0.0.1:1'}}
documents:
  objectStore:
    endpoint: 'http://127.0.0.1:1'
    accessKeySecretRef: {name: s3}
    secretKeySecretRef: {name: s3}
embedding: {model: {family: minilm, uri: 'MODEL'}}
stores:
  milvus: {uri: 'http://127.0.0.1:1'}
  mongodb: {uriSecretRef: {name: mongo}}
  redis: {uriSecretRef: {name: redis}}
";

/// A configuration with its Secrets and a model, whose servers are all away.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("model");
    let config = CONFIG.replace("MODEL", &format!("file://{}", model.display()));
    for (path, text) in [
        ("worker.yaml", config.as_str()),
        ("secrets/object-store/accessKey", "a"),
        ("secrets/object-store/secretKey", "s"),
        (
            "secrets/mongodb/uri",
            "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=200",
        ),
        ("secrets/redis/uri", "redis://127.0.0.1:1"),
        ("model/config.json", "{}"),
        ("model/tokenizer.json", "{}"),
        ("model/model.safetensors", ""),
    ] {
        let path = directory.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    directory
}

/// The fields that are wrong but for PDFium, which the machine of a test need not have.
async fn failed_fields(directory: &tempfile::TempDir) -> Vec<String> {
    let path = directory.path();
    let arguments = WorkerArgs {
        config: path.join("worker.yaml"),
        secrets: path.join("secrets"),
        cache_dir: path.join("cache"),
        device: DeviceChoice::Auto,
        model_fetched: false,
        pdfium: path.join("no-pdfium.so"),
        soffice: PathBuf::from("/nowhere"),
        page_memory_mib: 256,
    };
    let report = check(arguments).await.unwrap();
    let fields = report.failed_checks.into_iter().map(|check| check.field);
    fields.filter(|field| field != "worker.image").collect()
}

#[tokio::test]
async fn servers_that_are_away_are_no_error() {
    let fields = failed_fields(&directory()).await;
    assert_eq!(fields, Vec::<String>::new());
}

#[tokio::test]
async fn each_broken_field_is_named() {
    let directory = directory();
    let replace = |path: &str, text: &str| {
        std::fs::write(directory.path().join(path), text).unwrap();
    };
    replace("secrets/mongodb/uri", "mongo:27017");
    replace("secrets/redis/uri", "redis:6379");
    std::fs::remove_file(directory.path().join("model/config.json")).unwrap();
    let fields = failed_fields(&directory).await;
    let expected = [
        "stores.redis.uriSecretRef",
        "stores.mongodb.uriSecretRef",
        "embedding.model",
    ];
    assert_eq!(fields, expected);
}

#[tokio::test]
async fn what_cannot_be_loaded_is_named() {
    let directory = directory();
    let secrets = directory.path().join("secrets");
    std::fs::write(secrets.join("mongodb/uri"), "\n").unwrap();
    let fields = failed_fields(&directory).await;
    assert_eq!(fields, ["stores.mongodb.uriSecretRef"]);
    std::fs::remove_file(secrets.join("object-store/secretKey")).unwrap();
    let fields = failed_fields(&directory).await;
    assert_eq!(fields, ["documents.objectStore.secretKeySecretRef"]);
    std::fs::write(directory.path().join("worker.yaml"), "sauce: {}").unwrap();
    assert_eq!(failed_fields(&directory).await, ["spec"]);
}

#[test]
fn an_image_without_pdfium_is_an_error_and_a_node_without_a_sandbox_is_not() {
    let config = WorkerConfig::from_yaml(CONFIG).unwrap();
    let of = |reason| Failure::fatal(Stage::Render, reason, "x");
    let incomplete = of(Reason::PdfiumNotFound);
    assert!(is_error(&incomplete));
    assert_eq!(fields::of_failure(&incomplete, &config), "worker.image");
    assert!(!is_error(&of(Reason::SandboxUnavailable)));
    let away = Failure::transient(Stage::Mongodb, Reason::MongodbUnavailable, "x");
    assert!(!is_error(&away));
}

#[test]
fn a_failure_has_the_field_and_what_to_do() {
    let config = WorkerConfig::from_yaml(CONFIG).unwrap();
    for (stage, reason, field, advice) in [
        (
            Stage::Objects,
            Reason::ObjectStoreForbidden,
            "documents.objectStore.accessKeySecretRef",
            "keys in the Secrets",
        ),
        (
            Stage::Objects,
            Reason::BucketNotFound,
            "documents.objectStore.bucket",
            "Create the bucket",
        ),
        (
            Stage::Milvus,
            Reason::MilvusForbidden,
            "stores.milvus.tokenSecretRef",
            "token",
        ),
        (
            Stage::Mongodb,
            Reason::MongodbForbidden,
            "stores.mongodb.uriSecretRef",
            "password",
        ),
        (
            Stage::Intake,
            Reason::InvalidKafkaConfig,
            "source.kafka",
            "keys of the Secret",
        ),
    ] {
        let failure = Failure::fatal(stage, reason, "the words of the server.");
        assert_eq!(fields::of_failure(&failure, &config), field);
        let problem = fields::problem(&failure);
        assert!(problem.contains(advice), "{problem}");
        let start = format!("the words of the server ({reason}). ");
        assert!(problem.starts_with(&start), "{problem}");
    }
}

#[test]
fn the_result_names_each_field_in_a_line() {
    let failed = FailedCheck {
        field: "embedding.model".into(),
        problem: "no file".into(),
    };
    let text = |failed_checks| {
        let mut out = Vec::new();
        write(&CheckReport { failed_checks }, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    assert_eq!(text(vec![failed]), "embedding.model: no file\n");
    let good = "a worker can work with this configuration\n";
    assert_eq!(text(vec![]), good);
}
