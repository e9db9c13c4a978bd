//! Fetches the model's files to the local disk and describes them. No model is loaded here.
//!
//! `file://` is used in place. Other files are fetched into the cache once, and again if their
//! source has another version.

mod address;
mod bucket;
mod cache;
mod embedding;
mod hub;
mod known;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use layra_crds::{ModelReport, ModelStatus, WorkerConfig};
use layra_embedding::CheckpointFiles;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub(crate) use embedding::settings;

use crate::runtime::failure::{Class, Failure, Reason, Stage};
use crate::runtime::settings::Settings;
use crate::stores::objects::Objects;
use address::Address;
use bucket::Bucket;
use cache::{Cache, LocalFile, RemoteFile, Source, hexadecimal, sha256_of};
use hub::Hub;

/// Files of every checkpoint, in addition to its weights.
const CHECKPOINT: [&str; 2] = ["config.json", "tokenizer.json"];
/// Files of every adapter.
const ADAPTER: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];
const WEIGHTS: &str = "model.safetensors";
const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
/// Lists the files in the cache. It is written once they are complete.
const MANIFEST: &str = ".complete.json";

/// The kind of a directory of model files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Checkpoint,
    Adapter,
}

/// A directory of model files.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Fetched {
    uri: String,
    directory: PathBuf,
    revision: Option<String>,
    files: Vec<LocalFile>,
}

/// Fetches the model into the cache, verifies its family and describes it. [`from_cache`] then
/// finds its files.
pub(crate) async fn fetch(settings: &Settings, cache: &Path) -> Result<ModelReport, Failure> {
    let parts = fetch_parts(settings, cache).await?;
    let mut revisions = parts.iter().map(|part| part.revision.clone());
    let commits = [(); 2].map(|()| revisions.next().flatten());
    drop(revisions);
    let config = &settings.config;
    let family = embedding::family(config.embedding.model.family)?;
    let files = files_of(&parts);
    let (status, described) = tokio::task::spawn_blocking(move || {
        let described = layra_embedding::describe(family, &files);
        (checksum(&parts), described)
    })
    .await
    .map_err(|error| Failure::fatal(Stage::Model, Reason::ModelUnusable, error))?;
    let description =
        described.map_err(|error| Failure::fatal(Stage::Model, Reason::ModelUnusable, error))?;
    let mut status = status?;
    status.dimensions = description.dimensions;
    let known = &settings.known_model;
    let reference = known::reference(known, &config.embedding.model, &status, commits);
    Ok(ModelReport {
        model: status,
        reference: Some(reference),
    })
}

/// The model's files. Missing ones are fetched.
pub(crate) async fn fetch_files(
    settings: &Settings,
    cache: &Path,
) -> Result<CheckpointFiles, Failure> {
    Ok(files_of(&fetch_parts(settings, cache).await?))
}

/// The model's files that [`fetch`] put into the cache. No request is sent.
pub(crate) fn from_cache(config: &WorkerConfig, cache: &Path) -> Result<CheckpointFiles, Failure> {
    Ok(files_of(&cached_parts(config, cache)?))
}

/// The checksum over all files of the model, which must be in the cache. Reads those that are
/// mounted.
pub(crate) async fn checksum_of(config: &WorkerConfig, cache: &Path) -> Result<String, Failure> {
    let parts = cached_parts(config, cache)?;
    let status = tokio::task::spawn_blocking(move || checksum(&parts)).await;
    let status =
        status.map_err(|error| Failure::fatal(Stage::Model, Reason::ModelUnusable, error))?;
    Ok(status?.checksum)
}

fn cached_parts(config: &WorkerConfig, cache: &Path) -> Result<Vec<Fetched>, Failure> {
    let local = |(uri, part): (&str, Part)| -> Result<Fetched, Failure> {
        if let Address::Directory(directory) = Address::parse(uri)? {
            return mounted(uri, directory, part);
        }
        let manifest = cached(cache, uri).join(MANIFEST);
        let unusable = |error: &dyn std::fmt::Display| {
            let message = format!(
                "{}: {error}: run `layra-worker fetch-model` with this cache first",
                manifest.display()
            );
            Failure::fatal(Stage::Model, Reason::ModelNotFetched, message)
        };
        let text = std::fs::read(&manifest).map_err(|error| unusable(&error))?;
        let fetched: Fetched = serde_json::from_slice(&text).map_err(|error| unusable(&error))?;
        Ok(Fetched {
            directory: cached(cache, uri),
            ..fetched
        })
    };
    addresses(config).into_iter().map(local).collect()
}

/// Fails if an address is not valid, or a mounted directory is not a model's. Nothing is fetched.
pub(crate) fn check_addresses(config: &WorkerConfig) -> Result<(), Failure> {
    for (uri, part) in addresses(config) {
        if let Address::Directory(directory) = Address::parse(uri)? {
            mounted(uri, directory, part)?;
        }
    }
    Ok(())
}

async fn fetch_parts(settings: &Settings, cache: &Path) -> Result<Vec<Fetched>, Failure> {
    let mut parts = Vec::new();
    for (uri, part) in addresses(&settings.config) {
        parts.push(fetch_part(settings, cache, uri, part).await?);
    }
    Ok(parts)
}

fn addresses(config: &WorkerConfig) -> Vec<(&str, Part)> {
    let model = &config.embedding.model;
    let adapter = model.adapter_uri.as_deref();
    [(model.uri.as_str(), Part::Checkpoint)]
        .into_iter()
        .chain(adapter.map(|uri| (uri, Part::Adapter)))
        .collect()
}

fn files_of(parts: &[Fetched]) -> CheckpointFiles {
    let mut directories = parts.iter().map(|part| part.directory.clone());
    CheckpointFiles {
        directory: directories.next().unwrap_or_default(),
        adapter: directories.next(),
    }
}

async fn fetch_part(
    settings: &Settings,
    cache: &Path,
    uri: &str,
    part: Part,
) -> Result<Fetched, Failure> {
    let Settings {
        config,
        secrets,
        known_model,
    } = settings;
    let directory = cached(cache, uri);
    let fetched = match Address::parse(uri)? {
        Address::Directory(directory) => return mounted(uri, directory, part),
        Address::Bucket { bucket, prefix } => {
            let store = &config.documents.object_store;
            let objects = Objects::of_bucket(store, secrets, &bucket)?;
            let bucket = Bucket { objects, prefix };
            copy(&bucket, uri, directory, part, None).await
        }
        Address::Hub {
            repository,
            revision,
        } => {
            if config.embedding.model.token_secret_ref.is_some() && secrets.model_token.is_none() {
                let message = "the file model/token is missing: embedding.model.tokenSecretRef \
                               names its Secret and key";
                return Err(Failure::fatal(Stage::Model, Reason::SecretMissing, message));
            }
            let token = secrets.model_token.as_ref();
            let first = known::commit(known_model, &config.embedding.model, part);
            let revision = first.unwrap_or(&revision);
            let hub = Hub::resolve(&repository, revision, token)
                .await
                .map_err(|failure| known::explained(failure, first))?;
            let commit = hub.commit.clone();
            tracing::info!(
                repository,
                revision,
                commit,
                "model revision resolved on the hub"
            );
            copy(&hub, uri, directory, part, Some(commit)).await
        }
    };
    fetched.map_err(as_model_failure)
}

/// A missing object is no document's fault here: it belongs to the model.
fn as_model_failure(failure: Failure) -> Failure {
    if failure.class == Class::Permanent {
        return Failure::fatal(Stage::Model, Reason::ModelNotFound, failure.message);
    }
    failure
}

async fn copy(
    source: &impl Source,
    uri: &str,
    directory: PathBuf,
    part: Part,
    revision: Option<String>,
) -> Result<Fetched, Failure> {
    let listed = source.list().await?;
    let cache = Cache::open(directory.clone()).await?;
    let mut files = Vec::new();
    for file in settings_among(&listed) {
        files.push(cache.ensure(source, file).await?);
    }
    for name in weights(&directory, part, &|name| {
        listed.iter().any(|f| f.name == name)
    })? {
        let Some(file) = listed.iter().find(|file| file.name == name) else {
            return Err(missing(uri, &name));
        };
        files.push(cache.ensure(source, file).await?);
    }
    require(uri, part, &|name| {
        listed.iter().any(|file| file.name == name)
    })?;
    let fetched = Fetched {
        uri: uri.to_owned(),
        directory,
        revision,
        files,
    };
    let manifest = fetched.directory.join(MANIFEST);
    let text = serde_json::to_vec(&fetched).map_err(|error| unwritable(&manifest, &error))?;
    replace(&manifest, &text)
        .await
        .map_err(|error| unwritable(&manifest, &error))?;
    Ok(fetched)
}

/// Writes a file as a whole: other processes with the same cache read it at any time.
async fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let partial = path.with_extension(format!("{}.partial", uuid::Uuid::new_v4()));
    tokio::fs::write(&partial, content).await?;
    tokio::fs::rename(&partial, path).await
}

/// A local directory. The digests of its files are computed on demand.
fn mounted(uri: &str, directory: PathBuf, part: Part) -> Result<Fetched, Failure> {
    let has = |name: &str| directory.join(name).is_file();
    require(uri, part, &has)?;
    let unreadable = |error: std::io::Error| {
        let message = format!("{}: {error}", directory.display());
        Failure::fatal(Stage::Model, Reason::ModelUnusable, message)
    };
    let mut names: BTreeSet<String> = std::fs::read_dir(&directory)
        .map_err(unreadable)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| is_setting(name) && has(name))
        .collect();
    names.extend(weights(&directory, part, &has)?);
    let files = names.into_iter().map(|name| {
        let metadata = std::fs::metadata(directory.join(&name)).map_err(|_| missing(uri, &name))?;
        Ok(LocalFile {
            bytes: metadata.len(),
            name,
            version: String::new(),
            sha256: String::new(),
        })
    });
    Ok(Fetched {
        uri: uri.to_owned(),
        files: files.collect::<Result<_, Failure>>()?,
        revision: None,
        directory,
    })
}

fn settings_among(listed: &[RemoteFile]) -> impl Iterator<Item = &RemoteFile> {
    listed.iter().filter(|file| is_setting(&file.name))
}

fn is_setting(name: &str) -> bool {
    let path = Path::new(name);
    !name.starts_with('.')
        && path
            .extension()
            .is_some_and(|extension| extension == "json")
}

/// Names of the weight files. The index that lists them must be in `directory`.
fn weights(
    directory: &Path,
    part: Part,
    has: &dyn Fn(&str) -> bool,
) -> Result<Vec<String>, Failure> {
    let adapter = ADAPTER[1].to_owned();
    if part == Part::Adapter {
        return Ok(vec![adapter]);
    }
    let mut names = if has(WEIGHTS_INDEX) {
        layra_embedding::shards(directory)
            .map_err(|error| Failure::fatal(Stage::Model, Reason::ModelUnusable, error))?
    } else {
        vec![WEIGHTS.to_owned()]
    };
    if has(&adapter) {
        names.push(adapter);
    }
    Ok(names)
}

fn require(uri: &str, part: Part, has: &dyn Fn(&str) -> bool) -> Result<(), Failure> {
    let needed: &[&str] = match part {
        Part::Checkpoint => &CHECKPOINT,
        Part::Adapter => &ADAPTER,
    };
    if let Some(name) = needed.iter().find(|name| !has(name)) {
        return Err(missing(uri, name));
    }
    if part == Part::Checkpoint && !has(WEIGHTS) && !has(WEIGHTS_INDEX) {
        let message = format!("{uri} has neither {WEIGHTS} nor {WEIGHTS_INDEX}");
        return Err(Failure::fatal(Stage::Model, Reason::ModelNotFound, message));
    }
    Ok(())
}

fn missing(uri: &str, name: &str) -> Failure {
    let message = format!("{uri} has no file {name}");
    Failure::fatal(Stage::Model, Reason::ModelNotFound, message)
}

fn unwritable(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    let message = format!("{}: {error}", path.display());
    Failure::transient(Stage::Model, Reason::CacheUnwritable, message)
}

/// The cache directory of an address. Its name is a digest, so it cannot be a path.
fn cached(cache: &Path, uri: &str) -> PathBuf {
    let name = hexadecimal(&Sha256::digest(uri)[..12]);
    cache.join("models").join(name)
}

/// The checksum of all files: the digest of the sorted lines `SHA-256  PART/NAME`.
fn checksum(parts: &[Fetched]) -> Result<ModelStatus, Failure> {
    let mut lines = BTreeSet::new();
    let mut bytes = 0;
    for (part, label) in parts.iter().zip(["model", "adapter"]) {
        for file in &part.files {
            let path = part.directory.join(&file.name);
            let digest = if file.sha256.is_empty() {
                sha256_of(&path).map_err(|error| {
                    let message = format!("{}: {error}", path.display());
                    Failure::fatal(Stage::Model, Reason::ModelUnusable, message)
                })?
            } else {
                file.sha256.clone()
            };
            lines.insert(format!("{digest}  {label}/{}\n", file.name));
            bytes += file.bytes;
        }
    }
    let all: String = lines.into_iter().collect();
    let revisions: Vec<&str> = parts
        .iter()
        .filter_map(|part| part.revision.as_deref())
        .collect();
    Ok(ModelStatus {
        checksum: format!("sha256:{}", hexadecimal(&Sha256::digest(all))),
        dimensions: 0,
        bytes,
        revision: (!revisions.is_empty()).then(|| revisions.join(", adapter ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for name in files {
            std::fs::write(directory.path().join(name), "{}").unwrap();
        }
        directory
    }

    fn read(directory: &tempfile::TempDir, part: Part) -> Result<Fetched, Failure> {
        mounted("file:///m", directory.path().to_owned(), part)
    }

    #[test]
    fn an_error_names_the_missing_file() {
        let failure = read(&directory(&["config.json"]), Part::Checkpoint).unwrap_err();
        assert_eq!(failure.message, "file:///m has no file tokenizer.json");
        let failure = read(
            &directory(&["config.json", "tokenizer.json"]),
            Part::Checkpoint,
        )
        .unwrap_err();
        assert!(failure.message.contains(WEIGHTS_INDEX), "{failure}");
        let failure = read(&directory(&["adapter_config.json"]), Part::Adapter).unwrap_err();
        assert!(failure.message.contains("adapter_model"), "{failure}");
    }

    #[test]
    fn the_index_lists_the_weight_files() {
        let files = [
            "config.json",
            "tokenizer.json",
            "a.safetensors",
            "old.safetensors",
        ];
        let directory = directory(&files);
        let index = r#"{"weight_map": {"x": "a.safetensors"}}"#;
        std::fs::write(directory.path().join(WEIGHTS_INDEX), index).unwrap();
        let fetched = read(&directory, Part::Checkpoint).unwrap();
        let names: Vec<&str> = fetched
            .files
            .iter()
            .map(|file| file.name.as_str())
            .collect();
        assert_eq!(
            names,
            [
                "a.safetensors",
                "config.json",
                WEIGHTS_INDEX,
                "tokenizer.json"
            ]
        );
    }

    #[test]
    fn the_checksum_depends_on_contents_and_names_only() {
        let base = ["config.json", "tokenizer.json", WEIGHTS];
        let sum = |directory: &tempfile::TempDir| {
            let fetched = read(directory, Part::Checkpoint).unwrap();
            checksum(&[fetched]).unwrap().checksum
        };
        let (first, second) = (directory(&base), directory(&base));
        assert_eq!(sum(&first), sum(&second));
        std::fs::write(second.path().join("notes.txt"), "not part of the model").unwrap();
        assert_eq!(sum(&first), sum(&second));
        std::fs::write(second.path().join(WEIGHTS), "[]").unwrap();
        assert_ne!(sum(&first), sum(&second));
    }

    #[test]
    fn the_directory_of_an_address_is_inside_the_cache() {
        let path = cached(Path::new("/cache"), "s3://b/../../etc");
        assert_eq!(path.parent().unwrap(), Path::new("/cache/models"));
    }
}
