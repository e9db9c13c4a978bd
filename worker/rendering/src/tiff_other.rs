//! Images in TIFF files that the decoder of the crate `image` does not read: palettes, and fax of
//! group 3. Runs in the renderer.

use std::io::{Cursor, Read, Seek, SeekFrom};

use hayro_ccitt::{DecodeSettings, DecoderContext, EncodingMode};
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, RgbImage};
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::Tag;

use super::RenderError;
use super::source::DocumentFile;

/// Values of the tag `Compression`: fax with one-dimensional codes, and group 3.
const MODIFIED_HUFFMAN: u32 = 2;
const GROUP_3: u32 = 3;
/// The tag of group 3's options, and its bit for two-dimensional codes.
const T4_OPTIONS: u16 = 292;
const TWO_DIMENSIONAL: u32 = 1;
/// Values of the tag `PhotometricInterpretation`.
const BLACK_IS_ZERO: u16 = 1;
const PALETTE: u16 = 3;

type Tags = Decoder<Cursor<Vec<u8>>>;

/// Decodes the first image, if it is of one of these kinds. `None`: it is of another kind, or cannot
/// be understood.
pub(super) fn decode(
    mut file: DocumentFile,
    max_pixels: u64,
    memory_limit_bytes: u64,
) -> Result<Option<(DynamicImage, Orientation)>, RenderError> {
    if file.length() > memory_limit_bytes / 8 {
        return Ok(None);
    }
    let mut content = Vec::new();
    let read = file.seek(SeekFrom::Start(0));
    if read.and_then(|_| file.read_to_end(&mut content)).is_err() {
        return Ok(None);
    }
    // With a palette, the numbers of colours are decoded as if they were levels of grey.
    let has_palette = replace_palette(&mut content);
    let Ok(tags) = Decoder::new(Cursor::new(content)) else {
        return Ok(None);
    };
    let mut limits = Limits::default();
    limits.decoding_buffer_size = usize::try_from(memory_limit_bytes / 4).unwrap_or(usize::MAX);
    let mut tags = tags.with_limits(limits);
    let Ok((width, height)) = tags.dimensions() else {
        return Ok(None);
    };
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 {
        return Ok(None);
    }
    if pixels > max_pixels || 8 * pixels > memory_limit_bytes {
        return Err(RenderError::TooLarge(format!("{width} x {height} pixels")));
    }
    let image = if has_palette {
        coloured(&mut tags, width, height).map(DynamicImage::from)
    } else {
        fax(&mut tags, width, height).map(DynamicImage::from)
    };
    let orientation = number(&mut tags, Tag::Orientation).and_then(|tag| u8::try_from(tag).ok());
    let orientation = orientation.and_then(Orientation::from_exif);
    Ok(image.map(|image| (image, orientation.unwrap_or(Orientation::NoTransforms))))
}

fn number(tags: &mut Tags, tag: Tag) -> Option<u32> {
    tags.find_tag_unsigned::<u32>(tag).ok().flatten()
}

/// Turns an image with a palette into one with levels of grey, in a file without 64-bit offsets.
/// Returns whether it had one.
fn replace_palette(content: &mut [u8]) -> bool {
    const ENTRY_BYTES: usize = 12;
    let little_endian = content.starts_with(b"II\x2a\0");
    if !little_endian && !content.starts_with(b"MM\0\x2a") {
        return false;
    }
    let short = |content: &[u8], at: usize| -> Option<u16> {
        let bytes = content.get(at..)?.first_chunk().copied()?;
        Some(if little_endian {
            u16::from_le_bytes(bytes)
        } else {
            u16::from_be_bytes(bytes)
        })
    };
    let Some(bytes) = content
        .get(4..)
        .and_then(|rest| rest.first_chunk().copied())
    else {
        return false;
    };
    let directory = if little_endian {
        u32::from_le_bytes(bytes)
    } else {
        u32::from_be_bytes(bytes)
    } as usize;
    let count = short(content, directory).unwrap_or(0);
    for index in 0..usize::from(count) {
        let entry = directory.saturating_add(2 + ENTRY_BYTES * index);
        let value = entry.saturating_add(8);
        if short(content, entry) == Some(Tag::PhotometricInterpretation.to_u16())
            && short(content, value) == Some(PALETTE)
        {
            let grey = if little_endian {
                BLACK_IS_ZERO.to_le_bytes()
            } else {
                BLACK_IS_ZERO.to_be_bytes()
            };
            content[value..value + 2].copy_from_slice(&grey);
            return true;
        }
    }
    false
}

/// The image in the colours of its palette.
fn coloured(tags: &mut Tags, width: u32, height: u32) -> Option<RgbImage> {
    let bits = number(tags, Tag::BitsPerSample)?;
    if !matches!(bits, 1 | 2 | 4 | 8) {
        return None;
    }
    let map = tags.get_tag_u16_vec(Tag::ColorMap).ok()?;
    let colours = 1_usize << bits;
    if map.len() < 3 * colours {
        return None;
    }
    // Some programs write levels up to 255 instead of 65,535.
    let is_short = map.iter().all(|level| *level < 256);
    let level = |place: usize| {
        let level = if is_short {
            map[place]
        } else {
            map[place] >> 8
        };
        u8::try_from(level).unwrap_or(u8::MAX)
    };
    let palette: Vec<[u8; 3]> = (0..colours)
        .map(|colour| [colour, colours + colour, 2 * colours + colour].map(level))
        .collect();
    let DecodingResult::U8(packed) = tags.read_image().ok()? else {
        return None;
    };
    let row_bytes = (width as usize * bits as usize).div_ceil(8);
    if packed.len() < row_bytes * height as usize {
        return None;
    }
    Some(RgbImage::from_fn(width, height, |x, y| {
        let bit = x as usize * bits as usize;
        let byte = packed[y as usize * row_bytes + bit / 8];
        let shift = 8 - bits as usize - bit % 8;
        image::Rgb(palette[usize::from(byte >> shift) & (colours - 1)])
    }))
}

/// A fax of group 3, or with its one-dimensional codes.
fn fax(tags: &mut Tags, width: u32, height: u32) -> Option<GrayImage> {
    let compression = number(tags, Tag::Compression)?;
    if compression != GROUP_3 && compression != MODIFIED_HUFFMAN {
        return None;
    }
    let options = number(tags, Tag::Unknown(T4_OPTIONS)).unwrap_or(0);
    let bits_are_reversed = number(tags, Tag::FillOrder) == Some(2);
    let zero_is_black = number(tags, Tag::PhotometricInterpretation)? == u32::from(BLACK_IS_ZERO);
    let rows_of_strip = number(tags, Tag::RowsPerStrip)
        .unwrap_or(height)
        .clamp(1, height);
    let offsets = tags.get_tag_u64_vec(Tag::StripOffsets).ok()?;
    let lengths = tags.get_tag_u64_vec(Tag::StripByteCounts).ok()?;
    let mut rows = Rows {
        width: width as usize,
        levels: Vec::new(),
        // Codes for black are zeros in one of both, and mean the other colour there.
        white: if zero_is_black { 0 } else { 255 },
        most: 0,
    };
    for (offset, length) in offsets.into_iter().zip(lengths) {
        let decoded = rows.levels.len() / rows.width;
        let left = height - u32::try_from(decoded).ok()?.min(height);
        let count = left.min(rows_of_strip);
        let file = tags.inner();
        let content = file.get_ref();
        let start = usize::try_from(offset).ok()?;
        let end = start
            .saturating_add(usize::try_from(length).ok()?)
            .min(content.len());
        let mut strip = content.get(start..end)?.to_vec();
        if bits_are_reversed {
            for byte in &mut strip {
                *byte = byte.reverse_bits();
            }
        }
        let mut state = DecoderContext::new(DecodeSettings {
            columns: width,
            rows: count,
            end_of_block: compression == GROUP_3,
            end_of_line: compression == GROUP_3,
            rows_are_byte_aligned: compression == MODIFIED_HUFFMAN,
            encoding: if compression == GROUP_3 && options & TWO_DIMENSIONAL != 0 {
                EncodingMode::Group3_2D
            } else {
                EncodingMode::Group3_1D
            },
            strict: false,
        });
        rows.most = (decoded + count as usize) * rows.width;
        // What was decoded before damage is kept, as fax machines do.
        let _ = hayro_ccitt::decode(&strip, &mut rows, &mut state);
        if rows.levels.is_empty() {
            return None;
        }
        rows.levels.resize(rows.most, rows.white);
    }
    rows.levels.resize(rows.width * height as usize, rows.white);
    GrayImage::from_raw(width, height, rows.levels)
}

/// Rows of a fax, as levels of grey.
struct Rows {
    width: usize,
    levels: Vec<u8>,
    /// The level of what the codes call white.
    white: u8,
    /// Levels that the present strip may reach.
    most: usize,
}

impl hayro_ccitt::Decoder for Rows {
    fn push_row(&mut self, changes: &[u32]) {
        let start = self.levels.len();
        if start + self.width > self.most {
            return;
        }
        self.levels.resize(start + self.width, self.white);
        for black in changes.chunks(2) {
            let end = black.get(1).map_or(self.width, |end| *end as usize);
            let range = black[0] as usize..end.min(self.width);
            if let Some(pixels) = self.levels[start..].get_mut(range) {
                pixels.fill(!self.white);
            }
        }
    }
}
