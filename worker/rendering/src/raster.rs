//! Images as documents. Runs in the renderer.
//!
//! A TIFF file has a page for each of its images; of other formats the first frame is the only
//! page. An image becomes RGB on white, scaled down to an A4 page, and turned as its metadata asks.
//! The size is checked before decoding.

use std::borrow::Cow;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use image::error::{ImageError, LimitErrorKind};
use image::imageops::FilterType;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

use super::encode::Canvas;
use super::page_source::{Drawn, PageSource};
use super::source::DocumentFile;
use super::tiff_pages::TiffPages;
use super::{DocumentWarning, RenderError, Resolution, animation, geometry, jpeg2000, tiff_other};

/// Largest number of pixels of an image before scaling: a scan of A2 at 600 DPI has 139 million.
const MAX_DECODED_PIXELS: u64 = 150_000_000;

/// What decodes a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    /// The crate `image`.
    Image(ImageFormat),
    Jpeg2000,
}

/// A file of one or more images.
pub(super) struct RasterDocument {
    file: DocumentFile,
    format: Codec,
    memory_limit_bytes: u64,
    /// The images of a TIFF file with more than one.
    pages: Option<TiffPages>,
    /// Whether it is an animation of several frames.
    has_more_frames: bool,
    /// The page that was decoded last.
    decoded: Option<(u32, Picture)>,
}

/// A decoded image, before it is turned.
struct Picture {
    image: DynamicImage,
    orientation: Orientation,
}

impl RasterDocument {
    /// Opens the file. A single image is decoded at once, within the memory limit.
    pub(super) fn open(
        file: &Path,
        format: Codec,
        memory_limit_bytes: u64,
    ) -> Result<Self, RenderError> {
        let file = DocumentFile::open(file)?;
        let failure = file.failure();
        let mut document = Self {
            file,
            format,
            memory_limit_bytes,
            pages: None,
            has_more_frames: false,
            decoded: None,
        };
        document.read_start().map_err(|error| failure.or(error))?;
        Ok(document)
    }

    fn read_start(&mut self) -> Result<(), RenderError> {
        if let Codec::Image(format) = self.format {
            let mut file = BufReader::new(self.file.clone());
            self.has_more_frames = animation::has_more_frames(format, &mut file);
        }
        if self.format == Codec::Image(ImageFormat::Tiff) {
            let found = TiffPages::find(&mut BufReader::new(self.file.clone()))?;
            self.file.failure().check()?;
            // The only page need not come first: a thumbnail may.
            let only = found.as_ref().filter(|pages| pages.count() == 1);
            if let Some(start) = only.and_then(|pages| pages.start(0)) {
                self.file = self.file.starting_with(start);
            }
            self.pages = found.filter(|pages| pages.count() > 1);
        }
        if self.pages.is_none() {
            self.decoded = Some((0, self.decode(self.file.clone())?));
        }
        Ok(())
    }

    /// Decodes a page, unless it was the last one.
    fn take_page(&mut self, page: u32) -> Result<Picture, RenderError> {
        // The memory of another page must be free before this one is decoded.
        let decoded = self.decoded.take().filter(|(decoded, _)| *decoded == page);
        if let Some((_, picture)) = decoded {
            return Ok(picture);
        }
        let Some(pages) = &self.pages else {
            return self.decode(self.file.clone());
        };
        let start = pages.start(page as usize).unwrap_or_default();
        let decoded = self.decode(self.file.starting_with(start));
        decoded.map_err(|error| match error {
            RenderError::Damaged(detail) | RenderError::Empty(detail) => {
                RenderError::DamagedPage { page, detail }
            }
            other => other,
        })
    }

    fn decode(&self, file: DocumentFile) -> Result<Picture, RenderError> {
        let again = file.clone();
        let decoded = self.decode_usual(file);
        if let Err(RenderError::Unsupported(_)) = decoded
            && self.format == Codec::Image(ImageFormat::Tiff)
        {
            let other = tiff_other::decode(again, MAX_DECODED_PIXELS, self.memory_limit_bytes)?;
            if let Some((image, orientation)) = other {
                return Ok(Picture { image, orientation });
            }
        }
        decoded
    }

    fn decode_usual(&self, file: DocumentFile) -> Result<Picture, RenderError> {
        let format = match self.format {
            Codec::Image(format) => format,
            Codec::Jpeg2000 => {
                let image = jpeg2000::decode(file, MAX_DECODED_PIXELS, self.memory_limit_bytes)?;
                let orientation = Orientation::NoTransforms;
                return Ok(Picture { image, orientation });
            }
        };
        let mut reader = ImageReader::with_format(BufReader::new(file), format);
        let mut limits = Limits::default();
        limits.max_alloc = Some(self.memory_limit_bytes);
        reader.limits(limits);
        let mut decoder = reader.into_decoder().map_err(|error| cause(&error))?;
        let (width, height) = decoder.dimensions();
        if width == 0 || height == 0 {
            return Err(RenderError::Empty("the image has no pixels".to_owned()));
        }
        if u64::from(width) * u64::from(height) > MAX_DECODED_PIXELS
            || decoder.total_bytes() > self.memory_limit_bytes / 2
        {
            return Err(RenderError::TooLarge(format!("{width} x {height} pixels")));
        }
        let mut orientation = orientation(&mut decoder);
        if format == ImageFormat::Png && orientation == Orientation::NoTransforms {
            // The decoder knows the metadata before the pixels only.
            let found = exif_of_png(&mut BufReader::new(self.file.clone()));
            let found = found.and_then(|exif| Orientation::from_exif_chunk(&exif));
            orientation = found.unwrap_or(orientation);
        }
        let image = DynamicImage::from_decoder(decoder).map_err(|error| cause(&error))?;
        Ok(Picture { image, orientation })
    }
}

/// How the image must be turned. Metadata that cannot be read turns nothing.
fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    /// Some programs write the marker of JPEG before the metadata of other formats.
    const JPEG_MARKER: &[u8] = b"Exif\0\0";
    let found = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    if found != Orientation::NoTransforms {
        return found;
    }
    let metadata = decoder.exif_metadata().ok().flatten().unwrap_or_default();
    let metadata = metadata.strip_prefix(JPEG_MARKER);
    metadata
        .and_then(Orientation::from_exif_chunk)
        .unwrap_or(Orientation::NoTransforms)
}

/// The EXIF metadata of a PNG file, wherever it is.
fn exif_of_png(file: &mut (impl Read + Seek)) -> Option<Vec<u8>> {
    const SIGNATURE_BYTES: u64 = 8;
    const CHECKSUM_BYTES: i64 = 4;
    /// Orientation is in the first bytes of the metadata; the rest may be long.
    const MAX_EXIF_BYTES: u64 = 64 * 1024;
    file.seek(SeekFrom::Start(SIGNATURE_BYTES)).ok()?;
    loop {
        let (mut length, mut kind) = ([0; 4], [0; 4]);
        file.read_exact(&mut length).ok()?;
        file.read_exact(&mut kind).ok()?;
        let length = u32::from_be_bytes(length);
        if &kind == b"IEND" {
            return None;
        }
        if &kind == b"eXIf" {
            let mut exif = Vec::new();
            let wanted = u64::from(length).min(MAX_EXIF_BYTES);
            file.take(wanted).read_to_end(&mut exif).ok()?;
            return Some(exif);
        }
        file.seek(SeekFrom::Current(i64::from(length) + CHECKSUM_BYTES))
            .ok()?;
    }
}

impl PageSource for RasterDocument {
    fn pages(&self) -> u32 {
        let pages = self.pages.as_ref().map_or(1, TiffPages::count);
        u32::try_from(pages).unwrap_or(u32::MAX)
    }

    fn warnings(&self) -> Vec<DocumentWarning> {
        let warning = self
            .has_more_frames
            .then_some(DocumentWarning::FirstFrameOnly);
        warning.into_iter().collect()
    }

    fn draw(
        &mut self,
        page: u32,
        resolution: Resolution,
        canvas: &mut Canvas,
    ) -> Result<Drawn, RenderError> {
        let failure = self.file.failure();
        // The memory of the page before must be free.
        canvas.rgb = Vec::new();
        let picture = self.take_page(page).map_err(|error| failure.or(error))?;
        failure.check()?;
        let max_pixels = geometry::max_pixels(self.memory_limit_bytes);
        *canvas = picture.draw(resolution, max_pixels);
        let orientation = picture.orientation.to_exif();
        self.decoded = Some((page, picture));
        Ok(Drawn {
            orientation,
            ..Drawn::default()
        })
    }
}

impl Picture {
    fn draw(&self, resolution: Resolution, max_pixels: u64) -> Canvas {
        let (source_width, source_height) = (self.image.width(), self.image.height());
        let (width_inches, height_inches) = geometry::image_inches(source_width, source_height);
        let dpi = geometry::dpi(resolution, width_inches, height_inches);
        let (width, height) = geometry::image_size(source_width, source_height, dpi, max_pixels);
        let flat = flatten(&self.image);
        let flat = if (width, height) == (source_width, source_height) {
            flat.into_owned()
        } else {
            image::imageops::resize(flat.as_ref(), width, height, FilterType::Lanczos3)
        };
        // Turned after scaling, which takes less memory and gives the same pixels.
        let mut turned = DynamicImage::ImageRgb8(flat);
        turned.apply_orientation(self.orientation);
        let flat = turned.into_rgb8();
        Canvas {
            width: flat.width(),
            height: flat.height(),
            rgb: flat.into_raw(),
        }
    }
}

/// The image as RGB on white.
fn flatten(image: &DynamicImage) -> Cow<'_, RgbImage> {
    if let DynamicImage::ImageRgb8(image) = image {
        return Cow::Borrowed(image);
    }
    if !image.color().has_alpha() {
        return Cow::Owned(image.to_rgb8());
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
    let flat = RgbImage::from_raw(image.width(), image.height(), rgb.collect());
    Cow::Owned(flat.expect("three bytes for each pixel"))
}

/// The cause of a decoder's error. Decoders report damaged content as errors of I/O, too, of any
/// kind; whether the system failed to read the file is known to [`DocumentFile`] only.
fn cause(error: &ImageError) -> RenderError {
    match error {
        ImageError::Limits(limit) => match limit.kind() {
            LimitErrorKind::DimensionError => RenderError::TooLarge(error.to_string()),
            _ => RenderError::OutOfMemory,
        },
        ImageError::Unsupported(_) => RenderError::Unsupported(error.to_string()),
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
        let image = DynamicImage::ImageRgba8(image);
        let flat = flatten(&image);
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

    #[test]
    fn errors_of_content_are_damage_whatever_their_kind() {
        use std::io::{Error, ErrorKind};
        for kind in [
            ErrorKind::InvalidData,
            ErrorKind::InvalidInput,
            ErrorKind::Other,
            ErrorKind::UnexpectedEof,
            ErrorKind::WriteZero,
        ] {
            let error = ImageError::IoError(Error::new(kind, "strip"));
            assert_eq!(cause(&error).reason(), "Damaged", "{kind}");
        }
    }

    #[test]
    fn a_file_that_the_system_cannot_read_is_not_damaged() {
        // No address of this process is 0: reading there fails with EIO.
        for format in [ImageFormat::Tiff, ImageFormat::Png, ImageFormat::Jpeg] {
            let codec = Codec::Image(format);
            let opened = RasterDocument::open("/proc/self/mem".as_ref(), codec, 1 << 30);
            let error = opened.err().unwrap();
            assert_eq!(error.reason(), "Io", "{format:?}: {error}");
        }
    }
}
