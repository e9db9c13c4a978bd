//! Encodes pixels as an image file. Runs in the renderer, so that compression overlaps with
//! everything else in the worker.

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

use super::{ImageFormat, RenderError, geometry};

/// An image of 8-bit RGB pixels, row by row.
#[derive(Debug, Default)]
pub(super) struct Canvas {
    /// Pixels in a row.
    pub(super) width: u32,
    /// Rows.
    pub(super) height: u32,
    /// `3 * width * height` bytes.
    pub(super) rgb: Vec<u8>,
}

/// Memory for a page of more bytes than this is given back after the page.
const KEPT_BYTES: usize = 32 << 20;

/// Gives large memory back, which otherwise would look as if the renderer had grown.
pub(super) fn give_back(memory: &mut Vec<u8>) {
    if memory.capacity() > KEPT_BYTES {
        *memory = Vec::new();
    }
}

impl Canvas {
    /// Whether all pixels have the same colour.
    pub(super) fn is_uniform(&self) -> bool {
        let (pixels, _) = self.rgb.as_chunks::<3>();
        pixels
            .first()
            .is_none_or(|first| pixels.iter().all(|pixel| pixel == first))
    }

    /// Puts an image that no model takes as it is, because it is so long and thin, into the middle
    /// of white paper.
    pub(super) fn put_on_paper(&mut self) -> Result<(), RenderError> {
        let (width, height) = geometry::paper_size(self.width, self.height);
        if (width, height) == (self.width, self.height) {
            return Ok(());
        }
        let row = 3 * width as usize;
        let mut paper = Vec::new();
        paper
            .try_reserve_exact(row * height as usize)
            .map_err(|_| RenderError::OutOfMemory)?;
        paper.resize(row * height as usize, 0xff);
        let left = 3 * ((width - self.width) / 2) as usize;
        let top = ((height - self.height) / 2) as usize;
        let drawn = self.rgb.chunks_exact(3 * self.width as usize);
        for (place, pixels) in paper.chunks_exact_mut(row).skip(top).zip(drawn) {
            place[left..left + pixels.len()].copy_from_slice(pixels);
        }
        (self.width, self.height, self.rgb) = (width, height, paper);
        Ok(())
    }
}

/// Encodes an image. PNG is lossless, tuned for speed rather than size, and has one channel if the
/// image has no colour. `quality` (1 to 100) applies to WebP only.
pub(super) fn encode(
    canvas: &Canvas,
    format: ImageFormat,
    quality: u8,
) -> Result<Vec<u8>, RenderError> {
    match format {
        ImageFormat::Png => png(canvas),
        ImageFormat::WebP => webp(canvas, quality),
    }
}

/// Encodes RGB pixels as PNG. For benchmarks only: pages are encoded in the renderer's process.
pub fn encode_png(width: u32, height: u32, rgb: Vec<u8>) -> Result<Vec<u8>, RenderError> {
    png(&Canvas { width, height, rgb })
}

/// Format, width and height of an image file, as far as its first bytes tell.
pub(super) fn header(file: &[u8]) -> Option<(ImageFormat, u32, u32)> {
    if let Some(header) = file.strip_prefix(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR") {
        let (width, rest) = header.split_first_chunk()?;
        let (height, _) = rest.split_first_chunk()?;
        let (width, height) = (u32::from_be_bytes(*width), u32::from_be_bytes(*height));
        return Some((ImageFormat::Png, width, height));
    }
    // After the length of the file: a lossy image, its length, the tag and the start of its frame.
    let frame = file.strip_prefix(b"RIFF")?.get(4..)?;
    let frame = frame.strip_prefix(b"WEBPVP8 ")?.get(7..)?;
    let (width, rest) = frame.strip_prefix(b"\x9d\x01\x2a")?.split_first_chunk()?;
    let (height, _) = rest.split_first_chunk()?;
    let side = |bytes: &[u8; 2]| u32::from(u16::from_le_bytes(*bytes) & 0x3fff);
    Some((ImageFormat::WebP, side(width), side(height)))
}

fn png(canvas: &Canvas) -> Result<Vec<u8>, RenderError> {
    let grey = grey(&canvas.rgb);
    let (pixels, colour) = match &grey {
        Some(grey) => (grey.as_slice(), ExtendedColorType::L8),
        None => (canvas.rgb.as_slice(), ExtendedColorType::Rgb8),
    };
    let mut file = Vec::with_capacity(pixels.len() / 8);
    // Rows of a page mostly repeat the row above. `Up` turns them into zeros, which the fast
    // compressor handles best.
    PngEncoder::new_with_quality(&mut file, CompressionType::Fast, FilterType::Up)
        .write_image(pixels, canvas.width, canvas.height, colour)
        .map_err(|error| RenderError::TooLarge(format!("PNG: {error}")))?;
    Ok(file)
}

fn webp(canvas: &Canvas, quality: u8) -> Result<Vec<u8>, RenderError> {
    webp::Encoder::from_rgb(&canvas.rgb, canvas.width, canvas.height)
        .encode_simple(false, f32::from(quality.clamp(1, 100)))
        .map(|file| file.to_vec())
        .map_err(|error| match error {
            webp::WebPEncodingError::VP8_ENC_ERROR_OUT_OF_MEMORY
            | webp::WebPEncodingError::VP8_ENC_ERROR_BITSTREAM_OUT_OF_MEMORY => {
                RenderError::OutOfMemory
            }
            other => RenderError::TooLarge(format!("WebP: {other:?}")),
        })
}

/// The grey levels of an image; none if it has any colour.
fn grey(rgb: &[u8]) -> Option<Vec<u8>> {
    let (pixels, _) = rgb.as_chunks::<3>();
    let mut levels = Vec::with_capacity(pixels.len());
    // One decision for each block instead of each pixel, so that the loop is vectorised.
    for block in pixels.chunks(4096) {
        let difference = |[red, green, blue]: &[u8; 3]| (red ^ green) | (green ^ blue);
        if block.iter().map(difference).fold(0, |all, one| all | one) != 0 {
            return None;
        }
        levels.extend(block.iter().map(|[level, _, _]| *level));
    }
    Some(levels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image_of(pixel: impl Fn(u32, u32) -> [u8; 3]) -> Canvas {
        let (width, height) = (40, 30);
        let rgb = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        Canvas {
            width,
            height,
            rgb: rgb.flat_map(|(x, y)| pixel(x, y)).collect(),
        }
    }

    #[test]
    fn a_strip_is_put_into_the_middle_of_white_paper() {
        let mut wide = Canvas {
            width: 1000,
            height: 2,
            rgb: [10, 20, 30].repeat(2000),
        };
        assert!(wide.is_uniform());
        wide.put_on_paper().unwrap();
        assert_eq!((wide.width, wide.height), (1000, 5));
        assert!(!wide.is_uniform());
        let rows: Vec<u8> = wide.rgb.chunks_exact(3000).map(|row| row[0]).collect();
        assert_eq!(rows, [255, 10, 10, 255, 255]);
        let mut tall = Canvas {
            width: 1,
            height: 500,
            rgb: [10, 20, 30].repeat(500),
        };
        tall.put_on_paper().unwrap();
        assert_eq!((tall.width, tall.height), (3, 500));
        assert!(
            tall.rgb
                .chunks_exact(9)
                .all(|row| row == [255, 255, 255, 10, 20, 30, 255, 255, 255])
        );
        let mut page = image_of(|_, _| [0; 3]);
        page.put_on_paper().unwrap();
        assert_eq!((page.width, page.height), (40, 30));
    }

    #[test]
    fn png_is_lossless() {
        for canvas in [
            image_of(|x, y| {
                [
                    u8::try_from(x * 6).unwrap(),
                    u8::try_from(y * 8).unwrap(),
                    200,
                ]
            }),
            image_of(|x, y| [u8::try_from((x * y) % 256).unwrap(); 3]),
        ] {
            let file = encode(&canvas, ImageFormat::Png, 1).unwrap();
            let decoded = image::load_from_memory(&file).unwrap();
            assert_eq!(decoded.to_rgb8().into_raw(), canvas.rgb);
        }
    }

    #[test]
    fn a_page_without_colour_is_stored_in_one_channel() {
        let file = encode(
            &image_of(|x, _| [u8::try_from(x).unwrap(); 3]),
            ImageFormat::Png,
            1,
        );
        let decoded = image::load_from_memory(&file.unwrap()).unwrap();
        assert_eq!(decoded.color(), image::ColorType::L8);
    }

    #[test]
    fn the_header_of_an_image_tells_format_and_size() {
        for format in [ImageFormat::Png, ImageFormat::WebP] {
            let file = encode(&image_of(|_, _| [1, 2, 3]), format, 80).unwrap();
            assert_eq!(header(&file), Some((format, 40, 30)));
            for length in 0..24 {
                assert_eq!(header(&file[..length]), None, "{length}");
            }
        }
        assert_eq!(header(b"GIF89a and more than thirty further bytes"), None);
    }

    #[test]
    fn lower_webp_quality_gives_smaller_files() {
        let canvas = image_of(|x, y| {
            [
                u8::try_from(x * 37 % 251).unwrap(),
                u8::try_from(y * 91 % 241).unwrap(),
                9,
            ]
        });
        let good = encode(&canvas, ImageFormat::WebP, 95).unwrap();
        let small = encode(&canvas, ImageFormat::WebP, 5).unwrap();
        assert!(small.len() < good.len());
        let decoded = image::load_from_memory(&good).unwrap();
        assert_eq!((decoded.width(), decoded.height()), (40, 30));
    }
}
