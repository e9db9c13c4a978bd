//! What the stores must hold of searchable documents, and whether their pages are found.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use layra_crds::{LoadResult, Recall};
use layra_embedding::MultiVector;

use super::Load;
use crate::commands::search::score;
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::milvus::{SearchLimits, Vectors};
use crate::stores::mongo::StoredFile;

/// Pages that are asked for.
const PAGES: usize = 50;
/// Vectors of a page that ask for it: as many as a question has.
const QUESTION: usize = 24;
/// Files that are counted at the same time.
const AT_ONCE: usize = 8;
/// Two pages whose scores differ by less are equally good: Milvus may round.
const EQUAL: f32 = 1e-4;
/// LAYRA's.
const LIMITS: SearchLimits = SearchLimits {
    ef: 100,
    candidates: 50,
};

pub(super) async fn check(load: &Load<'_>, result: &mut LoadResult) -> Result<(), Failure> {
    let (common, stores) = (load.common, &load.stores);
    let retry = common.retry();
    let collection = stores.collection_of(&load.knowledge_base);
    let ids = load.sent_documents().into_iter().map(|sent| sent.file_id);
    let ids: Vec<String> = ids.collect();
    let find = |_| stores.documents.stored_files(ids.clone());
    let files = retry.run(Stage::Mongodb, &load.stop, find).await?;
    let incomplete = incomplete(load, &collection, &ids, &files).await?;
    result.incomplete = Some(incomplete);

    let describe = |_| stores.vectors.describe(&collection);
    let described = retry.run(Stage::Milvus, &load.stop, describe).await?;
    let described = described.ok_or_else(|| {
        let message = format!("there is no collection {collection}");
        Failure::permanent(Stage::Milvus, Reason::KnowledgeBaseNotFound, message)
    })?;
    let vectors = common.vectors(described.dimensions).await?;
    let vectors = vectors.with_rebuilds(stores.documents.database());
    let pages: Vec<String> = files
        .into_iter()
        .flat_map(|(_, file)| file.pages)
        .map(|(image_id, _)| image_id)
        .collect();
    let mut recall = Recall::default();
    for image_id in spread(&pages, PAGES) {
        if load.stop.is_cancelled() {
            return Ok(());
        }
        let search = |_| is_found(&vectors, &collection, image_id);
        let found = retry.run(Stage::Milvus, &load.stop, search).await?;
        recall.pages += 1;
        recall.found += u32::from(found);
    }
    result.recall = Some(recall);
    Ok(())
}

/// Documents of which MongoDB lacks pages, or Milvus has another number of rows than the ledger.
async fn incomplete(
    load: &Load<'_>,
    collection: &str,
    ids: &[String],
    files: &[(String, StoredFile)],
) -> Result<Vec<String>, Failure> {
    let files: BTreeMap<&String, &StoredFile> = files.iter().map(|(id, file)| (id, file)).collect();
    let retry = load.common.retry();
    let found: Vec<Option<String>> = stream::iter(ids)
        .map(|id| {
            let (retry, files) = (&retry, &files);
            async move {
                let count = |_| async {
                    let entry = load.stores.ledger.find(id).await?;
                    let rows = load.stores.vectors.count_file(collection, id).await?;
                    Ok((entry, rows))
                };
                let (entry, rows) = retry.run(Stage::Milvus, &load.stop, count).await?;
                let expected = entry.as_ref().and_then(|entry| entry.vectors);
                let skipped = entry.map_or(0, |entry| {
                    entry.units.values().map(|unit| unit.skipped.len()).sum()
                });
                let pages = files.get(id).map_or(0, |file| file.pages.len());
                let what = lacking(load.args.pages as usize, skipped, pages, expected, rows);
                Ok::<_, Failure>(what.map(|what| format!("{id}: {what}")))
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    Ok(found.into_iter().flatten().collect())
}

/// What a store lacks of a document, in words.
fn lacking(
    pages: usize,
    skipped: usize,
    in_mongodb: usize,
    expected_rows: Option<u64>,
    rows: u64,
) -> Option<String> {
    if in_mongodb + skipped != pages {
        return Some(format!("MongoDB has {in_mongodb} of {pages} pages"));
    }
    match expected_rows {
        Some(expected) if expected != rows => {
            Some(format!("Milvus has {rows} rows, and the ledger {expected}"))
        }
        _ if rows == 0 && skipped < pages => Some("Milvus has no row of it".to_owned()),
        _ => None,
    }
}

/// Whether a page is the best answer to a question of its own vectors.
async fn is_found(vectors: &Vectors, collection: &str, image_id: &str) -> Result<bool, Failure> {
    let rows = vectors.page_vectors(collection, image_id).await?;
    let question: Vec<Vec<f32>> = spread(&rows, QUESTION).cloned().collect();
    let Some(dimensions) = question.first().map(Vec::len) else {
        return Ok(false);
    };
    let hits = vectors.candidates(collection, &question, LIMITS).await?;
    let question = MultiVector::new(dimensions, question.concat());
    let scored = score(vectors, collection, &question, hits).await?;
    let scored: Vec<(String, f32)> = scored
        .into_iter()
        .map(|(id, _, score)| (id, score))
        .collect();
    Ok(is_best(&scored, image_id))
}

fn is_best(scored: &[(String, f32)], image_id: &str) -> bool {
    let own = scored.iter().find(|(id, _)| id == image_id);
    let best = scored.iter().map(|(_, score)| *score).fold(0.0, f32::max);
    own.is_some_and(|(_, own)| *own >= best - EQUAL * best.abs())
}

/// At most `most` of these, evenly.
fn spread<T>(all: &[T], most: usize) -> impl Iterator<Item = &T> {
    let count = all.len().min(most);
    (0..count).map(move |number| &all[number * all.len() / count.max(1)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_found_if_none_is_better() {
        let scored = |own, other| vec![("a".to_owned(), own), ("b".to_owned(), other)];
        assert!(is_best(&scored(10.0, 9.0), "a"));
        assert!(is_best(&scored(10.0, 10.000_1), "a"));
        assert!(!is_best(&scored(9.0, 10.0), "a"));
        assert!(!is_best(&scored(9.0, 10.0), "c"));
        assert!(!is_best(&[], "a"));
    }

    #[test]
    fn a_store_that_lacks_something_is_named() {
        assert_eq!(lacking(3, 0, 3, Some(9), 9), None);
        assert_eq!(lacking(3, 1, 2, Some(6), 6), None);
        let few = lacking(3, 0, 2, Some(9), 9).unwrap();
        assert_eq!(few, "MongoDB has 2 of 3 pages");
        let rows = lacking(3, 0, 3, Some(9), 8).unwrap();
        assert_eq!(rows, "Milvus has 8 rows, and the ledger 9");
        assert!(lacking(3, 0, 3, None, 0).is_some());
    }

    #[test]
    fn a_choice_is_spread_over_all() {
        let all: Vec<u32> = (0..10).collect();
        assert_eq!(spread(&all, 3).collect::<Vec<_>>(), [&0, &3, &6]);
        assert_eq!(spread(&all, 20).count(), 10);
        assert_eq!(spread(&[0; 0], 3).count(), 0);
    }
}
