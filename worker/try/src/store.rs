//! What is known of the folder, in one local folder: an index (redb) with files, pages, texts and
//! page pictures, and the file of vectors.
//!
//! A page is there completely or not at all: its vectors are written first, and count from the
//! index's transaction on that has everything else of it. The process may be killed at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use half::f16;
use layra_embedding::{MultiVector, PageGrid};
use layra_rendering::Word;
use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition,
    WriteTransaction,
};
use serde::{Deserialize, Serialize};

use crate::folder::Stamp;
use crate::vectors::{Values, VectorFile};

/// A [`FileRecord`] for each file, by its path within the folder.
const FILES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("files");
/// A [`PageRecord`] for each page, by the file's id and the page, counted from 0.
const PAGES: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("pages");
/// The pages' pictures, as files.
const PICTURES: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("pictures");
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
const TEXTS: TableDefinition<'_, &str, &str> = TableDefinition::new("texts");

/// The next file's id.
const NEXT_ID: &str = "next id";
/// Number of values in the file of vectors.
const END: &str = "end of vectors";
/// Number of the file of vectors: every compaction starts a new one.
const GENERATION: &str = "generation";
/// Values that a compaction keeps in memory.
const WRITTEN_AT_ONCE: usize = 4 << 20;
/// Memory for parts of the index.
const CACHE_BYTES: usize = 64 << 20;
/// Version of the stored records.
const FORMAT: u64 = 1;

/// A file of the folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    /// A changed file gets another id.
    pub(crate) id: u64,
    /// What the file was when it was begun.
    pub(crate) stamp: Stamp,
    /// How far it is.
    pub(crate) state: State,
}

/// How far a file is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    /// Some of its pages may be there.
    Begun,
    /// All pages are there, except for some that cannot be read.
    Done {
        /// Pages of the document.
        pages: u32,
        /// Pages that cannot be read.
        skipped: u32,
    },
    /// It cannot be read.
    Failed {
        /// Why.
        reason: String,
        /// Whether the next start should try again: the document is not to blame.
        again: bool,
    },
}

/// A page, without its picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PageRecord {
    /// First value in the file of vectors.
    start: u64,
    /// Number of values.
    count: usize,
    /// Text of the page.
    pub(crate) text: String,
    /// Its words, if they are known.
    pub(crate) words: Vec<Word>,
    /// Tiles of its vectors: first vector, columns, rows.
    pub(crate) grid: Option<(u32, u32, u32)>,
    /// Width and height of its picture.
    pub(crate) size: (u32, u32),
}

/// A page to store.
pub(crate) struct NewPage {
    pub(crate) file: u64,
    /// Counted from 0.
    pub(crate) page: u32,
    pub(crate) text: String,
    pub(crate) words: Vec<Word>,
    pub(crate) picture: Vec<u8>,
    pub(crate) size: (u32, u32),
    pub(crate) grid: Option<PageGrid>,
    pub(crate) vectors: MultiVector,
}

/// A page that can be searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredPage {
    pub(crate) file: u64,
    /// Counted from 0.
    pub(crate) page: u32,
    start: u64,
    count: usize,
}

impl StoredPage {
    /// The page's vectors, one after the other.
    pub(crate) fn vectors<'a>(&self, values: &'a Values) -> &'a [f16] {
        values.get(self.start, self.count)
    }
}

/// The store. One process at a time can have it open.
pub(crate) struct Store {
    index: Database,
    vectors: VectorFile,
    catalogue: Mutex<Catalogue>,
}

/// What searches read, in memory.
#[derive(Default)]
struct Catalogue {
    files: BTreeMap<String, FileRecord>,
    /// Start and number of values of each page.
    pages: BTreeMap<(u64, u32), (u64, usize)>,
    end: u64,
}

impl Store {
    /// Opens the store in `folder`, or makes it. It holds vectors of one model only.
    pub(crate) fn open(folder: &Path, model: &str) -> Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("making the folder {}", folder.display()))?;
        let path = folder.join("index.redb");
        let index = match Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(&path)
        {
            Ok(index) => index,
            Err(DatabaseError::DatabaseAlreadyOpen) => bail!(
                "another `cargo try` has this folder open; its page can answer, or stop it first"
            ),
            Err(error) => {
                return Err(error).with_context(|| format!("opening {}", path.display()));
            }
        };
        let generation = prepare(&index, model)?;
        compact(&index, folder, generation)?;
        let catalogue = read_catalogue(&index)?;
        let generation = number(&index, GENERATION)?;
        let vectors = VectorFile::open(&vector_path(folder, generation), catalogue.end)?;
        Ok(Self {
            index,
            vectors,
            catalogue: Mutex::new(catalogue),
        })
    }

    /// All files that are known.
    pub(crate) fn files(&self) -> BTreeMap<String, FileRecord> {
        self.catalogue().files.clone()
    }

    /// The pages that can be searched, and their values.
    pub(crate) fn searchable(&self) -> (Vec<StoredPage>, Values) {
        let catalogue = self.catalogue();
        let pages = catalogue.pages.iter();
        let pages = pages.map(|(&(file, page), &(start, count))| StoredPage {
            file,
            page,
            start,
            count,
        });
        // Pages are in the catalogue after their values were mapped.
        (pages.collect(), self.vectors.values())
    }

    /// The pages of a file that are there, counted from 0.
    pub(crate) fn pages_of(&self, file: u64) -> BTreeSet<u32> {
        let catalogue = self.catalogue();
        let pages = catalogue.pages.range((file, 0)..=(file, u32::MAX));
        pages.map(|((_, page), _)| *page).collect()
    }

    /// A page; `None` if it is gone.
    pub(crate) fn page(&self, file: u64, page: u32) -> Result<Option<PageRecord>> {
        let pages = self.index.begin_read()?.open_table(PAGES)?;
        let record = pages.get((file, page))?;
        record.map(|bytes| decode(bytes.value())).transpose()
    }

    /// The picture of a page; `None` if the page is gone.
    pub(crate) fn picture(&self, file: u64, page: u32) -> Result<Option<Vec<u8>>> {
        let pictures = self.index.begin_read()?.open_table(PICTURES)?;
        Ok(pictures
            .get((file, page))?
            .map(|bytes| bytes.value().to_vec()))
    }

    /// Begins a file that is new or has changed. The pages that it had are gone afterwards.
    pub(crate) fn begin(&self, name: &str, stamp: Stamp) -> Result<FileRecord> {
        let mut catalogue = self.catalogue();
        let old = catalogue.files.get(name).map(|file| file.id);
        let change = self.index.begin_write()?;
        let id = {
            let mut numbers = change.open_table(NUMBERS)?;
            let id = numbers.get(NEXT_ID)?.map_or(1, |id| id.value());
            numbers.insert(NEXT_ID, id + 1)?;
            id
        };
        let record = FileRecord {
            id,
            stamp,
            state: State::Begun,
        };
        change.open_table(FILES)?.insert(name, &*encode(&record)?)?;
        if let Some(old) = old {
            remove_pages(&change, old)?;
        }
        change.commit()?;
        if let Some(old) = old {
            catalogue.pages.retain(|(file, _), _| *file != old);
        }
        catalogue.files.insert(name.to_owned(), record.clone());
        Ok(record)
    }

    /// Removes a file and its pages.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let mut catalogue = self.catalogue();
        let Some(id) = catalogue.files.get(name).map(|file| file.id) else {
            return Ok(());
        };
        let change = self.index.begin_write()?;
        change.open_table(FILES)?.remove(name)?;
        remove_pages(&change, id)?;
        change.commit()?;
        catalogue.files.remove(name);
        catalogue.pages.retain(|(file, _), _| *file != id);
        Ok(())
    }

    /// Stores pages, and how far their files are afterwards, all of it or nothing. What belongs to
    /// a file that has changed or gone in the meantime is left out.
    pub(crate) fn add(&self, pages: Vec<NewPage>, ended: &[(String, u64, State)]) -> Result<()> {
        let mut catalogue = self.catalogue();
        let known: BTreeSet<u64> = catalogue.files.values().map(|file| file.id).collect();
        let mut values: Vec<f16> = Vec::new();
        let mut records = Vec::new();
        for page in pages {
            let key = (page.file, page.page);
            if !known.contains(&page.file) || catalogue.pages.contains_key(&key) {
                continue;
            }
            let start = catalogue.end + values.len() as u64;
            let new = page.vectors.values();
            values.extend(new.iter().copied().map(f16::from_f32));
            let record = PageRecord {
                start,
                count: new.len(),
                text: page.text,
                words: page.words,
                grid: page.grid.map(|grid| (grid.first, grid.columns, grid.rows)),
                size: page.size,
            };
            records.push((key, record, page.picture));
        }
        let ended: Vec<(String, FileRecord)> = ended
            .iter()
            .filter_map(|(name, id, state)| {
                let record = catalogue.files.get(name).filter(|file| file.id == *id)?;
                let state = state.clone();
                Some((
                    name.clone(),
                    FileRecord {
                        state,
                        ..record.clone()
                    },
                ))
            })
            .collect();
        if !values.is_empty() {
            self.vectors.append(catalogue.end, &values)?;
        }
        let end = catalogue.end + values.len() as u64;
        let change = self.index.begin_write()?;
        {
            let mut pages = change.open_table(PAGES)?;
            let mut pictures = change.open_table(PICTURES)?;
            for (key, record, picture) in &records {
                pages.insert(*key, &*encode(record)?)?;
                pictures.insert(*key, &**picture)?;
            }
            let mut files = change.open_table(FILES)?;
            for (name, record) in &ended {
                files.insert(&**name, &*encode(record)?)?;
            }
            change.open_table(NUMBERS)?.insert(END, end)?;
        }
        change.commit()?;
        catalogue.end = end;
        let places = records.iter();
        catalogue
            .pages
            .extend(places.map(|(key, record, _)| (*key, (record.start, record.count))));
        catalogue.files.extend(ended);
        Ok(())
    }

    fn catalogue(&self) -> MutexGuard<'_, Catalogue> {
        self.catalogue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the tables, and checks that the store is of this model and version. Returns the number of
/// its file of vectors.
fn prepare(index: &Database, model: &str) -> Result<u64> {
    let change = index.begin_write()?;
    let generation = {
        change.open_table(FILES)?;
        change.open_table(PAGES)?;
        change.open_table(PICTURES)?;
        let mut numbers = change.open_table(NUMBERS)?;
        let mut texts = change.open_table(TEXTS)?;
        let format = numbers
            .get("format")?
            .map_or(FORMAT, |format| format.value());
        ensure!(
            format == FORMAT,
            "the folder with the vectors was made by another version: delete it"
        );
        numbers.insert("format", FORMAT)?;
        let of = texts.get("model")?.map(|of| of.value().to_owned());
        ensure!(
            of.as_deref().is_none_or(|of| of == model),
            "the folder with the vectors was made with another model ({}): choose another one \
             with --data, or delete it",
            of.unwrap_or_default()
        );
        texts.insert("model", model)?;
        numbers.get(GENERATION)?.map_or(0, |number| number.value())
    };
    change.commit()?;
    Ok(generation)
}

/// Rewrites the vectors without those of removed pages, if these are more than half. Other files
/// of vectors are what an interrupted compaction has left.
fn compact(index: &Database, folder: &Path, generation: u64) -> Result<()> {
    let catalogue = read_catalogue(index)?;
    let used: u64 = catalogue
        .pages
        .values()
        .map(|(_, count)| *count as u64)
        .sum();
    let mut current = generation;
    if catalogue.end > 0 && used < catalogue.end / 2 {
        current = generation + 1;
        let old = VectorFile::open(&vector_path(folder, generation), catalogue.end)?.values();
        let _ = std::fs::remove_file(vector_path(folder, current));
        let new = VectorFile::open(&vector_path(folder, current), 0)?;
        let change = index.begin_write()?;
        let mut end = 0;
        {
            let mut pages = change.open_table(PAGES)?;
            let mut unwritten = Vec::new();
            for (key, (start, count)) in &catalogue.pages {
                let bytes = pages.get(*key)?.map(|bytes| bytes.value().to_vec());
                let mut record: PageRecord = decode(&bytes.context("a page of the index")?)?;
                record.start = end + unwritten.len() as u64;
                pages.insert(*key, &*encode(&record)?)?;
                unwritten.extend_from_slice(old.get(*start, *count));
                if unwritten.len() > WRITTEN_AT_ONCE {
                    new.append(end, &unwritten)?;
                    end += unwritten.len() as u64;
                    unwritten.clear();
                }
            }
            new.append(end, &unwritten)?;
            end += unwritten.len() as u64;
            let mut numbers = change.open_table(NUMBERS)?;
            numbers.insert(END, end)?;
            numbers.insert(GENERATION, current)?;
        }
        change.commit()?;
    }
    for other in [current.wrapping_sub(1), current + 1] {
        // Usually there is none.
        let _ = std::fs::remove_file(vector_path(folder, other));
    }
    Ok(())
}

fn vector_path(folder: &Path, generation: u64) -> std::path::PathBuf {
    folder.join(format!("vectors-{generation}.f16"))
}

fn number(index: &Database, name: &str) -> Result<u64> {
    let numbers = index.begin_read()?.open_table(NUMBERS)?;
    Ok(numbers.get(name)?.map_or(0, |number| number.value()))
}

fn read_catalogue(index: &Database) -> Result<Catalogue> {
    let read = index.begin_read()?;
    let mut catalogue = Catalogue {
        end: number(index, END)?,
        ..Catalogue::default()
    };
    for entry in read.open_table(FILES)?.iter()? {
        let (name, record) = entry?;
        let record = decode(record.value())?;
        catalogue.files.insert(name.value().to_owned(), record);
    }
    for entry in read.open_table(PAGES)?.iter()? {
        let (key, record) = entry?;
        let record: PageRecord = decode(record.value())?;
        let place = (record.start, record.count);
        catalogue.pages.insert(key.value(), place);
    }
    Ok(catalogue)
}

fn remove_pages(change: &WriteTransaction, file: u64) -> Result<()> {
    let all = (file, 0)..=(file, u32::MAX);
    change
        .open_table(PAGES)?
        .retain_in(all.clone(), |_, _| false)?;
    change.open_table(PICTURES)?.retain_in(all, |_, _| false)?;
    Ok(())
}

fn encode(record: &impl Serialize) -> Result<Vec<u8>> {
    postcard::to_stdvec(record).context("a record of the index")
}

fn decode<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T> {
    postcard::from_bytes(bytes).context("a record of the index is damaged")
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
