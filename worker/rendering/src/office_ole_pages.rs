//! How many pages the binary documents of Word and `PowerPoint` have at least, before LibreOffice lays
//! them out. What is invalid is left for LibreOffice to judge. Runs in the renderer.

use std::io::{BufReader, Read, Seek, SeekFrom};

use super::RenderError;
use super::office_format::OfficeFormat;
use super::office_pages::{Length, too_many};

/// Largest table of the places of Word's text that is read, in bytes.
const MAX_TABLE_BYTES: u32 = 1 << 20;

/// Checks the streams that have the pages. Other formats have none of them.
pub(super) fn check<F: Read + Seek>(
    container: &mut cfb::CompoundFile<F>,
    format: OfficeFormat,
    max_pages: u32,
) -> Result<(), RenderError> {
    match format {
        OfficeFormat::Doc => check_text(container, max_pages),
        OfficeFormat::Ppt => too_many(slides(container).unwrap_or(0), max_pages),
        _ => Ok(()),
    }
}

/// Where a document of Word 97 or later has its text (MS-DOC, `Fib`).
struct Places {
    /// Letters of the text, without notes, headers and boxes.
    letters: u32,
    /// In which table what follows is.
    table: &'static str,
    /// Begin and length of the list of sections.
    sections: (u32, u32),
    /// Begin and length of the list of the pieces of the text.
    pieces: (u32, u32),
}

impl Places {
    fn of(start: &[u8]) -> Option<Self> {
        const WORD_97: u16 = 0xc1;
        let number = |at: usize| start.get(at..at + 4).and_then(number);
        let version = start.get(2..4)?;
        if u16::from_le_bytes([version[0], version[1]]) < WORD_97 {
            return None;
        }
        Some(Self {
            letters: number(0x4c)?,
            table: if start.get(11)? & 2 == 0 {
                "/0Table"
            } else {
                "/1Table"
            },
            sections: (number(0xca)?, number(0xce)?),
            pieces: (number(0x1a2)?, number(0x1a6)?),
        })
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    let bytes = bytes.get(..4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// A piece of the text in the main stream.
struct Piece {
    begin: u32,
    letters: u32,
    /// One byte for a letter, not two.
    is_narrow: bool,
}

fn check_text<F: Read + Seek>(
    container: &mut cfb::CompoundFile<F>,
    max_pages: u32,
) -> Result<(), RenderError> {
    let Some((places, table)) = places_and_pieces(container) else {
        return Ok(());
    };
    let Ok(text) = container.open_stream("/WordDocument") else {
        return Ok(());
    };
    // Pieces of a hostile document overlap.
    let mut left = text.len();
    let mut text = BufReader::new(text);
    let mut length = Length::of(max_pages);
    // A section ends with the same letter as a page, and may end in the middle of one.
    let mut sections = u64::from(places.sections.1.saturating_sub(4) / 16);
    for piece in pieces(&table, places.letters) {
        let width = if piece.is_narrow { 1 } else { 2 };
        let bytes = u64::from(piece.letters) * width;
        if bytes > left || seek(&mut text, piece.begin.into()).is_none() {
            break;
        }
        left -= bytes;
        let mut letter = [0; 2];
        let letter = &mut letter[..if piece.is_narrow { 1 } else { 2 }];
        for _ in 0..piece.letters {
            if text.read_exact(letter).is_err() {
                return Ok(());
            }
            match *letter {
                [0x0c] | [0x0c, 0] => {
                    if sections == 0 {
                        length.count_break()?;
                    }
                    sections = sections.saturating_sub(1);
                }
                [0x0d] | [0x0d, 0] => length.count_paragraph()?,
                [0..=0x20] | [0..=0x20, 0] => {}
                _ => length.count_letters(1)?,
            }
        }
    }
    Ok(())
}

/// Goes to a place of a stream, and keeps what is buffered.
fn seek(stream: &mut BufReader<impl Read + Seek>, place: u64) -> Option<()> {
    let here = i64::try_from(stream.stream_position().ok()?).ok()?;
    let place = i64::try_from(place).ok()?;
    stream.seek_relative(place - here).ok()
}

fn places_and_pieces<F: Read + Seek>(
    container: &mut cfb::CompoundFile<F>,
) -> Option<(Places, Vec<u8>)> {
    let mut start = Vec::new();
    let text = container.open_stream("/WordDocument").ok()?;
    text.take(0x200).read_to_end(&mut start).ok()?;
    let places = Places::of(&start)?;
    let (begin, bytes) = places.pieces;
    if bytes > MAX_TABLE_BYTES {
        return None;
    }
    let mut stream = container.open_stream(places.table).ok()?;
    stream.seek(SeekFrom::Start(begin.into())).ok()?;
    let mut table = Vec::new();
    stream.take(bytes.into()).read_to_end(&mut table).ok()?;
    Some((places, table))
}

/// The pieces of the first letters of the text.
fn pieces(table: &[u8], letters: u32) -> Vec<Piece> {
    const PROPERTIES: u8 = 1;
    const PIECES: u8 = 2;
    const IS_NARROW: u32 = 1 << 30;
    let mut rest = table;
    while let [PROPERTIES, l0, l1, after @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*l0, *l1]));
        rest = after.get(length..).unwrap_or_default();
    }
    let [PIECES, _, _, _, _, list @ ..] = rest else {
        return Vec::new();
    };
    // Numbers of the letters at which the pieces begin and the last one ends, then their places.
    let count = list.len().saturating_sub(4) / 12;
    let Some((begins, places)) = list.split_at_checked(4 * (count + 1)) else {
        return Vec::new();
    };
    let begins: Vec<u32> = begins.chunks_exact(4).filter_map(number).collect();
    let mut found = Vec::new();
    for (ends, place) in begins.windows(2).zip(places.chunks_exact(8)) {
        let end = ends[1].min(letters);
        let Some(place) = number(&place[2..]) else {
            break;
        };
        if ends[0] >= end {
            break;
        }
        let is_narrow = place & IS_NARROW != 0;
        let place = place & !(3 << 30);
        found.push(Piece {
            begin: if is_narrow { place / 2 } else { place },
            letters: end - ends[0],
            is_narrow,
        });
    }
    found
}

/// Slides of a presentation (MS-PPT): records in records. A saved change is a document behind the
/// ones before.
fn slides<F: Read + Seek>(container: &mut cfb::CompoundFile<F>) -> Option<u64> {
    const DOCUMENT: u16 = 0x03e8;
    const LIST_OF_SLIDES: u16 = 0x0ff0;
    const SLIDE: u16 = 0x03f3;
    let stream = container.open_stream("/PowerPoint Document").ok()?;
    let end = stream.len();
    let mut stream = BufReader::new(stream);
    let mut slides = 0;
    let mut document = 0..end;
    while let Some(record) = next_record(&mut stream, &mut document) {
        if record.kind != DOCUMENT {
            continue;
        }
        slides = 0;
        let mut lists = record.content;
        while let Some(list) = next_record(&mut stream, &mut lists) {
            // Lists of master slides and of notes have other instances.
            if list.kind != LIST_OF_SLIDES || list.instance != 0 {
                continue;
            }
            let mut entries = list.content;
            while let Some(entry) = next_record(&mut stream, &mut entries) {
                slides += u64::from(entry.kind == SLIDE);
            }
        }
    }
    Some(slides)
}

/// The head of a record, and where its content is.
struct Record {
    kind: u16,
    instance: u16,
    content: std::ops::Range<u64>,
}

/// The record at the begin of a part of the stream, which then begins behind it.
fn next_record(
    stream: &mut BufReader<impl Read + Seek>,
    part: &mut std::ops::Range<u64>,
) -> Option<Record> {
    let mut head = [0; 8];
    if part.start + 8 > part.end {
        return None;
    }
    seek(stream, part.start)?;
    stream.read_exact(&mut head).ok()?;
    let [v0, v1, k0, k1, length @ ..] = head;
    let begin = part.start + 8;
    let end = (begin + u64::from(u32::from_le_bytes(length))).min(part.end);
    part.start = end;
    Some(Record {
        kind: u16::from_le_bytes([k0, k1]),
        instance: u16::from_le_bytes([v0, v1]) >> 4,
        content: begin..end,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use super::*;

    type Container = cfb::CompoundFile<Cursor<Vec<u8>>>;

    fn container(streams: &[(&str, &[u8])]) -> Container {
        let mut container = cfb::CompoundFile::create(Cursor::new(Vec::new())).unwrap();
        for (name, content) in streams {
            let mut stream = container.create_stream(name).unwrap();
            stream.write_all(content).unwrap();
        }
        container
    }

    fn real(content: &[u8]) -> Container {
        cfb::CompoundFile::open(Cursor::new(content.to_vec())).unwrap()
    }

    fn too_many(pages: u32, limit: u32) -> Result<(), RenderError> {
        Err(RenderError::TooManyPages { pages, limit })
    }

    /// A document of Word 97 whose text has two pieces: letters of one byte and of two.
    fn word(narrow: &str, wide: &str, sections: u32) -> Container {
        const BEGIN: u32 = 0x400;
        let length = |text: &str| u32::try_from(text.chars().count()).unwrap();
        let (first, second) = (length(narrow), length(wide));
        let mut text = vec![0; BEGIN as usize];
        let mut put = |at: usize, number: u32| {
            text[at..at + 4].copy_from_slice(&number.to_le_bytes());
        };
        put(2, 0xc1);
        put(0x4c, first + second);
        put(0xce, 4 + 16 * sections);
        put(0x1a6, 5 + 3 + 5 + 12 + 16);
        text[11] = 2;
        text.extend(narrow.bytes());
        text.extend(wide.encode_utf16().flat_map(u16::to_le_bytes));
        let mut table = vec![1, 5, 0, 7, 7, 7, 7, 7, 2, 28, 0, 0, 0];
        for number in [0, first, first + second] {
            table.extend(number.to_le_bytes());
        }
        for place in [(2 * BEGIN) | (1 << 30), BEGIN + first] {
            table.extend([0; 2]);
            table.extend(place.to_le_bytes());
            table.extend([0; 2]);
        }
        container(&[("/WordDocument", &text), ("/1Table", &table)])
    }

    fn check_word(narrow: &str, wide: &str, sections: u32, most: u32) -> Result<(), RenderError> {
        check(&mut word(narrow, wide, sections), OfficeFormat::Doc, most)
    }

    #[test]
    fn page_breaks_of_word_are_pages() {
        let (narrow, wide) = ("page\u{c}".repeat(2), "쪽\u{c}".repeat(2));
        assert_eq!(check_word(&narrow, &wide, 0, 4), Ok(()));
        assert_eq!(check_word(&narrow, &wide, 0, 3), too_many(4, 3));
        assert_eq!(check_word(&narrow, &wide, 1, 3), Ok(()), "a section");
        assert_eq!(check_word(&narrow, &wide, 1, 2), too_many(3, 2));
    }

    #[test]
    fn more_letters_than_fit_are_pages() {
        let (narrow, wide) = ("a b".repeat(10_000), "字".repeat(20_000));
        assert_eq!(check_word(&narrow, &wide, 1, 2), Ok(()));
        assert_eq!(check_word(&narrow, &wide, 1, 1), too_many(2, 1));
        assert_eq!(check_word(&"\r".repeat(8000), "", 1, 1), too_many(2, 1));
    }

    #[test]
    fn real_documents_are_read() {
        let text = include_bytes!("../tests/fixtures/office/text.doc");
        let mut text = real(text);
        let (places, table) = places_and_pieces(&mut text).unwrap();
        let letters: u32 = pieces(&table, places.letters)
            .iter()
            .map(|piece| piece.letters)
            .sum();
        assert_eq!(letters, places.letters);
        assert!(letters > 20);
        assert_eq!(check(&mut text, OfficeFormat::Doc, 1), Ok(()));
        // Word 6, which has other places.
        let old = include_bytes!("../tests/fixtures/office/text-95.doc");
        assert_eq!(check(&mut real(old), OfficeFormat::Doc, 1), Ok(()));
        let slides = include_bytes!("../tests/fixtures/office/slide.ppt");
        assert_eq!(check(&mut real(slides), OfficeFormat::Ppt, 2), Ok(()));
        assert_eq!(
            check(&mut real(slides), OfficeFormat::Ppt, 1),
            too_many(2, 1)
        );
    }

    fn ppt_record(kind: u16, instance: u16, content: &[u8]) -> Vec<u8> {
        let mut record = (instance << 4).to_le_bytes().to_vec();
        record.extend(kind.to_le_bytes());
        record.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
        record.extend(content);
        record
    }

    #[test]
    fn slides_of_the_last_document_are_pages() {
        let document = |slides: usize| {
            let slides = ppt_record(0x3f3, 0, &[0; 20]).repeat(slides);
            let masters = ppt_record(0xff0, 1, &ppt_record(0x3f3, 0, &[0; 20]).repeat(9));
            let lists = [masters, ppt_record(0xff0, 0, &slides)].concat();
            ppt_record(0x3e8, 0, &lists)
        };
        let stream = [document(9), ppt_record(0x3ee, 0, &[1; 7]), document(3)].concat();
        let presentation = |bytes: &[u8]| container(&[("/PowerPoint Document", bytes)]);
        let count = |bytes: &[u8]| slides(&mut presentation(bytes));
        assert_eq!(count(&stream), Some(3));
        assert_eq!(
            check(&mut presentation(&stream), OfficeFormat::Ppt, 2),
            too_many(3, 2)
        );
        for end in 0..stream.len() {
            assert!(count(&stream[..end]).unwrap() <= 9);
        }
    }

    #[test]
    fn invalid_documents_are_left_to_libreoffice() {
        let mut sound = word("a\u{c}b", "c", 0);
        let mut stream = |name| {
            let mut content = Vec::new();
            let mut stream = sound.open_stream(name).unwrap();
            stream.read_to_end(&mut content).unwrap();
            content
        };
        let (text, table) = (stream("/WordDocument"), stream("/1Table"));
        for at in 0..text.len().min(0x200) {
            let mut text = text.clone();
            text[at] ^= 0xff;
            let streams: [(&str, &[u8]); 2] = [("/WordDocument", &text), ("/1Table", &table)];
            let found = check(&mut container(&streams), OfficeFormat::Doc, 5);
            assert_eq!(found, Ok(()), "{at}");
        }
        for at in 0..table.len() {
            let mut changed = table.clone();
            changed[at] ^= 0xff;
            for table in [changed.as_slice(), &table[..at]] {
                let streams: [(&str, &[u8]); 2] = [("/WordDocument", &text), ("/1Table", table)];
                let found = check(&mut container(&streams), OfficeFormat::Doc, 5);
                assert_eq!(found, Ok(()), "{at}");
            }
        }
    }
}
