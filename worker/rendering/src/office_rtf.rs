//! How long a document in Rich Text Format is at least, before LibreOffice lays it out. Runs in the
//! renderer.

use std::io::{self, BufRead, Read};

use super::RenderError;
use super::office_pages::Length;

/// Groups in groups at most. What has more is left for LibreOffice to judge.
const MAX_DEPTH: usize = 10_000;
/// Length of the name of a control word at most.
const MAX_NAME: usize = 32;
/// Groups with something else than the text of pages.
const ASIDES: [&[u8]; 22] = [
    b"fonttbl",
    b"colortbl",
    b"stylesheet",
    b"listtable",
    b"listoverridetable",
    b"info",
    b"pict",
    b"nonshppict",
    b"object",
    b"fldinst",
    b"footnote",
    b"annotation",
    b"header",
    b"headerl",
    b"headerr",
    b"headerf",
    b"footer",
    b"footerl",
    b"footerr",
    b"footerf",
    b"shptxt",
    b"pgdsctbl",
];

/// What holds until the present group ends.
#[derive(Clone, Copy, Default)]
struct State {
    aside: bool,
    /// Deleted or hidden letters.
    hidden: bool,
    paragraph: Paragraph,
}

/// What holds for the present paragraph.
#[derive(Clone, Copy, Default)]
struct Paragraph {
    in_table: bool,
    begins_page: bool,
}

/// Counts page breaks, letters and paragraphs. What is invalid is left for LibreOffice to judge.
pub(super) fn check(mut file: impl BufRead, max_pages: u32) -> Result<(), RenderError> {
    let mut length = Length::of(max_pages);
    let mut states = Vec::new();
    let mut state = State::default();
    while let Some(byte) = next(&mut file) {
        match byte {
            b'{' => {
                if states.len() == MAX_DEPTH {
                    break;
                }
                states.push(state);
            }
            b'}' => state = states.pop().unwrap_or_default(),
            b'\\' => {
                let Some(word) = control(&mut file) else {
                    break;
                };
                obey(&word, &mut state, &mut length)?;
                if let Word::Named(name, Some(bytes)) = &word
                    && name == b"bin"
                    && !skip(&mut file, *bytes)
                {
                    break;
                }
            }
            letter if letter.is_ascii_whitespace() => {}
            _ => count_letter(state, &mut length)?,
        }
    }
    Ok(())
}

fn count_letter(state: State, length: &mut Length) -> Result<(), RenderError> {
    if state.aside || state.hidden {
        return Ok(());
    }
    length.count_letters(1)
}

/// What follows a backslash.
enum Word {
    Named(Vec<u8>, Option<i64>),
    /// A letter by its number.
    Letter,
    Symbol(u8),
}

fn control(file: &mut impl BufRead) -> Option<Word> {
    let first = next(file)?;
    if first == b'\'' {
        // Two digits follow.
        return skip(file, 2).then_some(Word::Letter);
    }
    if !first.is_ascii_alphabetic() {
        return Some(Word::Symbol(first));
    }
    let mut name = vec![first];
    while let Some(byte) = peek(file)
        && byte.is_ascii_alphabetic()
        && name.len() < MAX_NAME
    {
        name.push(byte);
        file.consume(1);
    }
    let mut number = Vec::new();
    while let Some(byte) = peek(file)
        && (byte.is_ascii_digit() || (byte == b'-' && number.is_empty()))
        && number.len() < MAX_NAME
    {
        number.push(byte);
        file.consume(1);
    }
    if peek(file) == Some(b' ') {
        file.consume(1);
    }
    let number = std::str::from_utf8(&number).ok();
    let number = number.and_then(|number| number.parse().ok());
    Some(Word::Named(name, number))
}

fn obey(word: &Word, state: &mut State, length: &mut Length) -> Result<(), RenderError> {
    let (name, number) = match word {
        Word::Named(name, number) => (name.as_slice(), *number),
        Word::Letter => return count_letter(*state, length),
        // A group that a reader may ignore: its text is no text of pages.
        Word::Symbol(b'*') => {
            state.aside = true;
            return Ok(());
        }
        Word::Symbol(_) => return Ok(()),
    };
    match name {
        _ if state.aside => {}
        _ if ASIDES.contains(&name) => state.aside = true,
        b"deleted" | b"v" => state.hidden = number != Some(0),
        b"plain" => state.hidden = false,
        b"intbl" => state.paragraph.in_table = true,
        b"pagebb" => state.paragraph.begins_page = number != Some(0),
        b"pard" => state.paragraph = Paragraph::default(),
        b"page" if !state.paragraph.in_table && !state.hidden => length.count_break()?,
        b"par" => {
            length.count_paragraph()?;
            if state.paragraph.begins_page && !state.paragraph.in_table {
                length.count_break()?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn peek(file: &mut impl BufRead) -> Option<u8> {
    loop {
        match file.fill_buf() {
            Ok(bytes) => return bytes.first().copied(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

fn next(file: &mut impl BufRead) -> Option<u8> {
    let byte = peek(file)?;
    file.consume(1);
    Some(byte)
}

/// Skips bytes. Returns false if the file ends before.
fn skip(file: &mut impl BufRead, bytes: i64) -> bool {
    let bytes = u64::try_from(bytes).unwrap_or(0);
    let skipped = io::copy(&mut file.take(bytes), &mut io::sink());
    skipped.is_ok_and(|skipped| skipped == bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rtf(text: &str, max_pages: u32) -> Result<(), RenderError> {
        let start = r"{\rtf1\ansi{\fonttbl{\f0 Arial;}}{\stylesheet{\s1\pagebb Part;}}";
        check(format!("{start}{text}}}").as_bytes(), max_pages)
    }

    fn too_many(pages: u32, limit: u32) -> Result<(), RenderError> {
        Err(RenderError::TooManyPages { pages, limit })
    }

    #[test]
    fn page_breaks_are_pages() {
        for page in [
            r"\pard words\page ",
            r"{\pard\page}",
            r"\pard\pagebb words\par ",
        ] {
            assert_eq!(rtf(&page.repeat(3), 3), Ok(()), "{page}");
            assert_eq!(rtf(&page.repeat(4), 3), too_many(4, 3), "{page}");
        }
        for (before, after) in [
            (r"{\*\unknown ", "}"),
            (r"{\header ", "}"),
            (r"{\pict\bin5 {{{{{", "}"),
            (r"\pard\intbl ", r"\pard "),
            (r"{\v ", "}"),
            (r"\deleted ", r"\plain "),
        ] {
            let breaks = r"\page ";
            let aside = format!("{before}{}{after}{}", breaks.repeat(9), breaks.repeat(2));
            assert_eq!(rtf(&aside, 2), Ok(()), "{before}");
            let more = format!("{aside}{breaks}");
            assert_eq!(rtf(&more, 2), too_many(3, 2), "{before}");
        }
        assert_eq!(rtf(&r"\pagewsxn12240\pgnrestart ".repeat(9), 2), Ok(()));
    }

    #[test]
    fn more_letters_than_fit_are_pages() {
        let letters = r"\'e9 \{x".repeat(10_000);
        assert_eq!(rtf(&letters, 1), Ok(()));
        assert_eq!(rtf(&letters.repeat(2), 1), too_many(2, 1));
        assert_eq!(rtf(&format!(r"{{\pict {}}}", letters.repeat(9)), 1), Ok(()));
        assert_eq!(rtf(&r"\par ".repeat(8000), 1), too_many(2, 1));
    }

    #[test]
    fn invalid_files_are_left_to_libreoffice() {
        for text in [
            r"\bin9999999 x",
            r"\bin-5 x",
            r"\'",
            "}}}}}",
            &"{".repeat(2 * MAX_DEPTH),
        ] {
            assert_eq!(rtf(text, 1), Ok(()));
        }
        let name = format!(r"\{}1{}", "a".repeat(99), "2".repeat(99));
        assert_eq!(rtf(&name, 1), Ok(()));
    }
}
