//! Settings of the checkpoint's image processor: `processor_config.json` (current) or
//! `preprocessor_config.json` (older).

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::config::{Config, MERGE};
use super::error::{ColQwenError, Result};

/// Settings for turning an image into patches.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageSettings {
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// Smallest area after resizing, in pixels.
    pub min_pixels: usize,
    /// Largest area after resizing, in pixels.
    pub max_pixels: usize,
    /// Subtracted from a channel's value in 0..=1.
    pub mean: [f32; 3],
    /// Divides the difference.
    pub deviation: [f32; 3],
}

#[derive(Deserialize)]
struct ProcessorFile {
    image_processor: RawSettings,
}

#[derive(Deserialize)]
struct RawSettings {
    patch_size: Option<usize>,
    merge_size: Option<usize>,
    temporal_patch_size: Option<usize>,
    image_mean: [f32; 3],
    image_std: [f32; 3],
    min_pixels: Option<usize>,
    max_pixels: Option<usize>,
    size: Option<RawSize>,
}

#[derive(Deserialize)]
struct RawSize {
    shortest_edge: Option<usize>,
    longest_edge: Option<usize>,
    min_pixels: Option<usize>,
    max_pixels: Option<usize>,
}

impl ImageSettings {
    /// Reads the settings of the model in `directory`.
    pub fn read(directory: &Path, model: &Config) -> Result<Self> {
        let (source, raw) = read_settings(directory)?;
        let invalid = |reason: &str| ColQwenError::config(&source, reason);
        let patch = raw.patch_size.unwrap_or(model.vision.patch);
        if patch != model.vision.patch
            || raw.merge_size.unwrap_or(MERGE) != MERGE
            || raw.temporal_patch_size.unwrap_or(2) != 2
        {
            return Err(invalid(
                "patch_size, merge_size or temporal_patch_size does not match the model",
            ));
        }
        let size = raw.size.as_ref();
        let min = raw
            .min_pixels
            .or_else(|| size.and_then(|s| s.shortest_edge.or(s.min_pixels)));
        let max = raw
            .max_pixels
            .or_else(|| size.and_then(|s| s.longest_edge.or(s.max_pixels)));
        let (Some(min_pixels), Some(max_pixels)) = (min, max) else {
            return Err(invalid("size, or min_pixels and max_pixels, must be set"));
        };
        if min_pixels == 0 || min_pixels > max_pixels {
            return Err(invalid("min_pixels must be above 0 and at most max_pixels"));
        }
        if raw.image_std.contains(&0.0) {
            return Err(invalid("image_std must not contain 0"));
        }
        let (mean, deviation) = (raw.image_mean, raw.image_std);
        Ok(Self {
            patch,
            min_pixels,
            max_pixels,
            mean,
            deviation,
        })
    }

    /// The same with at most `tokens` visual tokens per page.
    #[must_use]
    pub fn capped(mut self, tokens: usize) -> Self {
        let side = self.side();
        self.max_pixels = tokens.max(1).saturating_mul(side * side);
        self.min_pixels = self.min_pixels.min(self.max_pixels);
        self
    }

    /// Side of a visual token, in pixels.
    #[must_use]
    pub fn side(&self) -> usize {
        self.patch * MERGE
    }
}

fn read_settings(directory: &Path) -> Result<(PathBuf, RawSettings)> {
    let path = directory.join("processor_config.json");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let file: ProcessorFile = parse(&path, &text)?;
            return Ok((path, file.image_processor));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(ColQwenError::io(&path)(error)),
    }
    let path = directory.join("preprocessor_config.json");
    let text = std::fs::read_to_string(&path).map_err(ColQwenError::io(&path))?;
    let settings = parse(&path, &text)?;
    Ok((path, settings))
}

fn parse<T: for<'de> Deserialize<'de>>(path: &Path, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| ColQwenError::config(path, error.to_string()))
}
