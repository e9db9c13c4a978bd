//! Text files: told from other files by their content, and decoded: UTF-8, UTF-16, and the older
//! encodings of the world (Latin-1, GBK, Shift-JIS, ...). Runs in the renderer.

use std::borrow::Cow;
use std::io::Read;
use std::path::Path;

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_16BE, UTF_16LE};

use super::RenderError;
use super::source::DocumentFile;
use super::{text_html, text_mail};

/// Largest file, in bytes: more than the pages of any pipeline.
const MAX_BYTES: u64 = 32 << 20;
/// One of this many characters may be none of text: damaged text is still text.
const MAX_JUNK_SHARE: usize = 100;
/// Bytes from which the encoding is told.
const SAMPLE_BYTES: usize = 1 << 20;
/// Beginning of a file in which it may name its encoding.
const DECLARATION_BYTES: usize = 1024;

/// What is written in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextKind {
    /// Text that is shown as it is: notes, Markdown, CSV, XML, source code.
    Plain,
    /// A page of HTML, whose text is shown.
    Html,
    /// A mail.
    Mail,
}

impl TextKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "txt",
            Self::Html => "html",
            Self::Mail => "eml",
        }
    }
}

/// The kind of text that a file starts with; `None` if it is no text.
pub(super) fn sniff(start: &[u8]) -> Option<TextKind> {
    let text = decode(start);
    if is_junk(&text) || (text.contains('\0') && marked(start).is_none()) {
        return None;
    }
    Some(if text_html::is_html(&text) {
        TextKind::Html
    } else if text_mail::is_mail(&text) {
        TextKind::Mail
    } else {
        TextKind::Plain
    })
}

/// The text of a file, cleaned: lines end with `\n`, pages with `\u{c}`, and of other control
/// characters only tabs are left.
pub(super) fn read(file: &Path, kind: TextKind) -> Result<String, RenderError> {
    let mut file = DocumentFile::open(file)?;
    let failure = file.failure();
    if file.length() > MAX_BYTES {
        let what = format!(
            "{} bytes of text, of which at most {} MiB are read",
            file.length(),
            MAX_BYTES >> 20
        );
        return Err(RenderError::TooLarge(what));
    }
    let mut content = Vec::new();
    let read = file.read_to_end(&mut content);
    failure.check()?;
    read.map_err(|error| RenderError::Io(error.to_string()))?;
    let text = match kind {
        TextKind::Mail => text_mail::text(&content)?,
        TextKind::Plain => decode(&content).into_owned(),
        TextKind::Html => text_html::text(&decode(&content)),
    };
    drop(content);
    if is_junk(&text) {
        let what = "it begins like a text, but most of it is none";
        return Err(RenderError::Unsupported(what.to_owned()));
    }
    Ok(cleaned(&text))
}

/// The text of these bytes. Whatever is no text becomes U+FFFD.
pub(super) fn decode(content: &[u8]) -> Cow<'_, str> {
    if let Some(encoding) = marked(content) {
        return encoding.decode(content).0;
    }
    if let Ok(text) = str::from_utf8(content) {
        return text.into();
    }
    let text = String::from_utf8_lossy(content);
    let (bad, good) = text.chars().filter(|letter| !letter.is_ascii()).fold(
        (0_usize, 0_usize),
        |(bad, good), letter| match letter {
            '\u{fffd}' => (bad + 1, good),
            _ => (bad, good + 1),
        },
    );
    // Damaged UTF-8, or its beginning, cut in the middle of a letter.
    if good > 8 * bad {
        return text;
    }
    let encoding = declared(content).unwrap_or_else(|| {
        let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
        detector.feed(&content[..content.len().min(SAMPLE_BYTES)], true);
        detector.guess(None, Utf8Detection::Allow)
    });
    encoding.decode_without_bom_handling(content).0
}

/// The encoding that a byte order mark names, or UTF-16 without one: Latin letters have a zero in
/// every other byte.
fn marked(content: &[u8]) -> Option<&'static Encoding> {
    if let Some((encoding, _)) = Encoding::for_bom(content) {
        return Some(encoding);
    }
    let sample = &content[..content.len().min(DECLARATION_BYTES)];
    let (pairs, _) = sample.as_chunks::<2>();
    let zeros = |place: usize| pairs.iter().filter(|pair| pair[place] == 0).count();
    match (zeros(0), zeros(1)) {
        (0, low) if 2 * low > pairs.len() => Some(UTF_16LE),
        (high, 0) if 2 * high > pairs.len() => Some(UTF_16BE),
        _ => None,
    }
}

/// The encoding that HTML or XML names for itself.
fn declared(content: &[u8]) -> Option<&'static Encoding> {
    let start = &content[..content.len().min(DECLARATION_BYTES)];
    let start = start.trim_ascii_start();
    if !start.starts_with(b"<") {
        return None;
    }
    let names = [b"charset=".as_slice(), b"encoding="];
    let label = names.iter().find_map(|name| {
        let place = start.windows(name.len()).position(|part| part == *name)?;
        let label = &start[place + name.len()..];
        let label = label.strip_prefix(b"\"").or(label.strip_prefix(b"'"));
        let label = label.unwrap_or(&start[place + name.len()..]);
        label
            .split(|byte| !byte.is_ascii_alphanumeric() && !b"-_:.".contains(byte))
            .next()
    })?;
    Encoding::for_label(label)
}

/// Whether more than a small share of the characters is none of text.
fn is_junk(text: &str) -> bool {
    let junk = |letter: &char| match letter {
        '\t' | '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{8}' | '\u{1b}' | '\u{1a}' | '\u{85}' => false,
        '\u{fffd}' => true,
        letter => letter.is_control(),
    };
    let count = text.chars().filter(junk).count();
    count * MAX_JUNK_SHARE > text.chars().count()
}

/// Line ends become `\n`. Terminal sequences, letters that are overstruck and other control
/// characters are left out.
pub(super) fn cleaned(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\r' => {
                letters.next_if_eq(&'\n');
                clean.push('\n');
            }
            '\n' | '\u{b}' | '\u{85}' | '\u{2028}' | '\u{2029}' => clean.push('\n'),
            '\t' | '\u{c}' => clean.push(letter),
            // As in manual pages: a letter, backspace, the same letter again.
            '\u{8}' => {
                clean.pop();
            }
            '\u{1b}' => {
                if letters.next_if_eq(&'[').is_some() {
                    while letters
                        .next_if(|letter| !('\u{40}'..='\u{7e}').contains(letter))
                        .is_some()
                    {}
                    letters.next();
                }
            }
            left_out if left_out == '\u{feff}' || left_out.is_control() => {}
            other => clean.push(other),
        }
    }
    clean.truncate(clean.trim_end().len());
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, mark: bool, big_endian: bool) -> Vec<u8> {
        let units = mark
            .then_some(0xfeff)
            .into_iter()
            .chain(text.encode_utf16());
        units
            .flat_map(|unit| {
                if big_endian {
                    unit.to_be_bytes()
                } else {
                    unit.to_le_bytes()
                }
            })
            .collect()
    }

    #[test]
    fn encodings_are_told_from_content() {
        let text = "Grüße aus Köln, die Straße ist gesperrt";
        let latin: Vec<u8> = text
            .chars()
            .map(|letter| u8::try_from(letter).unwrap())
            .collect();
        let cases = [
            text.as_bytes().to_vec(),
            [b"\xef\xbb\xbf", text.as_bytes()].concat(),
            utf16(text, true, false),
            utf16(text, true, true),
            utf16(text, false, false),
            utf16(text, false, true),
            latin,
        ];
        for content in cases {
            assert_eq!(sniff(&content), Some(TextKind::Plain), "{content:?}");
            assert_eq!(cleaned(&decode(&content)), text, "{content:?}");
        }
        for (encoding, text) in [
            (
                encoding_rs::GBK,
                "年度财务报告：今年的收入比去年增加了百分之二十",
            ),
            (
                encoding_rs::SHIFT_JIS,
                "月次の会議資料をお送りします。ご確認ください",
            ),
            (
                encoding_rs::WINDOWS_1251,
                "Договор заканчивается в марте следующего года",
            ),
        ] {
            let content = encoding.encode(text).0;
            assert_eq!(decode(&content), text);
        }
    }

    #[test]
    fn a_page_may_name_its_encoding() {
        let content = b"<meta charset='iso-8859-2'><p>\xb3\xf3d\xbc".as_slice();
        assert!(decode(content).ends_with("łódź"));
        let content = b"<?xml version='1.0' encoding=\"ISO-8859-15\"?><price>5 \xa4</price>";
        assert!(decode(content).contains("5 €"));
    }

    #[test]
    fn what_is_no_text_is_told_from_text() {
        let noise: Vec<u8> = (0..=255).cycle().take(1000).collect();
        for content in [
            &[0, 1, 2, 250],
            [7; 512].as_slice(),
            &noise,
            b"text\0\0\0\0text",
        ] {
            assert_eq!(sniff(content), None, "{content:?}");
        }
        let cut = &"财务报告".repeat(100).into_bytes()[..1024];
        assert_eq!(sniff(cut), Some(TextKind::Plain));
        assert_eq!(sniff(b"BMW and others"), Some(TextKind::Plain));
    }

    #[test]
    fn only_lines_pages_and_tabs_are_left_of_control_characters() {
        assert_eq!(
            cleaned("a\r\nb\rc\td\u{c}\u{1b}[1;31mred\u{1b}[0m B\u{8}Bo\u{8}old\0\u{1a}\n\n"),
            "a\nb\nc\td\u{c}red Bold"
        );
    }
}
