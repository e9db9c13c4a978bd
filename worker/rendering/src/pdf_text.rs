//! The text of a PDF page: what its content draws and the values of form fields; and letters of the
//! text that were not drawn. Runs in the renderer. What is hidden is left out.

use std::collections::BTreeMap;

use pdfium_render::prelude::*;
use unicode_script::{Script, UnicodeScript};

use super::page_source::MAX_TEXT_BYTES;

/// Whether annotations of the page have words of their own: text boxes and stamps.
pub(super) fn has_worded_annotations(page: &PdfPage<'_>) -> bool {
    page.annotations().iter().any(|annotation| {
        matches!(
            annotation,
            PdfPageAnnotation::FreeText(_) | PdfPageAnnotation::Stamp(_)
        ) && is_seen(&annotation)
    })
}

/// The page's text in the order in which the document draws it, and then the values of its form
/// fields; empty if it cannot be read, because the image is still good. `content` is the text
/// without the fields, if it is known.
pub(super) fn text(page: &PdfPage<'_>, content: Option<Vec<u32>>) -> String {
    let mut text = match (content, page.text()) {
        (Some(content), _) => cleaned(content.into_iter()),
        (None, Ok(content)) => {
            let units = content.chars();
            cleaned(units.iter().map(|unit| unit.unicode_value()))
        }
        (None, Err(_)) => String::new(),
    };
    for annotation in page.annotations().iter() {
        let field = annotation.as_form_field().filter(|_| is_seen(&annotation));
        let Some(value) = field.and_then(shown_by_field) else {
            continue;
        };
        let value = cleaned(value.chars().map(u32::from));
        if value.trim().is_empty() || text.len() + value.len() + 1 > MAX_TEXT_BYTES {
            continue;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&value);
    }
    text
}

fn is_seen(annotation: &PdfPageAnnotation<'_>) -> bool {
    !annotation.is_hidden() && !annotation.is_printable_but_not_viewable()
}

fn shown_by_field(field: &PdfFormField<'_>) -> Option<String> {
    let chosen = |options: &PdfFormFieldOptions<'_>| {
        let chosen = options.iter().filter(PdfFormFieldOption::is_set);
        let labels: Vec<String> = chosen
            .filter_map(|option| option.label().cloned())
            .collect();
        (!labels.is_empty()).then(|| labels.join("\n"))
    };
    match field {
        // A password is shown as dots.
        PdfFormField::Text(field) if !field.is_password() => field.value(),
        PdfFormField::ComboBox(field) => chosen(field.options()).or_else(|| field.value()),
        PdfFormField::ListBox(field) => chosen(field.options()).or_else(|| field.value()),
        _ => None,
    }
}

/// The last Latin letter. Every image has fonts for these: pages without others take no time.
const LAST_LATIN: u32 = 0x24f;

/// Whether a text has letters that may have no font.
pub(super) fn may_lack_glyphs(text: &str) -> bool {
    text.chars().any(|letter| u32::from(letter) > LAST_LATIN)
}

/// A drawn page, to look letters up.
pub(super) struct DrawnPixels<'a> {
    pub(super) config: &'a PdfRenderConfig,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) rgb: &'a [u8],
}

/// Names of the scripts most of whose letters on the page were not drawn, because neither the
/// document nor this machine has a font for them.
pub(super) fn missing_scripts(page: &PdfPage<'_>, drawn: &DrawnPixels<'_>) -> Vec<String> {
    let Ok(text) = page.text() else {
        return Vec::new();
    };
    // Letters of a script: all of them, and those that were not drawn.
    let mut scripts: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for letter in text.chars().iter() {
        let code = letter.unicode_value();
        let Some(script) = char::from_u32(code).map(|letter| letter.script()) else {
            continue;
        };
        let unnamed = [
            Script::Common,
            Script::Inherited,
            Script::Unknown,
            Script::Latin,
        ];
        if code <= LAST_LATIN || unnamed.contains(&script) {
            continue;
        }
        let (all, missing) = scripts.entry(script.full_name()).or_default();
        *all += 1;
        *missing += u32::from(is_missing(page, &letter, drawn));
    }
    let mostly = scripts
        .iter()
        .filter(|(_, (all, missing))| 2 * missing > *all);
    mostly.map(|(script, _)| (*script).to_owned()).collect()
}

/// Whether nothing is drawn in the place of a letter that should be visible and is in a font that
/// the document does not embed.
fn is_missing(page: &PdfPage<'_>, letter: &PdfPageTextChar<'_>, drawn: &DrawnPixels<'_>) -> bool {
    let bounds = [letter.tight_bounds(), letter.loose_bounds()];
    let mut places = bounds.into_iter().flatten();
    let place = places.find_map(|bounds| place_of(page, bounds, drawn));
    let Some(Place::Plain(paper)) = place else {
        return false;
    };
    let Ok(object) = letter.text_object() else {
        return false;
    };
    let visible = object.is_visible()
        && letter.fill_color().is_ok_and(|ink| {
            let levels = [ink.red(), ink.green(), ink.blue()];
            ink.alpha() > 0
                && levels
                    .iter()
                    .zip(paper)
                    .any(|(ink, paper)| ink.abs_diff(paper) > 31)
        });
    visible && matches!(object.font().is_embedded(), Ok(false))
}

/// What is in a place of the page.
enum Place {
    /// Something is drawn.
    Drawn,
    /// Nothing but this colour.
    Plain([u8; 3]),
}

/// `None` if the place is not on the page, or has no area.
fn place_of(page: &PdfPage<'_>, bounds: PdfRect, drawn: &DrawnPixels<'_>) -> Option<Place> {
    let corner = |x, y| page.points_to_pixels(x, y, drawn.config).ok();
    let (x0, y0) = corner(bounds.left(), bounds.top())?;
    let (x1, y1) = corner(bounds.right(), bounds.bottom())?;
    let range = |one: i32, other: i32, limit: u32| {
        let limit = i32::try_from(limit).ok()?;
        let (from, to) = (one.min(other).max(0), one.max(other).min(limit));
        (from < to).then_some(usize::try_from(from).ok()?..usize::try_from(to).ok()?)
    };
    let (columns, rows) = (range(x0, x1, drawn.width)?, range(y0, y1, drawn.height)?);
    let mut pixels = rows.flat_map(|row| {
        let start = 3 * row * drawn.width as usize;
        let row = drawn
            .rgb
            .get(start + 3 * columns.start..start + 3 * columns.end);
        row.unwrap_or_default().as_chunks::<3>().0
    });
    let first = *pixels.next()?;
    Some(if pixels.all(|pixel| *pixel == first) {
        Place::Plain(first)
    } else {
        Place::Drawn
    })
}

/// Decodes UTF-16 units or code points: pairs surrogates, drops control characters, ends lines with
/// one `\n`, and joins words that were hyphenated at the end of a line.
fn cleaned(units: impl Iterator<Item = u32>) -> String {
    /// PDFium's code points for a hyphen at the end of a line.
    const LINE_END_HYPHENS: [char; 2] = ['\u{2}', '\u{fffe}'];
    let units = units.flat_map(|unit| {
        let mut pair = [0; 2];
        let code = char::from_u32(unit).map(|code| &*code.encode_utf16(&mut pair));
        match code {
            Some([one]) => [Some(*one), None],
            Some([high, low]) => [Some(*high), Some(*low)],
            _ => [u16::try_from(unit).ok(), None],
        }
    });
    let characters = char::decode_utf16(units.flatten()).map(|unit| unit.unwrap_or('\u{fffd}'));

    let mut text = String::new();
    let mut hyphenated = false;
    for character in characters {
        if text.len() + 4 > MAX_TEXT_BYTES {
            break;
        }
        match character {
            hyphen if LINE_END_HYPHENS.contains(&hyphen) => hyphenated = true,
            '\n' | '\r' if hyphenated => {}
            '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' | '\n' => {
                if !text.ends_with('\n') {
                    text.push('\n');
                }
            }
            '\t' => text.push(' '),
            control if control.is_control() => {}
            other => {
                hyphenated = false;
                text.push(other);
            }
        }
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(text: &str) -> String {
        cleaned(text.chars().map(u32::from))
    }

    #[test]
    fn lines_end_with_one_line_feed() {
        assert_eq!(clean("one\r\ntwo\r\n\r\nthree\r\n"), "one\ntwo\nthree");
    }

    #[test]
    fn hyphenated_words_are_joined() {
        assert_eq!(clean("inter\u{2}\r\nnational"), "international");
        assert_eq!(clean("inter\u{fffe}\r\nnational"), "international");
    }

    #[test]
    fn surrogate_pairs_become_one_character() {
        assert_eq!(cleaned([0xd83d, 0xde00, 0x41].into_iter()), "😀A");
        assert_eq!(cleaned([0x1f600, 0xd83d].into_iter()), "😀\u{fffd}");
    }

    #[test]
    fn control_characters_are_dropped() {
        assert_eq!(clean("a\0b\u{7}c"), "abc");
    }

    #[test]
    fn long_text_is_cut_off() {
        assert!(cleaned(std::iter::repeat_n(0x4e2d, MAX_TEXT_BYTES)).len() <= MAX_TEXT_BYTES);
    }
}
