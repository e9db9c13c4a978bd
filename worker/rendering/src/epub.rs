//! The text of a book in EPUB: its chapters in reading order, each on a page of its own. Pictures
//! are left out. Runs in the renderer.

use std::collections::HashMap;
use std::path::Path;

use html5gum::{StartTag, Token, Tokenizer};

use super::RenderError;
use super::office_archive::Archive;
use super::source::DocumentFile;
use super::text_file;
use super::text_html::{self, attribute};

/// Beginning of the first part, which every book has first and uncompressed, behind its header.
const MARK: &[u8] = b"mimetypeapplication/epub+zip";
/// Bytes of a header before the part's name.
const HEADER: usize = 30;
/// Largest text of a book, in bytes.
const MAX_BYTES: u64 = 32 << 20;

/// Whether a file starts like a book.
pub(super) fn is_epub(start: &[u8]) -> bool {
    start.starts_with(b"PK\x03\x04")
        && start
            .get(HEADER..)
            .is_some_and(|rest| rest.starts_with(MARK))
}

/// The text of a book.
pub(super) fn read(file: &Path) -> Result<String, RenderError> {
    let file = DocumentFile::open(file)?;
    let failure = file.failure();
    let text = text(file);
    // A part that could not be read may have been taken for one that is not there.
    failure.check().and(text)
}

fn text(file: DocumentFile) -> Result<String, RenderError> {
    let damaged = |what: &str| RenderError::Damaged(format!("EPUB: {what}"));
    let mut archive = Archive::open(file)?;
    archive.measure()?;
    let mut part = |name: &str| {
        let content = archive.part(name, MAX_BYTES + 1)?;
        Some(text_file::decode(&content).into_owned())
    };
    let encrypted = part("META-INF/encryption.xml").unwrap_or_default();
    let container = part("META-INF/container.xml").ok_or_else(|| damaged("no container.xml"))?;
    let root = tags(&container).find(|(name, _)| name == "rootfile");
    let root = root.and_then(|(_, tag)| attribute(&tag, "full-path"));
    let root = root.ok_or_else(|| damaged("it names no package"))?;
    let package = part(&root).ok_or_else(|| damaged("the package is not there"))?;
    let (mut files, mut order) = (HashMap::new(), Vec::new());
    for (name, tag) in tags(&package) {
        match (
            name.as_str(),
            attribute(&tag, "id"),
            attribute(&tag, "href"),
        ) {
            ("item", Some(id), Some(href)) => {
                files.insert(id, href);
            }
            ("itemref", ..) => order.extend(attribute(&tag, "idref")),
            _ => {}
        }
    }
    let mut text = String::new();
    for file in order.iter().filter_map(|id| files.get(id)) {
        if encrypted.contains(file.as_str()) {
            return Err(RenderError::Encrypted);
        }
        let Some(chapter) = part(&resolved(&root, file)) else {
            return Err(damaged(&format!("the chapter {file} is not there")));
        };
        if !text.is_empty() {
            text.push('\u{c}');
        }
        let is_cut = chapter.len() as u64 > MAX_BYTES;
        text.push_str(&text_html::text(&chapter));
        if is_cut || text.len() as u64 > MAX_BYTES {
            let what = format!("more than {} MiB of text", MAX_BYTES >> 20);
            return Err(RenderError::TooLarge(what));
        }
    }
    Ok(text_file::cleaned(&text))
}

/// The elements of a file in XML: names without prefix.
fn tags(xml: &str) -> impl Iterator<Item = (String, StartTag<()>)> {
    Tokenizer::new(xml)
        .flatten()
        .filter_map(|token| match token {
            Token::StartTag(tag) => {
                let name = String::from_utf8_lossy(&tag.name);
                let name = name.rsplit(':').next().unwrap_or_default().to_owned();
                Some((name, tag))
            }
            _ => None,
        })
}

/// The name of the part that the package refers to.
fn resolved(package: &str, href: &str) -> String {
    let folder = package.rsplit_once('/').map_or("", |(folder, _)| folder);
    let href = href.split('#').next().unwrap_or_default();
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in href.split('/') {
        match part {
            ".." => {
                parts.pop();
            }
            "." | "" => {}
            part => parts.push(part),
        }
    }
    percent_encoding::percent_decode_str(&parts.join("/"))
        .decode_utf8_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_are_relative_to_the_package() {
        assert_eq!(
            resolved("OEBPS/book.opf", "text/one%20two.xhtml#a"),
            "OEBPS/text/one two.xhtml"
        );
        assert_eq!(resolved("a/b/book.opf", "../one.xhtml"), "a/one.xhtml");
        assert_eq!(resolved("book.opf", "./one.xhtml"), "one.xhtml");
    }
}
