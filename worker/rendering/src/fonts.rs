//! The fonts of the image, and which of them has a letter. Runs in the renderer, in which only the
//! directories of fonts can be read.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use resvg::usvg::fontdb::{Database, FaceInfo, ID, Stretch, Style, Weight};
use skrifa::{FontRef, MetadataProvider};
use unicode_script::{Script, UnicodeScript};

use super::sandbox::FONT_DIRECTORIES;

/// Families for text whose own font is not there, the best one first.
const PREFERRED: [&str; 4] = [
    "DejaVu Sans Mono",
    "DejaVu Sans",
    "Noto Sans",
    "Liberation Sans",
];
/// Letters for which all fonts are searched, for one document: each search opens all of them.
const MAX_SEARCHES: usize = 500;

/// The fonts of the image.
pub(super) struct Fonts {
    database: Arc<Database>,
    /// Upright ones, the best ones first.
    order: Vec<ID>,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    /// Places in the order, by letter.
    letters: HashMap<char, Option<usize>>,
    /// Fonts that had a letter, the last one first.
    recent: Vec<usize>,
    searches: usize,
}

impl Fonts {
    /// Loads the fonts for a text: which letters are Chinese, Japanese or Korean decides how
    /// letters look that these have in common.
    pub(super) fn load(text: &str) -> Self {
        let mut database = Database::new();
        for directory in FONT_DIRECTORIES {
            database.load_fonts_dir(directory);
        }
        let language = language(text);
        let mut faces: Vec<&FaceInfo> = database.faces().collect();
        faces.retain(|face| face.style == Style::Normal);
        faces.sort_by_cached_key(|face| rank(face, language));
        let order = faces.into_iter().map(|face| face.id).collect();
        Self {
            database: Arc::new(database),
            order,
            found: Mutex::default(),
        }
    }

    pub(super) fn database(&self) -> Arc<Database> {
        Arc::clone(&self.database)
    }

    /// The font with this place.
    pub(super) fn id(&self, place: usize) -> Option<ID> {
        self.order.get(place).copied()
    }

    /// The place of a font that has a letter.
    pub(super) fn place_of(&self, letter: char) -> Option<usize> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = found.letters.get(&letter) {
            return *place;
        }
        let place = self.search(letter, &mut found);
        found.letters.insert(letter, place);
        if let Some(place) = place {
            found.recent.retain(|other| *other != place);
            found.recent.insert(0, place);
        }
        place
    }

    /// The first font is asked first: a text should be set in one, if it can be.
    fn search(&self, letter: char, found: &mut Found) -> Option<usize> {
        let first = (!self.order.is_empty()).then_some(0);
        let mut known = first.into_iter().chain(found.recent.iter().copied());
        if let Some(place) = known.find(|place| self.has(*place, letter)) {
            return Some(place);
        }
        if found.searches == MAX_SEARCHES {
            return None;
        }
        found.searches += 1;
        (0..self.order.len()).find(|place| self.has(*place, letter))
    }

    fn has(&self, place: usize, letter: char) -> bool {
        let has = self.id(place).and_then(|id| {
            self.database.with_face_data(id, |data, index| {
                let font = FontRef::from_index(data, index).ok()?;
                font.charmap().map(letter)
            })
        });
        has.flatten().is_some_and(|glyph| glyph.to_u32() != 0)
    }

    /// Scripts of a text of which most letters are in no font.
    pub(super) fn missing_scripts(&self, text: &str) -> Vec<String> {
        let mut scripts: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
        for letter in text.chars() {
            let script = letter.script();
            if [Script::Common, Script::Inherited, Script::Unknown].contains(&script) {
                continue;
            }
            let (all, missing) = scripts.entry(script.full_name()).or_default();
            *all += 1;
            *missing += u32::from(self.place_of(letter).is_none());
        }
        let mostly = scripts
            .iter()
            .filter(|(_, (all, missing))| 2 * missing > *all);
        mostly.map(|(script, _)| (*script).to_owned()).collect()
    }
}

/// How well a font suits: smaller is better.
fn rank(face: &FaceInfo, language: &str) -> (bool, usize, u16, String) {
    let name = face.families.first().map_or("", |(name, _)| name.as_str());
    let preferred = PREFERRED.iter().position(|family| *family == name);
    let place = preferred.unwrap_or_else(|| {
        PREFERRED.len()
            + if name.ends_with(language) && name.starts_with("Noto Sans") {
                0
            } else if name.starts_with("Noto Sans") {
                1
            } else {
                2
            }
    });
    let weight = face.weight.0.abs_diff(Weight::NORMAL.0);
    (
        face.stretch != Stretch::Normal,
        place,
        weight,
        name.to_owned(),
    )
}

/// The ending of the names of Noto's fonts for the language of a text.
fn language(text: &str) -> &'static str {
    let mut language = " SC";
    for letter in text.chars().take(100_000) {
        match letter.script() {
            Script::Hiragana | Script::Katakana => return " JP",
            Script::Hangul => language = " KR",
            _ => {}
        }
    }
    language
}
