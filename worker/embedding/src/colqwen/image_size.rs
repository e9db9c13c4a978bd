//! Target size of an image: multiples of a visual token's side, within the limits of area. Rounding
//! half to even, as in Python, is part of the contract.

use super::error::{ColQwenError, Result};
use super::processor::ImageSettings;

/// Width and height, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
}

/// Largest supported aspect ratio.
const LARGEST_ASPECT: usize = 200;
/// Largest supported side, so that areas cannot overflow.
const LARGEST_SIDE: usize = 1 << 20;

impl Size {
    /// Area in pixels.
    #[must_use]
    pub fn pixels(self) -> usize {
        self.width * self.height
    }

    /// The size to which the reference processor resizes an image of this size.
    pub fn resized(self, settings: &ImageSettings) -> Result<Self> {
        let Self { width, height } = self;
        let refuse = |reason| {
            Err(ColQwenError::Image {
                width,
                height,
                reason,
            })
        };
        if width == 0 || height == 0 {
            return refuse("it has no pixels");
        }
        if width.max(height) > LARGEST_SIDE {
            return refuse("it is too large");
        }
        if width.max(height) > LARGEST_ASPECT * width.min(height) {
            return refuse("its aspect ratio is above 200");
        }
        let factor = settings.side();
        let area = self.pixels() as f64;
        let (min, max) = (settings.min_pixels, settings.max_pixels);
        let nearest = self.map(
            |side| (side as f64 / factor as f64).round_ties_even(),
            factor,
        );
        let size = if nearest.pixels() > max {
            let shrink = (area / max as f64).sqrt();
            self.map(
                |side| (side as f64 / shrink / factor as f64).floor().max(1.0),
                factor,
            )
        } else if nearest.pixels() < min {
            let grow = (min as f64 / area).sqrt();
            self.map(|side| (side as f64 * grow / factor as f64).ceil(), factor)
        } else {
            nearest
        };
        if size.pixels() == 0 {
            return refuse("it is too thin");
        }
        Ok(size)
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number of tokens, bounded by the largest side"
    )]
    fn map(self, tokens: impl Fn(usize) -> f64, factor: usize) -> Self {
        let side = |pixels| tokens(pixels) as usize * factor;
        Self {
            width: side(self.width),
            height: side(self.height),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(patch: usize, min_pixels: usize, max_pixels: usize) -> ImageSettings {
        ImageSettings {
            patch,
            min_pixels,
            max_pixels,
            mean: [0.5; 3],
            deviation: [0.5; 3],
        }
    }

    fn resized(width: usize, height: usize) -> (usize, usize) {
        let size = Size { width, height }
            .resized(&settings(14, 3136, 602_112))
            .unwrap();
        (size.width, size.height)
    }

    #[test]
    fn sizes_match_the_reference_processor() {
        assert_eq!(resized(1240, 1754), (644, 896));
        assert_eq!(resized(57, 44), (56, 56));
        // 42 / 28 = 1.5 and 70 / 28 = 2.5 are rounded to the nearest even number.
        assert_eq!(resized(42, 70), (56, 56));
        assert_eq!(resized(1, 1), (56, 56));
        assert_eq!(resized(10, 1500), (28, 700));
    }

    #[test]
    fn unsupported_sizes_are_refused() {
        for (width, height) in [
            (0, 10),
            (10, 0),
            (1, 201),
            (4001, 20),
            (2_000_000, 1_999_999),
        ] {
            let size = Size { width, height };
            let error = size.resized(&settings(14, 3136, 602_112)).unwrap_err();
            assert!(matches!(error, ColQwenError::Image { .. }), "{error}");
        }
    }
}
