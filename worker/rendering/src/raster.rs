//! Images as documents of one page. Runs in the renderer.
//!
//! The first frame becomes RGB on white, scaled down to an A4 page. The size is checked before
//! decoding.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use image::error::{ImageError, LimitErrorKind};
use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::encode::Canvas;
use super::page_source::PageSource;
use super::{RenderError, Resolution, geometry};

/// Largest number of pixels of an image before scaling: a scan of A2 at 600 DPI has 139 million.
const MAX_DECODED_PIXELS: u64 = 150_000_000;

/// A decoded image.
pub(super) struct RasterDocument {
    image: DynamicImage,
    max_pixels: u64,
}

impl RasterDocument {
    /// Decodes the image within the memory limit.
    pub(super) fn open(
        file: &Path,
        format: ImageFormat,
        memory_limit_bytes: u64,
    ) -> Result<Self, RenderError> {
        let file = File::open(file).map_err(|error| RenderError::Io(error.to_string()))?;
        let mut reader = ImageReader::with_format(BufReader::new(file), format);
        let mut limits = Limits::default();
        limits.max_alloc = Some(memory_limit_bytes);
        reader.limits(limits);
        let decoder = reader.into_decoder().map_err(|error| cause(&error))?;
        let (width, height) = decoder.dimensions();
        if width == 0 || height == 0 {
            return Err(RenderError::Empty("the image has no pixels".to_owned()));
        }
        if u64::from(width) * u64::from(height) > MAX_DECODED_PIXELS
            || decoder.total_bytes() > memory_limit_bytes / 2
        {
            return Err(RenderError::TooLarge(format!("{width} x {height} pixels")));
        }
        let image = DynamicImage::from_decoder(decoder).map_err(|error| cause(&error))?;
        Ok(Self {
            image,
            max_pixels: geometry::max_pixels(memory_limit_bytes),
        })
    }
}

impl PageSource for RasterDocument {
    fn pages(&self) -> u32 {
        1
    }

    fn draw(
        &mut self,
        _page: u32,
        resolution: Resolution,
        canvas: &mut Canvas,
    ) -> Result<String, RenderError> {
        let (source_width, source_height) = (self.image.width(), self.image.height());
        let (width_inches, height_inches) = geometry::image_inches(source_width, source_height);
        let dpi = geometry::dpi(resolution, width_inches, height_inches);
        let (width, height) =
            geometry::image_size(source_width, source_height, dpi, self.max_pixels);
        let flat = flatten(&self.image);
        let flat = if (width, height) == (source_width, source_height) {
            flat
        } else {
            image::imageops::resize(&flat, width, height, FilterType::Lanczos3)
        };
        *canvas = Canvas {
            width,
            height,
            rgb: flat.into_raw(),
        };
        Ok(String::new())
    }
}

/// The image as RGB on white.
fn flatten(image: &DynamicImage) -> image::RgbImage {
    if !image.color().has_alpha() {
        return image.to_rgb8();
    }
    let image = image.to_rgba8();
    let (pixels, _) = image.as_raw().as_chunks::<4>();
    let rgb = pixels.iter().flat_map(|[red, green, blue, alpha]| {
        let over_white = |colour: u8| {
            let mixed = u32::from(colour) * u32::from(*alpha) + 255 * (255 - u32::from(*alpha));
            u8::try_from((mixed + 127) / 255).expect("the mean of two bytes is a byte")
        };
        [over_white(*red), over_white(*green), over_white(*blue)]
    });
    image::RgbImage::from_raw(image.width(), image.height(), rgb.collect())
        .expect("three bytes for each pixel")
}

fn cause(error: &ImageError) -> RenderError {
    match error {
        ImageError::Limits(limit) => match limit.kind() {
            LimitErrorKind::DimensionError => RenderError::TooLarge(error.to_string()),
            _ => RenderError::OutOfMemory,
        },
        ImageError::Unsupported(_) => RenderError::Unsupported(error.to_string()),
        ImageError::IoError(io) if io.kind() != std::io::ErrorKind::UnexpectedEof => {
            RenderError::Io(error.to_string())
        }
        _ => RenderError::Damaged(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Rgba, RgbaImage};

    #[test]
    fn transparent_pixels_become_white() {
        let mut image = RgbaImage::from_pixel(3, 1, Rgba([10, 20, 30, 255]));
        image.put_pixel(1, 0, Rgba([10, 20, 30, 0]));
        image.put_pixel(2, 0, Rgba([0, 0, 0, 128]));
        let flat = flatten(&DynamicImage::ImageRgba8(image));
        assert_eq!(
            flat.as_raw().as_slice(),
            [10, 20, 30, 255, 255, 255, 127, 127, 127]
        );
    }

    #[test]
    fn sixteen_bits_become_eight() {
        let deep = DynamicImage::ImageLuma16(image::ImageBuffer::from_pixel(
            1,
            1,
            image::Luma([0x8080_u16]),
        ));
        assert_eq!(flatten(&deep).as_raw().as_slice(), [128, 128, 128]);
    }
}
