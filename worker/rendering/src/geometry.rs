//! Size of page images in pixels. Pure arithmetic.
//!
//! A side of `points` becomes `ceil(points * dpi / 72)` pixels. If the page would exceed the
//! allowed number of pixels, or 16 383 on a side (WebP's limit), both sides shrink by the same
//! factor until it fits. A side has at least one pixel. A page that is more than 200 times longer
//! than wide is put on paper of that shape: no model takes a thinner one.

use super::Resolution;

/// Longest side of a page image in pixels; WebP cannot hold more.
pub(super) const MAX_SIDE: u32 = 16_383;
/// Largest number of pixels of a page image: A4 at 600 DPI has 35 million.
pub(super) const MAX_PIXELS: u64 = 40_000_000;

/// The long side of A4 in inches: the long side of an image is scaled down to this, and a scan at the
/// pipeline's resolution stays as it is.
const LONG_SIDE_INCHES: f64 = 297.0 / 25.4;

/// Largest ratio of the sides of a page image. Visual models refuse more.
const MAX_ASPECT: u32 = 200;
/// From this ratio of its sides an image is a strip.
const STRIP_ASPECT: u32 = 40;
/// The short side of a strip is not scaled below this, in pixels: on less nothing can be seen.
const LEAST_SHORT_SIDE: u32 = 28;

/// Largest number of pixels of a page image under a memory limit: the bitmap (four bytes a pixel)
/// takes at most a quarter of it.
#[must_use]
pub(super) fn max_pixels(memory_limit_bytes: u64) -> u64 {
    (memory_limit_bytes / 16).clamp(1, MAX_PIXELS)
}

/// Whether a page image can have this size in pixels.
#[must_use]
pub(super) fn is_page_size(width: u32, height: u32) -> bool {
    let side = 1..=MAX_SIDE;
    side.contains(&width)
        && side.contains(&height)
        && u64::from(width) * u64::from(height) <= MAX_PIXELS
}

/// Lowest automatic resolution: people read the stored image, too.
const MIN_AUTO_DPI: f64 = 100.0;
/// Highest automatic resolution.
const MAX_AUTO_DPI: f64 = 300.0;

/// The resolution for a page of `width` x `height` inches: the requested one, or the lowest that is
/// legible and gives the model all pixels that it can use.
#[must_use]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bounded by the highest automatic resolution"
)]
pub(super) fn dpi(resolution: Resolution, width: f64, height: f64) -> u32 {
    match resolution {
        Resolution::Dpi(dpi) => dpi,
        Resolution::Auto { pixels } => {
            let enough = (f64::from(pixels) / (width * height)).sqrt().ceil();
            if enough.is_nan() {
                // A page without an area, for a model that reads text.
                return MIN_AUTO_DPI as u32;
            }
            enough.clamp(MIN_AUTO_DPI, MAX_AUTO_DPI) as u32
        }
    }
}

/// Width and height in inches of an image as a page: its long side is that of A4.
#[must_use]
pub(super) fn image_inches(width: u32, height: u32) -> (f64, f64) {
    let (width, height) = (f64::from(width), f64::from(height));
    let scale = LONG_SIDE_INCHES / width.max(height);
    (width * scale, height * scale)
}

/// Width and height in pixels of a page of `width` x `height` points (1/72 inch) at `dpi`.
#[must_use]
pub(super) fn page_size(width: f64, height: f64, dpi: u32, max_pixels: u64) -> (u32, u32) {
    // Rounding errors of a page size in f32 must not add a pixel: 612 pt at 200 DPI are 1700.
    let side = |points: f64| {
        let pixels = (points.max(0.0) * f64::from(dpi) / 72.0 - 1e-3).ceil();
        if pixels.is_finite() {
            pixels.max(1.0)
        } else {
            1.0
        }
    };
    fit(side(width), side(height), f64::from(MAX_SIDE), max_pixels)
}

/// Width and height in pixels of an image as a page: scaled down so that its long side is that of
/// an A4 page at `dpi`, never scaled up.
#[must_use]
pub(super) fn image_size(width: u32, height: u32, dpi: u32, max_pixels: u64) -> (u32, u32) {
    let long_side = (LONG_SIDE_INCHES * f64::from(dpi))
        .round()
        .clamp(1.0, f64::from(MAX_SIDE));
    let fit = |long_side| fit(f64::from(width), f64::from(height), long_side, max_pixels);
    let (short, long) = (width.min(height), width.max(height));
    let least = short.min(LEAST_SHORT_SIDE);
    let (columns, rows) = fit(long_side);
    if columns.min(rows) >= least || long / short < STRIP_ASPECT {
        return (columns, rows);
    }
    // Longer than an A4 page, so that the short side can be seen.
    let wanted = f64::from(long) * f64::from(least) / f64::from(short);
    let (columns, rows) = fit(wanted.ceil().min(f64::from(MAX_SIDE)));
    if width < height {
        (columns.max(least), rows)
    } else {
        (columns, rows.max(least))
    }
}

/// Width and height of the paper for a page image of this size. It differs only for an image that is
/// too thin to be used as it is.
#[must_use]
pub(super) fn paper_size(width: u32, height: u32) -> (u32, u32) {
    let least = width.max(height).div_ceil(MAX_ASPECT);
    (width.max(least), height.max(least))
}

fn fit(width: f64, height: f64, max_side: f64, max_pixels: u64) -> (u32, u32) {
    let by_side = max_side / width.max(height);
    let by_area = (max_pixels as f64 / (width * height)).sqrt();
    let scale = by_side.min(by_area).min(1.0);
    let shrink = |side: f64| {
        if scale < 1.0 {
            // Rounding errors must not take a pixel.
            (side * scale + 1e-6).floor()
        } else {
            side
        }
    };
    (whole(shrink(width)), whole(shrink(height)))
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bounded by MAX_SIDE"
)]
fn whole(side: f64) -> u32 {
    side.clamp(1.0, f64::from(MAX_SIDE)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paper_sizes_have_their_usual_numbers_of_pixels() {
        assert_eq!(page_size(612.0, 792.0, 200, MAX_PIXELS), (1700, 2200));
        assert_eq!(
            page_size(f64::from(595.276_f32), 841.89, 200, MAX_PIXELS),
            (1654, 2339)
        );
        assert_eq!(page_size(595.276, 841.89, 300, MAX_PIXELS), (2481, 3508));
    }

    #[test]
    fn invalid_sizes_become_one_pixel() {
        assert_eq!(page_size(0.0, 792.0, 72, MAX_PIXELS), (1, 792));
        assert_eq!(page_size(f64::NAN, -5.0, 72, MAX_PIXELS), (1, 1));
    }

    #[test]
    fn a_page_of_two_hundred_inches_keeps_its_aspect_ratio() {
        let (width, height) = page_size(14_400.0, 7_200.0, 600, MAX_PIXELS);
        assert!(u64::from(width) * u64::from(height) <= MAX_PIXELS);
        assert!((f64::from(width) / f64::from(height) - 2.0).abs() < 0.01);
    }

    #[test]
    fn images_are_scaled_down_to_the_long_side_of_a4_and_never_up() {
        assert_eq!(image_size(4678, 100, 200, MAX_PIXELS), (2339, 50));
        assert_eq!(image_size(300, 200, 200, MAX_PIXELS), (300, 200));
        assert_eq!(image_size(1, 100_000, 200, MAX_PIXELS), (1, 2339));
    }

    #[test]
    fn scans_of_a4_at_the_resolution_of_the_pipeline_are_not_scaled() {
        for (dpi, width, height) in [
            (100, 827, 1169),
            (150, 1240, 1754),
            (200, 1654, 2339),
            (300, 2480, 3508),
            (600, 4961, 7016),
        ] {
            let size = image_size(width, height, dpi, MAX_PIXELS);
            assert_eq!(size, (width, height), "{dpi} DPI");
        }
        // The long side is exact.
        for side in 3509..20_000 {
            assert_eq!(image_size(side, side / 2, 300, MAX_PIXELS).0, 3508);
        }
    }

    #[test]
    fn strips_keep_their_short_side() {
        let image = |width, height| image_size(width, height, 200, MAX_PIXELS);
        assert_eq!(image(30_000, 2), (16_383, 2));
        assert_eq!(image(2, 20_000), (2, 16_383));
        assert_eq!(image(20_000, 100), (5600, 28));
        assert_eq!(image_size(300, 20, 10, MAX_PIXELS), (117, 7));
        assert_eq!(image(60_000, 28), (16_383, 28));
        assert_eq!(paper_size(16_383, 2), (16_383, 82));
        assert_eq!(paper_size(2, 16_383), (82, 16_383));
        assert_eq!(paper_size(1, 1), (1, 1));
        assert_eq!(paper_size(2338, 12), (2338, 12));
        // 14,400 x 18 points.
        assert_eq!(page_size(14_400.0, 18.0, 200, MAX_PIXELS), (16_383, 20));
    }

    #[test]
    fn the_automatic_resolution_suits_the_model_and_the_reader() {
        let auto = |pixels, width, height| dpi(Resolution::Auto { pixels }, width, height);
        assert_eq!(dpi(Resolution::Dpi(222), 8.27, 11.69), 222);
        // 768 tokens of 28 x 28 pixels: 79 DPI of A4 would be enough for the model.
        assert_eq!(auto(602_112, 8.27, 11.69), 100);
        assert_eq!(auto(4 * 602_112, 8.27, 11.69), 158);
        assert_eq!(auto(602_112, 4.0, 3.0), 224);
        assert_eq!(auto(602_112, 1.0, 1.0), 300);
        assert_eq!(auto(602_112, 33.1, 46.8), 100);
        assert_eq!(auto(602_112, 0.0, 11.0), 300);
        assert_eq!(auto(0, 0.0, 0.0), 100);
        let (width, height) = image_inches(1000, 500);
        assert!((width - 11.693).abs() < 1e-3 && (height - 5.846).abs() < 1e-3);
    }

    proptest! {
        #[test]
        fn every_page_fits(
            width in 0.0..1e9_f64, height in 0.0..1e9_f64, dpi in 1..=1200_u32,
            limit in 1_000_000..=MAX_PIXELS,
        ) {
            let (width, height) = page_size(width, height, dpi, limit);
            prop_assert!(is_page_size(width, height));
            prop_assert!(u64::from(width) * u64::from(height) <= limit);
            let (width, height) = paper_size(width, height);
            prop_assert!(is_page_size(width, height));
            prop_assert!(width.max(height) <= 200 * width.min(height));
        }

        #[test]
        fn every_image_fits(
            width in 1..=u32::MAX, height in 1..=u32::MAX, dpi in 1..=1200_u32,
        ) {
            let (width, height) = image_size(width, height, dpi, MAX_PIXELS);
            prop_assert!(is_page_size(width, height));
            let (width, height) = paper_size(width, height);
            prop_assert!(is_page_size(width, height));
            prop_assert!(width.max(height) <= 200 * width.min(height));
        }
    }
}
