//! The model: `MiniLM` from the pinned package, or a checkpoint of the user's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use layra_embedding::colqwen::{Config, Family};
use layra_embedding::{CheckpointFiles, DeviceChoice, Embedder, ModelFamily, Settings};
use sha2::{Digest as _, Sha256};

/// Pages of a batch of a visual model: few, so that a question does not wait long.
const BATCH_PAGES: u32 = 2;

/// A loaded model.
pub(crate) struct Model {
    /// For people: family and folder.
    pub(crate) name: String,
    pub(crate) embedder: Arc<dyn Embedder>,
}

/// What a model is, without its weights loaded.
pub(crate) struct Checkpoint {
    family: ModelFamily,
    folder: PathBuf,
    /// Changes with the model's files.
    pub(crate) fingerprint: String,
}

impl Checkpoint {
    /// Looks at the model's files.
    pub(crate) fn find(folder: &Path) -> Result<Self> {
        let folder = folder
            .canonicalize()
            .with_context(|| format!("the folder of the model, {}", folder.display()))?;
        let family = family(&folder)?;
        let mut hash = Sha256::new();
        let mut files: Vec<_> = std::fs::read_dir(&folder)?.flatten().collect();
        files.sort_by_key(std::fs::DirEntry::file_name);
        for file in files {
            let path = file.path();
            let name = file.file_name().to_string_lossy().into_owned();
            let kind = path.extension().unwrap_or_default();
            // Through links, as the Hugging Face cache has them.
            let size = std::fs::metadata(&path)?.len();
            if kind == "json" {
                hash.update(std::fs::read(&path)?);
            } else if kind == "safetensors" {
                hash.update(format!("{name} {size}"));
            }
        }
        let digest = format!("{:x}", hash.finalize());
        let fingerprint = format!("{family:?} {}", &digest[..16]);
        Ok(Self {
            family,
            folder,
            fingerprint,
        })
    }

    /// Loads the weights.
    pub(crate) fn load(&self) -> Result<Model> {
        let settings = Settings {
            family: self.family,
            device: DeviceChoice::default(),
            precision: None,
            max_visual_tokens: None,
            batch_pages: BATCH_PAGES,
            pool_factor: 1,
        };
        let files = CheckpointFiles {
            directory: self.folder.clone(),
            adapter: None,
        };
        let embedder = layra_embedding::load(&settings, &files)
            .with_context(|| format!("loading the model {}", self.folder.display()))?;
        Ok(Model {
            name: format!("{:?}", self.family),
            embedder: Arc::from(embedder),
        })
    }
}

/// The family that `config.json` names.
fn family(folder: &Path) -> Result<ModelFamily> {
    let path = folder.join("config.json");
    let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let config: serde_json::Value =
        serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
    match config.get("model_type").and_then(serde_json::Value::as_str) {
        Some("bert") => return Ok(ModelFamily::Minilm),
        None => bail!("{} names no model_type", path.display()),
        Some(_) => {}
    }
    let config = Config::read(folder).context("neither MiniLM nor a ColQwen checkpoint")?;
    Ok(match config.family {
        Family::ColQwen2 => ModelFamily::ColQwen2,
        Family::ColQwen2_5 => ModelFamily::ColQwen2_5,
        Family::ColQwen3 => ModelFamily::ColQwen3,
    })
}
