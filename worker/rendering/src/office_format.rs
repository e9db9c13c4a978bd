//! Detects the format of an office document from its container: the names of a ZIP's parts, the
//! streams of an OLE file. Runs in the renderer. Archives that would unpack to more than any real
//! document are refused here, before another program sees them.

use std::borrow::Cow;
use std::io::{self, BufReader, Read};

use flate2::read::DeflateDecoder;
use serde::{Deserialize, Serialize};
use zip::{CompressionMethod, ZipArchive};

use super::source::DocumentFile;
use super::{RenderError, office_pages, office_sheets};

/// Largest unpacked size of all parts of a document, in bytes.
const MAX_UNPACKED_BYTES: u64 = 1 << 30;
/// Above this unpacked size, the compression ratio is limited: text of documents compresses ten to
/// thirty times.
const SUSPECT_BYTES: u64 = 64 << 20;
const MAX_RATIO: u64 = 100;
/// Largest number of parts of a document.
const MAX_PARTS: usize = 50_000;
/// Largest number of bytes read from one part to detect the format.
const MAX_READ_BYTES: u64 = 4 << 20;

/// Bytes in which `OpenDocument` in one file of XML says what it is.
const FLAT_START_BYTES: u64 = 64 << 10;

/// Format of an office document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum OfficeFormat {
    Doc,
    Docx,
    Odp,
    Ods,
    Odt,
    Ppt,
    Pptx,
    Rtf,
    Xls,
    Xlsx,
    Fodg,
    Fodp,
    Fods,
    Fodt,
    Hwp,
    Odg,
    Pub,
    Vsd,
    Vsdx,
    Wpd,
    Xlsb,
}

/// Properties of an office document that are known before its conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OfficeDocument {
    pub(super) format: OfficeFormat,
    /// Encrypted, possibly with Office's built-in default password, which LibreOffice knows.
    pub(super) encrypted: bool,
}

impl OfficeFormat {
    #[cfg(test)]
    pub(super) const ALL: [Self; 21] = [
        Self::Doc,
        Self::Docx,
        Self::Odp,
        Self::Ods,
        Self::Odt,
        Self::Ppt,
        Self::Pptx,
        Self::Rtf,
        Self::Xls,
        Self::Xlsx,
        Self::Fodg,
        Self::Fodp,
        Self::Fods,
        Self::Fodt,
        Self::Hwp,
        Self::Odg,
        Self::Pub,
        Self::Vsd,
        Self::Vsdx,
        Self::Wpd,
        Self::Xlsb,
    ];

    /// File name extension, from which LibreOffice takes the format.
    #[must_use]
    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::Doc => "doc",
            Self::Docx => "docx",
            Self::Odp => "odp",
            Self::Ods => "ods",
            Self::Odt => "odt",
            Self::Ppt => "ppt",
            Self::Pptx => "pptx",
            Self::Rtf => "rtf",
            Self::Xls => "xls",
            Self::Xlsx => "xlsx",
            Self::Fodg => "fodg",
            Self::Fodp => "fodp",
            Self::Fods => "fods",
            Self::Fodt => "fodt",
            Self::Hwp => "hwp",
            Self::Odg => "odg",
            Self::Pub => "pub",
            Self::Vsd => "vsd",
            Self::Vsdx => "vsdx",
            Self::Wpd => "wpd",
            Self::Xlsb => "xlsb",
        }
    }
}

/// Detects the format of a ZIP archive, and checks its size and encryption.
pub(super) fn inspect_zip(
    file: DocumentFile,
    max_pages: u32,
) -> Result<OfficeDocument, RenderError> {
    let mut archive = Archive::open(file)?;
    let format = zip_format(&mut archive)?;
    archive.measure()?;
    if has_encrypted_parts(&mut archive) {
        return Err(RenderError::Encrypted);
    }
    office_sheets::check(&mut archive, format, max_pages)?;
    office_pages::check(&mut archive, format, max_pages)?;
    Ok(OfficeDocument {
        format,
        encrypted: false,
    })
}

/// An archive of the parts of a document.
pub(super) struct Archive {
    zip: ZipArchive<BufReader<DocumentFile>>,
    packed: u64,
}

fn damaged(error: &dyn std::fmt::Display) -> RenderError {
    RenderError::Damaged(format!("ZIP: {error}"))
}

impl Archive {
    pub(super) fn open(file: DocumentFile) -> Result<Self, RenderError> {
        let packed = file.length();
        let zip = ZipArchive::new(BufReader::new(file)).map_err(|error| damaged(&error))?;
        if zip.len() > MAX_PARTS {
            return Err(RenderError::TooLarge(format!("{} parts", zip.len())));
        }
        Ok(Self { zip, packed })
    }

    /// Unpacks every part to measure it. An error if it is encrypted, or larger than is allowed.
    pub(super) fn measure(&mut self) -> Result<(), RenderError> {
        let mut unpacked = Unpacked {
            packed: self.packed,
            bytes: 0,
        };
        for index in 0..self.zip.len() {
            let part = self.zip.by_index_raw(index);
            let part = part.map_err(|error| damaged(&error))?;
            if part.encrypted() {
                return Err(RenderError::Encrypted);
            }
            let announced = part.size();
            unpacked.check(announced)?;
            let method = part.compression();
            let bytes = match method {
                CompressionMethod::Stored => unpacked.add(part)?,
                CompressionMethod::DEFLATE => unpacked.add(DeflateDecoder::new(part))?,
                other => {
                    let what = format!("a ZIP archive with compression method {other}");
                    return Err(RenderError::Unsupported(what));
                }
            };
            if bytes != announced {
                return Err(damaged(&format!(
                    "a part has {bytes} bytes, expected {announced}"
                )));
            }
        }
        Ok(())
    }

    /// Names of the parts.
    pub(super) fn names(&self) -> Vec<String> {
        let names = self.zip.file_names().flatten();
        names.map(Cow::into_owned).collect()
    }

    fn has_part(&self, name: &str) -> bool {
        self.zip.index_for_name(name).is_some()
    }

    /// The content of a part, if it can be unpacked.
    pub(super) fn reader(&mut self, name: &str) -> Option<Box<dyn Read + '_>> {
        let index = self.zip.index_for_name(name)?;
        let part = self.zip.by_index_raw(index).ok()?;
        match part.compression() {
            CompressionMethod::Stored => Some(Box::new(part)),
            CompressionMethod::DEFLATE => Some(Box::new(DeflateDecoder::new(part))),
            _ => None,
        }
    }

    /// The first bytes of a part, at most `most`.
    pub(super) fn part(&mut self, name: &str, most: u64) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        let part = self.reader(name)?;
        let read = part.take(most).read_to_end(&mut content);
        read.ok().map(|_| content)
    }
}

/// Unpacked size of an archive so far.
struct Unpacked {
    packed: u64,
    bytes: u64,
}

impl Unpacked {
    /// An error if `more` bytes would exceed a limit.
    fn check(&self, more: u64) -> Result<(), RenderError> {
        let bytes = self.bytes.saturating_add(more);
        let is_bomb = bytes > SUSPECT_BYTES && bytes / MAX_RATIO > self.packed;
        if bytes > MAX_UNPACKED_BYTES || is_bomb {
            return Err(RenderError::TooLarge(format!(
                "its {} bytes unpack to {} MiB or more",
                self.packed,
                bytes >> 20
            )));
        }
        Ok(())
    }

    /// Unpacks a part to measure its length.
    fn add(&mut self, mut part: impl Read) -> Result<u64, RenderError> {
        let mut buffer = vec![0; 64 << 10];
        let mut length = 0;
        loop {
            match part.read(&mut buffer) {
                Ok(0) => return Ok(length),
                Ok(read) => {
                    length += read as u64;
                    self.check(read as u64)?;
                    self.bytes += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(RenderError::Damaged(format!("ZIP: {error}"))),
            }
        }
    }
}

fn zip_format(archive: &mut Archive) -> Result<OfficeFormat, RenderError> {
    if let Some(kind) = archive.part("mimetype", MAX_READ_BYTES) {
        let kind = String::from_utf8_lossy(&kind);
        match opendocument(kind.trim()) {
            Some(OpenDocument::Text) => return Ok(OfficeFormat::Odt),
            Some(OpenDocument::Spreadsheet) => return Ok(OfficeFormat::Ods),
            Some(OpenDocument::Presentation) => return Ok(OfficeFormat::Odp),
            Some(OpenDocument::Drawing) => return Ok(OfficeFormat::Odg),
            None => {}
        }
    }
    if archive.has_part("[Content_Types].xml") {
        for (folder, format) in [
            ("word/", OfficeFormat::Docx),
            ("xl/workbook.bin", OfficeFormat::Xlsb),
            ("xl/", OfficeFormat::Xlsx),
            ("ppt/", OfficeFormat::Pptx),
            ("visio/", OfficeFormat::Vsdx),
        ] {
            if archive
                .zip
                .file_names()
                .flatten()
                .any(|name| name.starts_with(folder))
            {
                return Ok(format);
            }
        }
    }
    let what = "a ZIP archive without a document of a known format";
    Err(RenderError::Unsupported(what.to_owned()))
}

/// Kinds of `OpenDocument`.
enum OpenDocument {
    Text,
    Spreadsheet,
    Presentation,
    Drawing,
}

/// The kind of `OpenDocument` that has this media type.
fn opendocument(kind: &str) -> Option<OpenDocument> {
    let kind = kind.strip_prefix("application/vnd.oasis.opendocument.")?;
    match kind.trim_end_matches("-template") {
        "text" | "text-master" | "text-web" => Some(OpenDocument::Text),
        "spreadsheet" => Some(OpenDocument::Spreadsheet),
        "presentation" => Some(OpenDocument::Presentation),
        "graphics" => Some(OpenDocument::Drawing),
        _ => None,
    }
}

/// Detects the format of `OpenDocument` in one file of XML.
pub(super) fn inspect_flat(
    mut file: DocumentFile,
    max_pages: u32,
) -> Result<OfficeDocument, RenderError> {
    const MEDIA_TYPE: &str = "office:mimetype=\"";
    let mut start = Vec::new();
    let read = file.clone().take(FLAT_START_BYTES).read_to_end(&mut start);
    read.map_err(|error| RenderError::Io(error.to_string()))?;
    let start = String::from_utf8_lossy(&start);
    let kind = start
        .split_once(MEDIA_TYPE)
        .and_then(|(_, rest)| rest.split('"').next());
    let format = match kind.and_then(opendocument) {
        Some(OpenDocument::Text) => OfficeFormat::Fodt,
        Some(OpenDocument::Spreadsheet) => OfficeFormat::Fods,
        Some(OpenDocument::Presentation) => OfficeFormat::Fodp,
        Some(OpenDocument::Drawing) => OfficeFormat::Fodg,
        None => {
            let what = "OpenDocument in XML without a text document, spreadsheet, presentation or \
                        drawing";
            return Err(RenderError::Unsupported(what.to_owned()));
        }
    };
    if format == OfficeFormat::Fods {
        office_sheets::check_flat(BufReader::new(&mut file), max_pages)?;
    } else {
        office_pages::check_markup(BufReader::new(&mut file), format, max_pages)?;
    }
    Ok(OfficeDocument {
        format,
        encrypted: false,
    })
}

/// `OpenDocument` encrypts its parts one by one and names the method in its manifest.
fn has_encrypted_parts(archive: &mut Archive) -> bool {
    const METHOD: &[u8] = b"encryption-data";
    let manifest = archive
        .part("META-INF/manifest.xml", MAX_READ_BYTES)
        .unwrap_or_default();
    manifest.windows(METHOD.len()).any(|bytes| bytes == METHOD)
}

/// Detects the format of an OLE file (the binary formats of Office 97 to 2003), and whether it is
/// encrypted.
pub(super) fn inspect_ole(file: DocumentFile) -> Result<OfficeDocument, RenderError> {
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
    } else {
        let what = "an OLE file without a document of a known format";
        return Err(RenderError::Unsupported(what.to_owned()));
    };
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

    #[test]
    fn unpacked_size_and_compression_ratio_are_limited() {
        let unpacked = |packed, bytes| Unpacked { packed, bytes };
        assert!(unpacked(1000, 0).check(SUSPECT_BYTES).is_ok());
        assert!(unpacked(1000, SUSPECT_BYTES).check(1).is_err());
        assert!(unpacked(SUSPECT_BYTES, SUSPECT_BYTES).check(1).is_ok());
        assert!(
            unpacked(MAX_UNPACKED_BYTES, 0)
                .check(MAX_UNPACKED_BYTES + 1)
                .is_err()
        );
        assert!(unpacked(1, 1).check(u64::MAX).is_err());
    }
}
