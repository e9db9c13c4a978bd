//! Fills the copy of a collection with the vectors of another model, from the page images in the
//! bucket, or for a model that reads text from the texts that are kept. How no vectors mix:
//! `docs/decisions/0041-vectors-of-two-models-never-mix.md`.

mod need;
mod settle;
mod source;
mod verdict;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use futures::{StreamExt as _, TryStreamExt as _};
use layra_crds::ReindexPhase;
use mongodb::bson::{DateTime, doc};

use super::context::Context;
use crate::runtime::failure::{Failure, Stage};
use crate::stores::collection_models::Record;
use crate::stores::ledger::after;
use crate::stores::milvus::{PageVectors, Pages};
use crate::stores::mongo::ShownFile;
use crate::stores::rebuilds::Rebuild;

pub(super) use need::difference;
pub(super) use settle::settle;
use source::Page;
pub(crate) use source::Reembedding;

/// Files that are looked up, embedded and recorded together. A kill repeats so many.
const FILES_AT_ONCE: usize = 8;
/// Pages that are opened, embedded and inserted together.
const PAGES_AT_ONCE: usize = 8;
/// While such pages are embedded, others are opened.
const BATCHES_AT_ONCE: usize = 2;
/// Comparisons with MongoDB before the swap, at most. What changes later is brought in after.
const MOST_COMPARISONS: u32 = 5;

/// The number of rows of each page, by file.
type Contents = BTreeMap<String, BTreeMap<String, u64>>;

/// Embeds every page of the collection's files into the copy, waits for the index, and compares the
/// copy with MongoDB. What was begun is continued after the last file that was recorded.
pub(super) async fn fill(
    context: &Context,
    model: &Reembedding,
    rebuild: &mut Rebuild,
) -> Result<(), Failure> {
    let (name, new) = (rebuild.collection.clone(), rebuild.new_name());
    let (vectors, progress) = (&context.vectors, &context.progress);
    enter(context, model, rebuild).await?;
    // From now on no worker begins to write into the old one.
    let models = &context.models;
    models.seal(rebuild.old_id, &name, model.own()).await?;
    if rebuild.sealed_at.is_none() {
        let fields = doc! { "sealed_at": DateTime::now() };
        context.record(rebuild, fields).await?;
    }
    // It may have been released; then nobody misses it meanwhile.
    context.load(&name).await?;
    context.load(&new).await?;
    progress.total(&name, vectors.estimated_rows(&name).await?);
    progress.phase(&name, ReindexPhase::Copying, "");
    progress.copied(&name, u64::try_from(rebuild.copied).unwrap_or_default());
    let mut target = Target {
        context,
        model,
        name: new.clone(),
        without: HashSet::new(),
    };
    let files = files_of(context, &name, &[&name]).await?;
    target.all(rebuild, &files).await?;

    wait_for_workers(context, rebuild).await?;
    progress.phase(&name, ReindexPhase::Indexing, "");
    let rows = vectors.count_all(&new).await?;
    vectors.flush(&new).await?;
    context.wait_for_index(&new, rows).await?;

    progress.phase(&name, ReindexPhase::Verifying, "");
    for _comparison in 0..MOST_COMPARISONS {
        let files = files_of(context, &name, &[&name]).await?;
        if target.mend(&files).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// Notes of which model the copy is.
pub(super) async fn enter(
    context: &Context,
    model: &Reembedding,
    rebuild: &Rebuild,
) -> Result<(), Failure> {
    if let Some(id) = rebuild.new_id {
        let record = Record::new(id, &rebuild.collection, Some(model.own()));
        context.models.enter(record).await?;
    }
    Ok(())
}

/// Waits until what workers had sent before the collection was sealed has landed or failed.
async fn wait_for_workers(context: &Context, rebuild: &Rebuild) -> Result<(), Failure> {
    let sealed_at = rebuild.sealed_at.unwrap_or_else(DateTime::now);
    let landed = after(sealed_at, context.late_writes).timestamp_millis();
    let left = landed - DateTime::now().timestamp_millis();
    match u64::try_from(left) {
        Ok(left) => context.pause(std::time::Duration::from_millis(left)).await,
        Err(_) => Ok(()),
    }
}

/// The ids of the files of a collection's knowledge base, and of those with rows in some collections.
async fn files_of(
    context: &Context,
    name: &str,
    collections: &[&str],
) -> Result<BTreeSet<String>, Failure> {
    let id = context.milvus.knowledge_base_part(name);
    let mut files = BTreeSet::new();
    for base in context.documents.knowledge_bases_like(id).await? {
        if context.milvus.collection_of(&base) == name {
            files.extend(context.documents.files_of(&base).await?);
        }
    }
    for collection in collections {
        files.extend(contents(context, collection).await?.into_keys());
    }
    Ok(files)
}

/// The rows of a collection.
async fn contents(context: &Context, name: &str) -> Result<Contents, Failure> {
    let mut contents = Contents::new();
    let pages = Pages::new(1, false);
    let mut last = 0;
    loop {
        let places = context.vectors.places_after(name, last, pages).await?;
        let Some(place) = places.last() else {
            return Ok(contents);
        };
        last = place.pk;
        for place in places {
            let file = contents.entry(place.file_id).or_default();
            *file.entry(place.image_id).or_default() += 1;
        }
        if context.stop.is_cancelled() {
            return Err(Failure::stopped(Stage::Milvus));
        }
    }
}

/// A collection that is filled with the vectors of a model.
struct Target<'a> {
    context: &'a Context,
    model: &'a Reembedding,
    name: String,
    /// The pages, by `image_id`, that have no vectors, or that cannot be embedded.
    without: HashSet<String>,
}

impl Target<'_> {
    /// Embeds the files after the last one that was recorded.
    async fn all(
        &mut self,
        rebuild: &mut Rebuild,
        files: &BTreeSet<String>,
    ) -> Result<(), Failure> {
        let last = rebuild.last_file.clone().unwrap_or_default();
        let left: Vec<&String> = files.iter().filter(|file| **file > last).collect();
        for (number, files) in left.chunks(FILES_AT_ONCE).enumerate() {
            self.context.check_time()?;
            let files: Vec<String> = files.iter().map(|file| (*file).clone()).collect();
            // What an earlier attempt has inserted of them.
            let is_begun = number == 0;
            let rows = self.embed(&files, is_begun).await?;
            let fields = doc! {
                "last_file": files.last(),
                "copied": rebuild.copied + i64::try_from(rows).unwrap_or_default(),
            };
            self.context.record(rebuild, fields).await?;
            let copied = u64::try_from(rebuild.copied).unwrap_or_default();
            self.context.progress.copied(&rebuild.collection, copied);
        }
        Ok(())
    }

    /// Embeds the files again of which the copy does not have the pages that `files` in MongoDB
    /// lists, and removes the rows of files that it does not have. Returns how many there were.
    async fn mend(&mut self, files: &BTreeSet<String>) -> Result<usize, Failure> {
        let found = contents(self.context, &self.name).await?;
        let all: BTreeSet<&String> = files.iter().chain(found.keys()).collect();
        let all: Vec<String> = all.into_iter().cloned().collect();
        let mut mended = 0;
        for ids in all.chunks(FILES_AT_ONCE) {
            self.context.check_time()?;
            let shown = self.context.documents.shown_files(ids).await?;
            let mut wrong = Vec::new();
            for id in ids {
                let rows = found.get(id);
                match shown.get(id) {
                    Some(file) if !self.is_whole(file, rows) => wrong.push(id.clone()),
                    None if rows.is_some() => {
                        self.context.vectors.delete_file(&self.name, id).await?;
                        mended += 1;
                    }
                    _ => {}
                }
            }
            if !wrong.is_empty() {
                mended += wrong.len();
                self.embed(&wrong, true).await?;
            }
        }
        if mended > 0 {
            tracing::info!(collection = self.name, files = mended, "brought up to date");
        }
        Ok(mended)
    }

    /// Whether the copy has every page of a file, and no other.
    fn is_whole(&self, file: &ShownFile, rows: Option<&BTreeMap<String, u64>>) -> bool {
        let has = |image: &String| rows.is_some_and(|rows| rows.contains_key(image));
        let mut extra = rows.into_iter().flat_map(BTreeMap::keys);
        file.pages
            .keys()
            .all(|image| has(image) || self.without.contains(image))
            && extra.all(|image| file.pages.contains_key(image))
    }

    /// Embeds files. `is_begun`: the copy may have rows of them. Returns the number of rows.
    async fn embed(&mut self, files: &[String], is_begun: bool) -> Result<u64, Failure> {
        let (context, model) = (self.context, self.model);
        if is_begun {
            for file in files {
                context.vectors.delete_file(&self.name, file).await?;
            }
        }
        let pages = pages_of(context, model, files).await?;
        let batches: Vec<Vec<Page>> = pages.chunks(PAGES_AT_ONCE).map(<[Page]>::to_vec).collect();
        let mut batches = futures::stream::iter(batches)
            .map(|pages| async move {
                let vectors = model.embed(&pages).await?;
                Ok::<_, Failure>((pages, vectors))
            })
            .buffered(BATCHES_AT_ONCE);
        let mut rows = 0;
        while let Some((pages, results)) = batches.try_next().await? {
            let mut by_file: BTreeMap<&str, Vec<PageVectors>> = BTreeMap::new();
            for (page, result) in pages.iter().zip(results) {
                match result {
                    Ok(vectors) if vectors.vectors.is_empty() => {
                        self.without.insert(page.image_id.clone());
                    }
                    Ok(vectors) => by_file.entry(&page.file_id).or_default().push(vectors),
                    Err(failure) => {
                        leave_to_a_worker(context, page, &failure).await?;
                        self.without.insert(page.image_id.clone());
                    }
                }
            }
            for (file, pages) in by_file {
                let count = pages.iter().map(|page| page.vectors.len()).sum();
                context.throttle.wait_for(count).await;
                let inserted = context.vectors.insert(&self.name, file, &pages).await?;
                context.metrics.vectors.inc_by(inserted);
                rows += inserted;
            }
        }
        Ok(rows)
    }
}

/// The pages of files that `files` in MongoDB lists, in their order.
async fn pages_of(
    context: &Context,
    model: &Reembedding,
    files: &[String],
) -> Result<Vec<Page>, Failure> {
    let mut shown = context.documents.shown_files(files).await?;
    let mut pages = Vec::new();
    for id in files {
        let Some(file) = shown.remove(id) else {
            // Deleted meanwhile.
            continue;
        };
        let of = u32::try_from(file.pages.len()).unwrap_or(u32::MAX);
        let mut listed: Vec<_> = file.pages.into_iter().collect();
        listed.sort_by_key(|(_, page)| page.number);
        let texts = if model.reads_text() {
            let images: Vec<String> = listed.iter().map(|(image, _)| image.clone()).collect();
            context.documents.page_texts(&images).await?
        } else {
            std::collections::HashMap::new()
        };
        pages.extend(listed.into_iter().map(|(image_id, page)| Page {
            file_id: id.clone(),
            number: u32::try_from(page.number - 1).unwrap_or_default(),
            key: page.key,
            of,
            text: texts.get(&image_id).cloned(),
            image_id,
        }));
    }
    Ok(pages)
}

/// A page that cannot be embedded here is embedded by a worker, which ingests its document again
/// after the swap. Fails if no worker would.
async fn leave_to_a_worker(
    context: &Context,
    page: &Page,
    failure: &Failure,
) -> Result<(), Failure> {
    let (file_id, number) = (&page.file_id, page.number + 1);
    let entry = context.ledger.find(file_id).await?;
    if entry.is_some() {
        tracing::warn!(file_id, page = number, %failure, "a worker will ingest the document again");
        return Ok(());
    }
    Err(super::failed(format!(
        "page {number} of file {file_id} cannot be embedded again: {failure}. LAYRA has ingested the \
         file itself, so no worker can: delete it, or upload it again"
    )))
}
