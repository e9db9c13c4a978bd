//! Whether an image file has more pictures than the first, which alone becomes a page. Runs in the
//! renderer. Nothing is decoded; a file that cannot be understood has no more.

use std::io::{self, Read, Seek, SeekFrom};

use image::ImageFormat;

/// Whether the file is an animation of several frames.
pub(super) fn has_more_frames(format: ImageFormat, file: &mut (impl Read + Seek)) -> bool {
    let found = match format {
        ImageFormat::Gif => gif(file),
        ImageFormat::Png => png(file),
        ImageFormat::WebP => webp(file),
        _ => Ok(false),
    };
    found.unwrap_or(false)
}

fn bytes<const COUNT: usize>(file: &mut impl Read) -> io::Result<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Bytes of a table of colours, by the flags of its description.
fn table_bytes(flags: u8) -> i64 {
    if flags & 0x80 == 0 {
        return 0;
    }
    3 << ((flags & 7) + 1)
}

fn gif(file: &mut (impl Read + Seek)) -> io::Result<bool> {
    file.seek(SeekFrom::Start(0))?;
    let header: [u8; 13] = bytes(file)?;
    file.seek(SeekFrom::Current(table_bytes(header[10])))?;
    let mut frames = 0;
    loop {
        match bytes::<1>(file)? {
            // An extension: its kind, and blocks.
            [0x21] => {
                bytes::<1>(file)?;
            }
            // A frame: its place, colours, the width of codes, and blocks.
            [0x2c] => {
                frames += 1;
                if frames > 1 {
                    return Ok(true);
                }
                let place: [u8; 9] = bytes(file)?;
                file.seek(SeekFrom::Current(table_bytes(place[8]) + 1))?;
            }
            _ => return Ok(false),
        }
        loop {
            match bytes::<1>(file)? {
                [0] => break,
                [length] => file.seek(SeekFrom::Current(length.into()))?,
            };
        }
    }
}

fn png(file: &mut (impl Read + Seek)) -> io::Result<bool> {
    file.seek(SeekFrom::Start(8))?;
    loop {
        let (length, kind): ([u8; 4], [u8; 4]) = (bytes(file)?, bytes(file)?);
        match &kind {
            b"acTL" => return Ok(u32::from_be_bytes(bytes(file)?) > 1),
            b"IDAT" | b"IEND" => return Ok(false),
            _ => file.seek(SeekFrom::Current(i64::from(u32::from_be_bytes(length)) + 4))?,
        };
    }
}

fn webp(file: &mut (impl Read + Seek)) -> io::Result<bool> {
    const ANIMATION: u8 = 2;
    file.seek(SeekFrom::Start(12))?;
    let start: [u8; 9] = bytes(file)?;
    Ok(start.starts_with(b"VP8X") && start[8] & ANIMATION != 0)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::codecs::gif::GifEncoder;
    use image::{Frame, RgbaImage};

    use super::*;

    #[test]
    fn animations_have_more_frames() {
        let frames = |count| {
            let mut file = Vec::new();
            let mut encoder = GifEncoder::new(&mut file);
            let frame = Frame::new(RgbaImage::new(20, 10));
            encoder
                .encode_frames(std::iter::repeat_n(frame, count))
                .unwrap();
            drop(encoder);
            file
        };
        let more = |format, file: &[u8]| has_more_frames(format, &mut Cursor::new(file));
        let (one, three) = (frames(1), frames(3));
        assert!(!more(ImageFormat::Gif, &one));
        assert!(more(ImageFormat::Gif, &three));
        for length in 0..one.len() {
            assert!(!more(ImageFormat::Gif, &one[..length]));
        }
        let png = |frames: u32| {
            let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x01IHDRxCRC_\0\0\0\x08acTL".to_vec();
            file.extend(frames.to_be_bytes());
            file
        };
        assert!(!more(ImageFormat::Png, &png(1)));
        assert!(more(ImageFormat::Png, &png(2)));
        for (flags, expected) in [(2, true), (0, false)] {
            let mut file = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0".to_vec();
            file.push(flags);
            assert_eq!(more(ImageFormat::WebP, &file), expected);
        }
    }
}
