//! The formats of office documents, told from their containers: the names of a ZIP's parts, markup in
//! one file; OLE files are told in `office_ole`. Runs in the renderer.

use std::io::{BufReader, Read};

use serde::{Deserialize, Serialize};

use super::office_archive::{Archive, MAX_READ_BYTES};
use super::source::DocumentFile;
use super::{RenderError, office_pages, office_rtf, office_sheets};

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
    /// Pages, Numbers and Keynote: LibreOffice tells them apart itself.
    Iwork,
    Sxw,
    Sxc,
    Sxi,
    Sxd,
    /// The text documents of Microsoft Works.
    Wps,
    Wmf,
    Emf,
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
    pub(super) const ALL: [Self; 29] = [
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
        Self::Iwork,
        Self::Sxw,
        Self::Sxc,
        Self::Sxi,
        Self::Sxd,
        Self::Wps,
        Self::Wmf,
        Self::Emf,
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
            Self::Iwork => "iwork",
            Self::Sxw => "sxw",
            Self::Sxc => "sxc",
            Self::Sxi => "sxi",
            Self::Sxd => "sxd",
            Self::Wps => "wps",
            Self::Wmf => "wmf",
            Self::Emf => "emf",
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
    if format == OfficeFormat::Iwork && is_locked_iwork(&mut archive) {
        return Err(RenderError::Encrypted);
    }
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
        if kind.trim() == "application/hwp+zip" {
            return Err(RenderError::Unsupported(LATER_HWP.to_owned()));
        }
    }
    if let Some(format) = openoffice(archive) {
        return Ok(format);
    }
    let names = archive.names();
    if archive.has_part("[Content_Types].xml") {
        for (folder, format) in [
            ("word/", OfficeFormat::Docx),
            ("xl/workbook.bin", OfficeFormat::Xlsb),
            ("xl/", OfficeFormat::Xlsx),
            ("ppt/", OfficeFormat::Pptx),
            ("visio/", OfficeFormat::Vsdx),
        ] {
            if names.iter().any(|name| name.starts_with(folder)) {
                return Ok(format);
            }
        }
    }
    if names.iter().any(|name| is_iwork_part(name)) {
        return Ok(OfficeFormat::Iwork);
    }
    let what = "a ZIP archive without a document of a known format";
    Err(RenderError::Unsupported(what.to_owned()))
}

/// What to do about a document of Hangul whose format LibreOffice does not know.
pub(super) const LATER_HWP: &str = "this is a document of Hangul 5 or later (HWP, HWPX), which LibreOffice cannot read: save it as \
     PDF or docx";

/// The format of a document of OpenOffice.org 1, which says it in its manifest.
fn openoffice(archive: &mut Archive) -> Option<OfficeFormat> {
    let manifest = archive.part("META-INF/manifest.xml", MAX_READ_BYTES)?;
    let manifest = String::from_utf8_lossy(&manifest);
    let (_, kind) = manifest.split_once("\"application/vnd.sun.xml.")?;
    match kind.split(['"', '.']).next()? {
        "writer" => Some(OfficeFormat::Sxw),
        "calc" => Some(OfficeFormat::Sxc),
        "impress" => Some(OfficeFormat::Sxi),
        "draw" => Some(OfficeFormat::Sxd),
        _ => None,
    }
}

/// Whether only documents of Pages, Numbers and Keynote have a part of this name. In a document that
/// was a folder, it is below that folder.
fn is_iwork_part(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or_default();
    file.eq_ignore_ascii_case("BuildVersionHistory.plist")
        || name == "index.apxl"
        || name.starts_with("Index/") && has_extension(name, "iwa")
}

/// Whether a document of Pages, Numbers or Keynote needs a password: newer ones have a part that
/// verifies it, older ones have their parts in a way that only they can unpack.
fn is_locked_iwork(archive: &mut Archive) -> bool {
    let names = archive.names();
    let verifies = |name: &String| has_extension(name, "iwpv2") || has_extension(name, "iwph");
    names.iter().any(verifies)
        || ["index.xml", "index.apxl"]
            .iter()
            .any(|name| archive.has_part(name) && archive.reader(name).is_none())
}

fn has_extension(name: &str, extension: &str) -> bool {
    let found = name.rsplit_once('.');
    found.is_some_and(|(_, found)| found.eq_ignore_ascii_case(extension))
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

/// Detects nothing more in a file that is no container, and checks its length where that is cheap.
pub(super) fn inspect_single(
    file: DocumentFile,
    format: OfficeFormat,
    max_pages: u32,
) -> Result<OfficeDocument, RenderError> {
    if format == OfficeFormat::Rtf {
        office_rtf::check(BufReader::new(file), max_pages)?;
    }
    Ok(OfficeDocument {
        format,
        encrypted: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_is_documented() {
        let table = include_str!("../../../docs/formats.md");
        for format in OfficeFormat::ALL {
            let name = format.extension();
            let mut words = table.split(|letter: char| !letter.is_ascii_alphanumeric());
            assert!(words.any(|word| word == name), "{name}");
        }
    }

    #[test]
    fn documents_of_iwork_are_told_by_their_parts() {
        for name in [
            "index.apxl",
            "buildVersionHistory.plist",
            "Index/Document.iwa",
            "Talk.key/Metadata/BuildVersionHistory.plist",
        ] {
            assert!(is_iwork_part(name), "{name}");
        }
        for name in ["index.xml", "Index/a.txt", "Index.zip"] {
            assert!(!is_iwork_part(name), "{name}");
        }
    }
}
