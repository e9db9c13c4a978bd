//! JPEG 2000 files, decoded by `hayro-jpeg2000`. Runs in the renderer.

use std::io::{Read, Seek, SeekFrom};

use hayro_jpeg2000::{DecodeSettings, DecoderContext, Image};
use image::{DynamicImage, GrayAlphaImage, GrayImage, RgbImage, RgbaImage};

use super::RenderError;
use super::source::DocumentFile;

/// Bytes that decoding takes for each sample: numbers before and after the transformation, and the
/// result.
const BYTES_PER_SAMPLE: u64 = 10;

/// Decodes the picture, if it has at most `max_pixels` pixels and fits into the memory.
pub(super) fn decode(
    mut file: DocumentFile,
    max_pixels: u64,
    memory_limit_bytes: u64,
) -> Result<DynamicImage, RenderError> {
    let damaged =
        |error: &dyn std::fmt::Display| RenderError::Damaged(format!("JPEG 2000: {error}"));
    if file.length() > memory_limit_bytes / 4 {
        return Err(RenderError::TooLarge(format!("{} bytes", file.length())));
    }
    let mut content = Vec::new();
    file.seek(SeekFrom::Start(0))
        .and_then(|_| file.read_to_end(&mut content))
        .map_err(|error| damaged(&error))?;
    let picture =
        Image::new(&content, &DecodeSettings::default()).map_err(|error| damaged(&error))?;
    let (width, height) = (picture.width(), picture.height());
    let colours = picture.color_space().num_channels();
    let has_alpha = picture.has_alpha();
    let pixels = u64::from(width) * u64::from(height);
    let samples = pixels.saturating_mul(u64::from(colours) + u64::from(has_alpha));
    if pixels == 0 {
        return Err(RenderError::Empty("the image has no pixels".to_owned()));
    }
    if pixels > max_pixels || samples.saturating_mul(BYTES_PER_SAMPLE) > memory_limit_bytes {
        return Err(RenderError::TooLarge(format!("{width} x {height} pixels")));
    }
    let mut state = DecoderContext::default();
    let decoded = picture
        .decode(&mut state)
        .map_err(|error| damaged(&error))?;
    let data = decoded.data_u8();
    let image = match (colours, has_alpha) {
        (1, false) => GrayImage::from_raw(width, height, data).map(DynamicImage::from),
        (1, true) => GrayAlphaImage::from_raw(width, height, data).map(DynamicImage::from),
        (3, false) => RgbImage::from_raw(width, height, data).map(DynamicImage::from),
        (3, true) => RgbaImage::from_raw(width, height, data).map(DynamicImage::from),
        (4, false) => RgbImage::from_raw(width, height, from_inks(&data)).map(DynamicImage::from),
        _ => {
            let what = format!("a JPEG 2000 picture with {colours} colours");
            return Err(RenderError::Unsupported(what));
        }
    };
    image.ok_or_else(|| damaged(&"it has another number of pixels than it says"))
}

/// RGB of cyan, magenta, yellow and black.
fn from_inks(inks: &[u8]) -> Vec<u8> {
    let (pixels, _) = inks.as_chunks::<4>();
    let rgb = pixels.iter().flat_map(|[cyan, magenta, yellow, black]| {
        [cyan, magenta, yellow].map(|ink| {
            let light = u32::from(255 - ink) * u32::from(255 - black);
            u8::try_from((light + 127) / 255).expect("the product of two shares is one")
        })
    });
    rgb.collect()
}
