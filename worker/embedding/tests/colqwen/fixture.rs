//! Checkpoints, pages and reference outputs on disk, and comparison of vectors.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use layra_embedding::colqwen::{ColQwen, DeviceChoice, Options, RgbImage};
use serde::Deserialize;

pub(crate) const FIXTURES: [&str; 3] = ["tiny-colqwen2", "tiny-colqwen2.5", "tiny-colqwen3"];
/// Largest allowed difference of a vector's values from the reference, in f32.
pub(crate) const TOLERANCE: f32 = 1e-5;

pub(crate) struct Page {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) rgb: Vec<u8>,
}

#[derive(Deserialize)]
pub(crate) struct Facts {
    pub(crate) queries: Vec<String>,
    pub(crate) dim: usize,
    pub(crate) pages: Vec<PageFacts>,
}

#[derive(Deserialize)]
pub(crate) struct PageFacts {
    pub(crate) resized_wh: (usize, usize),
    pub resized_rgb_sha256: String,
}

pub(crate) struct Fixture {
    pub(crate) directory: PathBuf,
    pub(crate) facts: Facts,
    pub(crate) pages: Vec<Page>,
    reference: HashMap<String, Tensor>,
}

impl Page {
    pub(crate) fn image(&self) -> RgbImage<'_> {
        RgbImage {
            width: self.width,
            height: self.height,
            rgb: &self.rgb,
        }
    }
}

impl Fixture {
    pub(crate) fn open(name: &str) -> Self {
        let directory = root().join(name);
        let facts = std::fs::read(directory.join("reference.json")).unwrap();
        let reference = directory.join("reference.safetensors");
        Self {
            facts: serde_json::from_slice(&facts).unwrap(),
            pages: pages(),
            reference: candle_core::safetensors::load(reference, &Device::Cpu).unwrap(),
            directory,
        }
    }

    pub(crate) fn load(&self) -> ColQwen {
        ColQwen::load(&self.directory, &options()).unwrap()
    }

    pub(crate) fn expected(&self, name: &str) -> &Tensor {
        &self.reference[name]
    }

    pub(crate) fn images(&self) -> Vec<RgbImage<'_>> {
        self.pages.iter().map(Page::image).collect()
    }
}

pub(crate) fn options() -> Options {
    Options {
        device: DeviceChoice::Cpu,
        ..Options::default()
    }
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub(crate) fn pages() -> Vec<Page> {
    (0..3)
        .map(|number| {
            let path = root().join(format!("pages/page{number}.png"));
            let image = image::open(path).unwrap().into_rgb8();
            let side = |side: u32| usize::try_from(side).unwrap();
            Page {
                width: side(image.width()),
                height: side(image.height()),
                rgb: image.into_raw(),
            }
        })
        .collect()
}

/// A copy of a checkpoint that a test may modify.
pub(crate) fn copy(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(root().join(name)).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    copy
}

/// All weights of a checkpoint's directory.
pub(crate) fn weights(directory: &Path) -> HashMap<String, Tensor> {
    (1..=2)
        .map(|shard| directory.join(format!("model-0000{shard}-of-00002.safetensors")))
        .flat_map(|path| candle_core::safetensors::load(path, &Device::Cpu).unwrap())
        .collect()
}

/// Replaces the weights in a checkpoint's directory with one file.
pub(crate) fn write_weights(directory: &Path, weights: &HashMap<String, Tensor>) {
    std::fs::remove_file(directory.join("model.safetensors.index.json")).unwrap();
    candle_core::safetensors::save(weights, directory.join("model.safetensors")).unwrap();
}

pub(crate) fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let worst = (a - b)
        .unwrap()
        .abs()
        .unwrap()
        .flatten_all()
        .unwrap()
        .max(0)
        .unwrap();
    let worst = worst.to_scalar::<f32>().unwrap();
    assert!(worst.is_finite(), "a value is no number");
    worst
}

/// Smallest cosine of corresponding rows, which have unit length.
pub(crate) fn least_cosine(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let cosines = (a * b).unwrap().sum(1).unwrap();
    cosines
        .to_dtype(DType::F32)
        .unwrap()
        .min(0)
        .unwrap()
        .to_scalar()
        .unwrap()
}

#[track_caller]
pub(crate) fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f32, what: &str) {
    let difference = largest_difference(found, expected);
    assert!(
        difference <= tolerance,
        "{what}: off by {difference:e}, more than {tolerance:e}"
    );
}
