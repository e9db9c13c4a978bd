//! The words of a page and where they are drawn, to show what a question found.

use pdfium_render::prelude::*;
use serde::{Deserialize, Serialize};

/// Sides of a page are divided into this many parts.
pub(super) const PARTS: u16 = 10_000;
/// Words of a page at most; the rest is left out. A dense page has a thousand.
pub(super) const MAX_WORDS: usize = 20_000;
/// Characters of a word at most. Longer ones, such as lines of Chinese, become several.
pub(super) const MAX_LETTERS: usize = 24;

/// A word and its box, in ten-thousandths of the page's width and height, from the top left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// The word, without spaces.
    pub text: String,
    /// Left edge.
    pub left: u16,
    /// Top edge.
    pub top: u16,
    /// Right edge.
    pub right: u16,
    /// Bottom edge.
    pub bottom: u16,
}

impl Word {
    /// Whether it can be a word of a page. A renderer may be in the hands of its document.
    pub(super) fn is_believable(&self) -> bool {
        self.left <= self.right
            && self.top <= self.bottom
            && self.right <= PARTS
            && self.bottom <= PARTS
            && self.text.chars().count() <= MAX_LETTERS
    }
}

/// The words of a page, in the order in which the document draws them.
pub(super) fn of_page(page: &PdfPage<'_>) -> Vec<Word> {
    let Ok(text) = page.text() else {
        return Vec::new();
    };
    let size = i32::from(PARTS);
    let config = PdfRenderConfig::new().set_fixed_size(size, size);
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    for letter in text.chars().iter() {
        let code = letter.unicode_char();
        let place = code
            .filter(|code| !code.is_whitespace() && !code.is_control())
            .and_then(|code| Some((code, place_of(page, &letter, &config)?)));
        let Some((code, place)) = place else {
            words.extend(word.take());
            continue;
        };
        if words.len() >= MAX_WORDS {
            return words;
        }
        let continues = word.as_ref().is_some_and(|word| {
            let is_same_line = place.top <= word.bottom && place.bottom >= word.top;
            is_same_line && word.text.chars().count() < MAX_LETTERS
        });
        if !continues {
            words.extend(word.take());
        }
        match &mut word {
            Some(word) => {
                word.text.push(code);
                word.left = word.left.min(place.left);
                word.top = word.top.min(place.top);
                word.right = word.right.max(place.right);
                word.bottom = word.bottom.max(place.bottom);
            }
            None => {
                word = Some(Word {
                    text: code.to_string(),
                    ..place
                });
            }
        }
    }
    words.extend(word);
    words
}

/// The box of a letter, as a word without text. `None` if it is not on the page.
fn place_of(
    page: &PdfPage<'_>,
    letter: &PdfPageTextChar<'_>,
    config: &PdfRenderConfig,
) -> Option<Word> {
    let bounds = letter
        .loose_bounds()
        .or_else(|_| letter.tight_bounds())
        .ok()?;
    let corner = |x, y| page.points_to_pixels(x, y, config).ok();
    let (x0, y0) = corner(bounds.left(), bounds.top())?;
    let (x1, y1) = corner(bounds.right(), bounds.bottom())?;
    let limit = i32::from(PARTS);
    let range = |one: i32, other: i32| {
        let (from, to) = (one.min(other).max(0), one.max(other).min(limit));
        Some((u16::try_from(from).ok()?, u16::try_from(to).ok()?)).filter(|(from, to)| from <= to)
    };
    let ((left, right), (top, bottom)) = (range(x0, x1)?, range(y0, y1)?);
    Some(Word {
        text: String::new(),
        left,
        top,
        right,
        bottom,
    })
}
