//! The `search` command: finds the pages that answer a question.
//!
//! Milvus returns candidates. Their score is exact: `MaxSim` over all vectors of a candidate page.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;

use futures::{StreamExt, TryStreamExt};
use layra_embedding::MultiVector;
use serde::Serialize;

use crate::assembly::Common;
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::archives::archived;
use crate::stores::milvus::{Hit, SearchLimits, Vectors};
use crate::stores::mongo::Documents;
use crate::stores::uses::Uses;

/// Pages whose vectors are read concurrently.
const CONCURRENCY: usize = 8;

/// A page that answers the question.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Answer {
    pub(crate) file: String,
    pub(crate) file_id: String,
    /// The page, from 1.
    pub(crate) page: i64,
    /// `MaxSim` of question and page, not divided by the number of the question's vectors.
    pub(crate) score: f32,
}

/// The `top` pages of a knowledge base for a question, best first.
pub(crate) async fn search(
    common: &Common,
    question: &str,
    knowledge_base: &str,
    top: usize,
    limits: SearchLimits,
) -> Result<Vec<Answer>, Failure> {
    let documents = common.documents().await?;
    let embedder = common.embedder().await?;
    let vectors = common.vectors(embedder.dimensions()).await?;
    let database = documents.database();
    let model = common.fingerprint(embedder.dimensions()).await?;
    let vectors = vectors.with_rebuilds(database).of_model(database, model);
    let milvus = &common.settings.config.stores.milvus;
    let collection = milvus.collection_of(knowledge_base);
    let archive = common.archives(&documents)?.find(knowledge_base).await?;
    if archive.is_some_and(|archive| archive.is_away()) {
        return Err(archived(knowledge_base));
    }
    if !vectors.is_searchable(&collection).await? {
        let message = format!("knowledge base {knowledge_base} has no collection {collection}");
        return Err(Failure::fatal(
            Stage::Milvus,
            Reason::KnowledgeBaseNotFound,
            message,
        ));
    }
    // It may have been released.
    vectors.load(&collection).await?;
    let uses = Uses::new(documents.database());
    if let Err(failure) = uses.searched(&collection).await {
        tracing::warn!(%failure, "search not noted");
    }
    let question = embedder.embed_question(question).await?;
    let rows: Vec<Vec<f32>> = question.rows().map(<[f32]>::to_vec).collect();
    let hits = vectors.candidates(&collection, &rows, limits).await?;
    let scored = score(&vectors, &collection, &question, hits).await?;
    answers(&documents, scored, top).await
}

/// `MaxSim` of the question with each of these pages, in any order.
pub(super) async fn score(
    vectors: &Vectors,
    collection: &str,
    question: &MultiVector,
    hits: BTreeMap<String, Hit>,
) -> Result<Vec<(String, Hit, f32)>, Failure> {
    futures::stream::iter(hits)
        .map(|(image_id, hit)| async move {
            let rows = vectors.page_vectors(collection, &image_id).await?;
            let page = MultiVector::new(question.dimensions(), rows.concat());
            let score = question.max_sim(&page);
            Ok((image_id, hit, score))
        })
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await
}

/// Sorts by score. Pages that MongoDB does not have (yet) are left out, as LAYRA does.
async fn answers(
    documents: &Documents,
    mut scored: Vec<(String, Hit, f32)>,
    top: usize,
) -> Result<Vec<Answer>, Failure> {
    scored.sort_by(|(a_id, _, a), (b_id, _, b)| b.total_cmp(a).then_with(|| a_id.cmp(b_id)));
    let mut file_ids: Vec<String> = scored
        .iter()
        .map(|(_, hit, _)| hit.file_id.clone())
        .collect();
    file_ids.sort();
    file_ids.dedup();
    let files: HashMap<_, _> = documents
        .stored_files(file_ids)
        .await?
        .into_iter()
        .collect();
    Ok(scored
        .into_iter()
        .filter_map(|(image_id, hit, score)| {
            let file = files.get(&hit.file_id)?;
            file.pages
                .iter()
                .any(|(known, _)| *known == image_id)
                .then(|| Answer {
                    file: file.name.clone(),
                    file_id: hit.file_id,
                    page: hit.page + 1,
                    score,
                })
        })
        .take(top)
        .collect())
}

/// Writes answers as a table for people.
pub(crate) fn write_table(answers: &[Answer], out: &mut impl Write) -> std::io::Result<()> {
    let width = answers
        .iter()
        .map(|answer| answer.file.chars().count())
        .max()
        .unwrap_or(0)
        .max(4);
    writeln!(
        out,
        "{:>7}  {:>5}  {:width$}  FILE ID",
        "SCORE", "PAGE", "FILE"
    )?;
    for Answer {
        file,
        file_id,
        page,
        score,
    } in answers
    {
        writeln!(out, "{score:>7.3}  {page:>5}  {file:width$}  {file_id}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_of_the_table_are_aligned() {
        let answer = |file: &str, page, score| Answer {
            file: file.into(),
            file_id: "u_1".into(),
            page,
            score,
        };
        let answers = [answer("policy.pdf", 12, 0.71), answer("faq.pdf", 3, 0.5)];
        let mut table = Vec::new();
        write_table(&answers, &mut table).unwrap();
        assert_eq!(
            String::from_utf8(table).unwrap(),
            "  SCORE   PAGE  FILE        FILE ID\n  \
             0.710     12  policy.pdf  u_1\n  \
             0.500      3  faq.pdf     u_1\n"
        );
    }
}
