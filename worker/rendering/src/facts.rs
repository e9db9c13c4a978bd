//! What is known of a page or a document beyond image and text: its size, how it was turned, and
//! what a user should know before relying on it.

use std::fmt;

use serde::{Deserialize, Serialize};
use unicode_script::Script;

/// Warnings of a page that are kept: a hostile renderer may send more.
const MAX_WARNINGS: usize = 16;

/// What is known of a page beyond image and text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PageFacts {
    /// Width and height in points (1/72 inch), as the page is seen. `None` for an image.
    pub points: Option<(f32, f32)>,
    /// How the stored page is turned to be seen upright, as EXIF numbers it: 1 for not at all, 6
    /// for a quarter clockwise, 3 for a half, 8 for a quarter counterclockwise; 2, 4, 5 and 7 are
    /// mirrored.
    pub orientation: u8,
    /// Sorted, each at most once.
    pub warnings: Vec<PageWarning>,
}

/// What a user should know about a page that counts as rendered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PageWarning {
    /// All of it has one colour, and it has no text: nothing can be found on it.
    Blank,
    /// Something is drawn, but there is no text. A model that reads text finds nothing.
    NoText,
    /// Letters of this script are not drawn: the document does not embed their font, and the
    /// worker's image has none. A model that reads images finds nothing of them.
    MissingGlyphs(String),
}

/// What a user should know about a document as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DocumentWarning {
    /// An animation, of which only the first frame becomes a page.
    FirstFrameOnly,
    /// A form whose content only Adobe's programs can show (XFA). Its pages ask for one of them.
    XfaForm,
}

impl Default for PageFacts {
    fn default() -> Self {
        Self {
            points: None,
            orientation: 1,
            warnings: Vec::new(),
        }
    }
}

impl PageFacts {
    /// The same, if it can be: the renderer may be in the hands of the document. Names of scripts
    /// end up in metrics, so unknown ones are left out.
    pub(super) fn believable(mut self) -> Option<Self> {
        let side = |points: f32| points.is_finite() && points >= 0.0;
        let (width, height) = self.points.unwrap_or_default();
        if !side(width) || !side(height) || !(1..=8).contains(&self.orientation) {
            return None;
        }
        self.warnings.retain(|warning| match warning {
            PageWarning::MissingGlyphs(script) => Script::from_full_name(script).is_some(),
            PageWarning::Blank | PageWarning::NoText => true,
        });
        without_repetition(&mut self.warnings);
        self.warnings.truncate(MAX_WARNINGS);
        Some(self)
    }
}

/// Sorts a list and removes repetitions.
pub(super) fn without_repetition<T: Ord>(list: &mut Vec<T>) {
    list.sort();
    list.dedup();
}

impl PageWarning {
    /// The kind of warning, without details.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Blank => "Blank",
            Self::NoText => "NoText",
            Self::MissingGlyphs(_) => "MissingGlyphs",
        }
    }
}

impl fmt::Display for PageWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingGlyphs(script) => write!(f, "{}: {script}", self.kind()),
            Self::Blank | Self::NoText => f.write_str(self.kind()),
        }
    }
}

impl DocumentWarning {
    /// The kind of warning.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::FirstFrameOnly => "FirstFrameOnly",
            Self::XfaForm => "XfaForm",
        }
    }
}

impl fmt::Display for DocumentWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}
