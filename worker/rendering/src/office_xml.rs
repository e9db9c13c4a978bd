//! Reads the markup of office documents, one tag after the other. Runs in the renderer.

use std::io::BufRead;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::RenderError;

/// A part of the markup.
pub(super) enum Tag<'a> {
    Start(BytesStart<'a>),
    Empty(BytesStart<'a>),
    /// With its name, without prefix.
    End(Vec<u8>),
    /// What is between two tags.
    Text(&'a [u8]),
}

/// Reads XML. What is invalid is left for LibreOffice to judge.
pub(super) fn each_tag(
    xml: impl BufRead,
    mut each: impl FnMut(Tag<'_>) -> Result<(), RenderError>,
) -> Result<(), RenderError> {
    let mut reader = Reader::from_reader(xml);
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        match reader.read_event_into(&mut buffer) {
            Ok(Event::Start(element)) => each(Tag::Start(element))?,
            Ok(Event::Empty(element)) => each(Tag::Empty(element))?,
            Ok(Event::End(element)) => {
                each(Tag::End(element.local_name().as_ref().to_vec()))?;
            }
            Ok(Event::Text(text)) => each(Tag::Text(&text))?,
            Ok(Event::Eof) | Err(_) => return Ok(()),
            Ok(_) => {}
        }
    }
}

/// The value of an attribute; its name is without prefix.
pub(super) fn text(element: &BytesStart<'_>, name: &[u8]) -> Option<String> {
    let mut attributes = element.attributes();
    attributes.with_checks(false);
    let found = attributes
        .flatten()
        .find(|attribute| attribute.key.local_name().as_ref() == name)?;
    Some(String::from_utf8_lossy(&found.value).into_owned())
}

pub(super) fn number(element: &BytesStart<'_>, name: &[u8]) -> Option<u64> {
    text(element, name)?.parse().ok()
}
