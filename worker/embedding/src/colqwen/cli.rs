//! `layra-worker embed`: writes the vectors of page images and queries to a safetensors file, to
//! compare a checkpoint with its reference.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use clap::Args;

use super::{ColQwen, ColQwenError, DeviceChoice, Options, Result, RgbImage, pool};
use crate::Precision;

/// Pages that are decoded and embedded at a time.
const PAGES_AT_ONCE: usize = 16;

// Arguments that load a checkpoint. A doc comment would be shown as the description of the command.
#[derive(Debug, Args)]
pub(super) struct ModelArgs {
    /// Directory with config.json, tokenizer.json, the processor's settings and the weights
    #[arg(long = "model", value_name = "DIR")]
    pub(super) directory: PathBuf,

    /// Directory of a LoRA adapter in the format of `peft`, to merge into the model
    #[arg(long, value_name = "DIR")]
    pub(super) adapter: Option<PathBuf>,

    /// Device: auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    pub(super) device: DeviceChoice,

    /// Maximum number of visual tokens of a page [default: the checkpoint's setting]
    #[arg(long, value_name = "TOKENS")]
    pub(super) max_visual_tokens: Option<usize>,
}

impl ModelArgs {
    pub(super) fn load(&self, precision: Option<Precision>) -> Result<ColQwen> {
        let options = Options {
            device: self.device,
            precision,
            adapter: self.adapter.clone(),
            max_visual_tokens: self.max_visual_tokens,
            ..Options::default()
        };
        ColQwen::load(&self.directory, &options)
    }
}

/// Embed page images and queries with a ColQwen checkpoint
///
/// Writes one f32 tensor of shape tokens x width for each input: `page_0`, `page_1`, ... in the
/// order of the files, `query_0`, `query_1`, ... in the order of the queries. Rows are in the
/// order of the reference implementation (the whole prompt, image tokens row by row) and have
/// unit length, without padding.
#[derive(Debug, Args)]
pub struct EmbedArgs {
    #[command(flatten)]
    model: ModelArgs,

    /// Precision: f32, tf32, bf16, f16, q8 or q4
    #[arg(long, default_value = "f32")]
    precision: Precision,

    /// Divide the number of a page's vectors by this factor (hierarchical pooling)
    #[arg(long, value_name = "FACTOR", default_value_t = 1)]
    pool_factor: usize,

    /// The safetensors file to write
    #[arg(long, value_name = "FILE")]
    output: PathBuf,

    /// Page images: PNG, JPEG, WebP, TIFF, GIF or BMP
    #[arg(value_name = "PAGE")]
    pages: Vec<PathBuf>,

    /// Query texts to embed
    #[arg(long, value_name = "TEXT", num_args = 1..)]
    query: Vec<String>,
}

/// Runs the command. Writes one line to `report` for each input.
pub fn run(args: &EmbedArgs, report: &mut impl Write) -> Result<()> {
    let model = args.model.load(Some(args.precision))?;
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    for paths in args.pages.chunks(PAGES_AT_ONCE) {
        let decoded = paths
            .iter()
            .map(|path| decode(path))
            .collect::<Result<Vec<_>>>()?;
        let images: Vec<RgbImage<'_>> = decoded.iter().map(Decoded::image).collect();
        for page in model.embed_pages(&images)? {
            let name = format!("page_{}", tensors.len());
            tensors.push((name, pooled(page, args.pool_factor)?));
        }
    }
    for (number, query) in args.query.iter().enumerate() {
        tensors.push((format!("query_{number}"), model.embed_query(query)?));
    }
    for (name, tensor) in &tensors {
        let (tokens, width) = tensor.dims2()?;
        writeln!(report, "{name}\t{tokens} x {width}").map_err(ColQwenError::io(&args.output))?;
    }
    let tensors: HashMap<String, Tensor> = tensors.into_iter().collect();
    Ok(candle_core::safetensors::save(&tensors, &args.output)?)
}

struct Decoded {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Decoded {
    fn image(&self) -> RgbImage<'_> {
        RgbImage {
            width: self.width,
            height: self.height,
            rgb: &self.rgb,
        }
    }
}

/// Decodes an image by its content, not its name. Transparency is dropped, as in the reference.
fn decode(path: &Path) -> Result<Decoded> {
    let invalid = |error: image::ImageError| ColQwenError::Page {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let image = image::ImageReader::open(path)
        .and_then(image::ImageReader::with_guessed_format)
        .map_err(ColQwenError::io(path))?
        .decode()
        .map_err(invalid)?
        .into_rgb8();
    let (width, height) = (image.width() as usize, image.height() as usize);
    Ok(Decoded {
        width,
        height,
        rgb: image.into_raw(),
    })
}

fn pooled(page: Tensor, factor: usize) -> Result<Tensor> {
    if factor <= 1 {
        return Ok(page);
    }
    let width = page.dim(1)?;
    let vectors = pool(&page.flatten_all()?.to_vec1::<f32>()?, width, factor);
    let rows = vectors.len() / width;
    Ok(Tensor::from_vec(vectors, (rows, width), &Device::Cpu)?)
}
