//! An `IngestionPipeline` in a file.

use std::path::Path;

use anyhow::{Context as _, bail};
use layra_crds::IngestionPipeline;

/// Reads the object. `flag` named the file.
pub(crate) fn read(path: &Path, flag: &str) -> anyhow::Result<IngestionPipeline> {
    let file = path.display();
    let text =
        std::fs::read_to_string(path).with_context(|| format!("{flag}: {file} cannot be read"))?;
    parse(&text).with_context(|| format!("{flag}: {file}"))
}

/// Reads the object, and refuses one of another kind.
pub(crate) fn parse(text: &str) -> anyhow::Result<IngestionPipeline> {
    let kind: serde_yaml_ng::Value = serde_yaml_ng::from_str(text).context("not valid YAML")?;
    match kind.get("kind").and_then(|kind| kind.as_str()) {
        Some("IngestionPipeline") => {}
        Some(other) => bail!("kind: found {other}; expected IngestionPipeline"),
        None => bail!("kind: missing; expected an object of kind IngestionPipeline"),
    }
    serde_yaml_ng::from_str(text).context("not a valid IngestionPipeline")
}
