//! Detects the format of an OLE file, the container of the binary formats of Office 97 to 2003 and of
//! its neighbours, and whether it is encrypted. Runs in the renderer.

use std::io::{self, Read};

use super::office_archive::MAX_READ_BYTES;
use super::office_format::{LATER_HWP, OfficeDocument, OfficeFormat};
use super::source::DocumentFile;
use super::{RenderError, office_ole_pages};

/// The signature of a file of Hangul 5.
const HWP: &[u8] = b"HWP Document File";

/// Detects the format and whether it is encrypted. An error if the document has too many pages.
pub(super) fn inspect(file: DocumentFile, max_pages: u32) -> Result<OfficeDocument, RenderError> {
    let damaged = |error: io::Error| RenderError::Damaged(format!("OLE: {error}"));
    let mut container = cfb::CompoundFile::open(file).map_err(damaged)?;
    let mut start = |name: &str, length: u64| {
        let stream = container.open_stream(name).ok()?;
        let mut start = Vec::new();
        stream.take(length).read_to_end(&mut start).ok()?;
        Some(start)
    };
    if start("/EncryptedPackage", 0).is_some() {
        // Encrypted Office Open XML is kept in an OLE file.
        return Err(RenderError::Encrypted);
    }
    let (format, encrypted) = if let Some(text) = start("/WordDocument", 12) {
        (
            OfficeFormat::Doc,
            text.get(11).is_some_and(|flags| flags & 1 != 0),
        )
    } else if let Some(book) =
        start("/Workbook", MAX_READ_BYTES).or_else(|| start("/Book", MAX_READ_BYTES))
    {
        (OfficeFormat::Xls, has_password(&book))
    } else if start("/PowerPoint Document", 0).is_some() {
        let user = start("/Current User", 16).unwrap_or_default();
        (
            OfficeFormat::Ppt,
            user.get(12..16) == Some(&[0xdf, 0xc4, 0xd1, 0xf3]),
        )
    } else if start("/VisioDocument", 0).is_some() {
        (OfficeFormat::Vsd, false)
    } else if start("/Quill/QuillSub/CONTENTS", 0).is_some() {
        (OfficeFormat::Pub, false)
    } else if start("/MN0", 0).is_some() || start("/CONTENTS", 4).is_some_and(|it| it == b"CHNK") {
        (OfficeFormat::Wps, false)
    } else if start("/FileHeader", HWP.len() as u64).is_some_and(|it| it == HWP) {
        return Err(RenderError::Unsupported(LATER_HWP.to_owned()));
    } else {
        let what = "an OLE file without a document of a known format";
        return Err(RenderError::Unsupported(what.to_owned()));
    };
    if !encrypted {
        office_ole_pages::check(&mut container, format, max_pages)?;
    }
    Ok(OfficeDocument { format, encrypted })
}

/// Whether the records of a workbook, up to the first end record, include a password record.
fn has_password(book: &[u8]) -> bool {
    const END: u16 = 0x0a;
    const FILE_PASSWORD: u16 = 0x2f;
    let mut rest = book;
    while let [k0, k1, l0, l1, after @ ..] = rest {
        match u16::from_le_bytes([*k0, *k1]) {
            END => return false,
            FILE_PASSWORD => return true,
            _ => {}
        }
        let length = usize::from(u16::from_le_bytes([*l0, *l1]));
        rest = after.get(length..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_record_counts_before_the_first_end_record() {
        let record = |kind: u16, length: u16| {
            let mut record = kind.to_le_bytes().to_vec();
            record.extend(length.to_le_bytes());
            record.resize(4 + usize::from(length), 0);
            record
        };
        let open = [
            record(0x809, 16),
            record(0x42, 2),
            record(0x0a, 0),
            record(0x2f, 2),
        ]
        .concat();
        assert!(!has_password(&open));
        let closed = [record(0x809, 16), record(0x2f, 54), record(0x0a, 0)].concat();
        assert!(has_password(&closed));
        assert!(!has_password(&closed[..19]));
        assert!(!has_password(&[9, 8, 255, 255]));
    }
}
