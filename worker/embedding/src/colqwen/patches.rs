//! From an RGB image to the input rows of the vision tower: resizes, normalises and splits it into
//! patches in the tower's order. Host only.
//!
//! A still image has the same pixels in both frames of a temporal patch. So a row has one frame
//! (channel, y, x), and the two halves of the kernel are added when the weights are loaded.

use super::config::VisionAttention;
use super::error::{ColQwenError, Result};
use super::grid::Grid;
use super::image_size::Size;
use super::processor::ImageSettings;
use super::resize::resize;

const CHANNELS: usize = 3;

/// An image: row-major RGB, 8 bits per channel.
#[derive(Clone, Copy)]
pub struct RgbImage<'a> {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `3 * width * height` bytes.
    pub rgb: &'a [u8],
}

/// A page that is ready for the vision tower.
pub(crate) struct PreparedPage {
    /// The order of the rows.
    pub(super) grid: Grid,
    /// `grid.patches()` rows of `3 * patch * patch` values.
    pub(super) rows: Vec<f32>,
}

impl PreparedPage {
    /// Resizes `image`, normalises it and splits it into patches.
    pub(super) fn new(
        image: RgbImage<'_>,
        settings: &ImageSettings,
        attention: &VisionAttention,
    ) -> Result<Self> {
        let (resized, size) = resize_image(image, settings)?;
        let grid = Grid::new(size, settings.side(), attention);
        let rows = split(&resized, size, &grid, settings);
        Ok(Self { grid, rows })
    }
}

/// The image resized for the model, and its new size.
pub(super) fn resize_image(
    image: RgbImage<'_>,
    settings: &ImageSettings,
) -> Result<(Vec<u8>, Size)> {
    let RgbImage { width, height, rgb } = image;
    let from = Size { width, height };
    let to = from.resized(settings)?;
    if rgb.len() != from.pixels() * CHANNELS {
        let reason = "it does not have three bytes per pixel";
        return Err(ColQwenError::Image {
            width,
            height,
            reason,
        });
    }
    Ok((resize(rgb, from, to), to))
}

fn split(rgb: &[u8], size: Size, grid: &Grid, settings: &ImageSettings) -> Vec<f32> {
    let patch = settings.patch;
    let [reds, greens, blues] = [0, 1, 2].map(|channel| normalised(channel, settings));
    let plane = patch * patch;
    let mut rows = vec![0.0; grid.patches() * CHANNELS * plane];
    let targets = rows.chunks_exact_mut(CHANNELS * plane);
    for ((patch_row, patch_column), row) in grid.patch_positions().zip(targets) {
        let (red, rest) = row.split_at_mut(plane);
        let (green, blue) = rest.split_at_mut(plane);
        for y in 0..patch {
            let start = ((patch_row * patch + y) * size.width + patch_column * patch) * CHANNELS;
            let pixels = rgb[start..start + patch * CHANNELS].chunks_exact(CHANNELS);
            let line = y * patch..(y + 1) * patch;
            let red = red[line.clone()].iter_mut();
            let green = green[line.clone()].iter_mut();
            let targets = red.zip(green).zip(&mut blue[line]);
            for (pixel, ((red, green), blue)) in pixels.zip(targets) {
                *red = reds[usize::from(pixel[0])];
                *green = greens[usize::from(pixel[1])];
                *blue = blues[usize::from(pixel[2])];
            }
        }
    }
    rows
}

/// Table of normalised values of a channel. The reference scales mean and deviation to 0..=255
/// instead of the pixels to 0..=1, which affects the last bit of the result.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the reference computes in f32"
)]
fn normalised(channel: usize, settings: &ImageSettings) -> [f32; 256] {
    let scale = (1.0 / (1.0_f64 / 255.0)) as f32;
    let mean = settings.mean[channel] * scale;
    let deviation = settings.deviation[channel] * scale;
    std::array::from_fn(|value| (value as f32 - mean) / deviation)
}
