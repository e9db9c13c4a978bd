//! What the dictionaries of a PDF say and PDFium does not tell: the length of a page's unit, and
//! which layers are hidden. Runs in the renderer, after PDFium has opened the document. Nothing here
//! can refuse a document.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};

use hayro_syntax::Pdf;
use hayro_syntax::object::{Array, Dict, Name, ObjRef, String as Text};

use super::source::DocumentFile;

/// Largest file that is read as a whole, in bytes.
const MAX_BYTES: u64 = 128 << 20;
/// Bytes that are looked through at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// Units of a page are believed up to this: with the largest number of units, the page is 40 km
/// long.
const MAX_UNIT: f64 = 10_000.0;

/// What the dictionaries say.
#[derive(Debug, Default)]
pub(super) struct Structure {
    /// The length of the unit of each page in points (`UserUnit`); empty if all have the usual one.
    pub(super) units: Vec<f64>,
    /// Names of layers (optional content groups) that are hidden.
    pub(super) hidden_layers: BTreeSet<Vec<u8>>,
}

impl Structure {
    /// Reads what can be told. `pages` is the number that PDFium counts.
    pub(super) fn read(file: &DocumentFile, pages: usize) -> Self {
        if file.length() > MAX_BYTES || !may_have_any(file.starting_with(Vec::new())) {
            return Self::default();
        }
        let Some(content) = whole(file) else {
            return Self::default();
        };
        // The reader was not written for the documents that PDFium repairs: a panic is no answer.
        let read = catch_unwind(AssertUnwindSafe(|| Self::of(content, pages)));
        read.ok().flatten().unwrap_or_default()
    }

    fn of(content: Vec<u8>, pages: usize) -> Option<Self> {
        let pdf = Pdf::new(content).ok()?;
        let unit = |page: &hayro_syntax::page::Page<'_>| {
            let unit = page.raw().get::<f64>("UserUnit");
            unit.filter(|unit| (f64::MIN_POSITIVE..=MAX_UNIT).contains(unit))
        };
        let stated: Vec<Option<f64>> = pdf.pages().iter().map(unit).collect();
        // Where both count differently, the pages cannot be told apart.
        let told = stated.len() == pages && stated.iter().any(Option::is_some);
        let units = stated.into_iter().map(|unit| unit.unwrap_or(1.0));
        let catalog = pdf.xref().get::<Dict<'_>>(pdf.xref().root_id());
        let layers = catalog.and_then(|catalog| catalog.get::<Dict<'_>>("OCProperties"));
        Some(Self {
            units: units.filter(|_| told).collect(),
            hidden_layers: layers.map(|layers| hidden(&layers)).unwrap_or_default(),
        })
    }
}

/// Names of layers of which all that have the name are hidden when the document is opened.
fn hidden(layers: &Dict<'_>) -> BTreeSet<Vec<u8>> {
    let configuration = layers.get::<Dict<'_>>("D").unwrap_or_else(Dict::empty);
    let listed = |key: &str| -> Vec<ObjRef> {
        let list = configuration.get::<Array<'_>>(key);
        let entries = list.iter().flat_map(Array::raw_iter);
        entries.filter_map(|entry| entry.as_obj_ref()).collect()
    };
    let (on, off) = (listed("ON"), listed("OFF"));
    let base = configuration.get::<Name<'_>>("BaseState");
    let usually_off = base.is_some_and(|base| base.as_str() == "OFF");
    let mut visible: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
    let Some(groups) = layers.get::<Array<'_>>("OCGs") else {
        return BTreeSet::new();
    };
    for (group, entry) in groups.iter::<Dict<'_>>().zip(groups.raw_iter()) {
        let (Some(name), Some(reference)) = (group.get::<Text<'_>>("Name"), entry.as_obj_ref())
        else {
            continue;
        };
        let is_off = off.contains(&reference) || (usually_off && !on.contains(&reference));
        *visible.entry(name.as_bytes().to_vec()).or_default() |= !is_off;
    }
    let hidden = visible.into_iter().filter(|(_, visible)| !visible);
    hidden.map(|(name, _)| name).collect()
}

/// The whole content, unless that is too much.
pub(super) fn whole(file: &DocumentFile) -> Option<Vec<u8>> {
    if file.length() > MAX_BYTES {
        return None;
    }
    let (mut file, mut content) = (file.clone(), Vec::new());
    file.seek(SeekFrom::Start(0)).ok()?;
    file.read_to_end(&mut content).ok()?;
    Some(content)
}

/// Whether the file has words that matter here, or compressed parts that may have them.
fn may_have_any(mut file: DocumentFile) -> bool {
    const WORDS: [&[u8]; 3] = [b"/UserUnit", b"/OCProperties", b"/ObjStm"];
    const OVERLAP: usize = 16;
    let mut buffer = vec![0; OVERLAP + CHUNK_BYTES];
    loop {
        let Ok(read @ 1..) = file.read(&mut buffer[OVERLAP..]) else {
            return false;
        };
        let part = &buffer[..OVERLAP + read];
        let mut names = part.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        if names.any(|(place, _)| WORDS.iter().any(|word| part[place..].starts_with(word))) {
            return true;
        }
        buffer.copy_within(read..read + OVERLAP, 0);
    }
}
