//! Answers questions: the pages that are closest to a question, compared exactly.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use layra_search::{Question, Vectors, rank};
use serde::{Deserialize, Serialize};

use crate::folder::knowledge_base;
use crate::heat::{self, HeatBox, Shown};
use crate::model::Model;
use crate::store::{PageRecord, State, Store, StoredPage};

/// Letters of a question at most.
const MAX_LETTERS: usize = 4_000;
/// Pages of an answer at most.
const MAX_TOP: usize = 50;
/// Pages that heat is computed of.
const MAX_HEAT: usize = 12;

/// A question.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SearchRequest {
    /// The question in plain words.
    pub(crate) question: String,
    /// Only pages of this knowledge base.
    #[serde(default)]
    pub(crate) knowledge_base: Option<String>,
    /// Number of pages.
    #[serde(default = "default_top")]
    pub(crate) top: usize,
    /// Whether to say what of each page the question concerns.
    #[serde(default)]
    pub(crate) heat: bool,
}

fn default_top() -> usize {
    6
}

/// The pages that answer a question.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SearchAnswer {
    /// The model's family.
    pub(crate) model: String,
    /// Pages that were compared.
    pub(crate) compared: usize,
    /// Milliseconds.
    pub(crate) took_ms: u64,
    /// Best first.
    pub(crate) pages: Vec<Answer>,
}

/// A page of an answer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Answer {
    /// `MaxSim` of question and page.
    pub(crate) score: f32,
    pub(crate) knowledge_base: String,
    /// Path within the folder.
    pub(crate) file: String,
    /// Changes when the file does.
    pub(crate) file_id: u64,
    /// Counted from 1.
    pub(crate) page: u32,
    /// Pixels of the picture.
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// Link to the picture.
    pub(crate) image: String,
    /// Link to the document, at this page.
    pub(crate) original: String,
    /// The words that are closest to the question.
    pub(crate) snippet: String,
    /// Parts of the page that the question concerns, if that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) heat: Option<Vec<HeatBox>>,
}

/// A question that cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadQuestion {
    #[error("the question is empty")]
    Empty,
    #[error("the question has more than {MAX_LETTERS} letters")]
    TooLong,
    #[error("top must be between 1 and {MAX_TOP}")]
    Top,
    #[error("there is no such knowledge base")]
    NoKnowledgeBase,
}

/// A knowledge base of the folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct KnowledgeBase {
    pub(crate) name: String,
    pub(crate) files: usize,
    /// Pages that can be searched.
    pub(crate) pages: usize,
    /// Files that cannot be read.
    pub(crate) failed: usize,
}

/// Answers questions about the store.
pub(crate) struct Searcher {
    pub(crate) store: Arc<Store>,
    pub(crate) model: Model,
    /// Name of the folder.
    pub(crate) root_name: String,
}

impl Searcher {
    /// The knowledge bases by their name.
    pub(crate) fn knowledge_bases(&self) -> Vec<KnowledgeBase> {
        let mut found: BTreeMap<String, KnowledgeBase> = BTreeMap::new();
        for (name, file) in self.store.files() {
            let base = knowledge_base(&name, &self.root_name).to_owned();
            let entry = found.entry(base.clone()).or_default();
            entry.name = base;
            entry.files += 1;
            entry.pages += self.store.pages_of(file.id).len();
            entry.failed += usize::from(matches!(file.state, State::Failed { .. }));
        }
        found.into_values().collect()
    }

    /// Checks a question.
    pub(crate) fn check(&self, request: &SearchRequest) -> Result<(), BadQuestion> {
        if request.question.trim().is_empty() {
            return Err(BadQuestion::Empty);
        }
        if request.question.chars().count() > MAX_LETTERS {
            return Err(BadQuestion::TooLong);
        }
        if !(1..=MAX_TOP).contains(&request.top) {
            return Err(BadQuestion::Top);
        }
        let known = |name: &String| self.knowledge_bases().iter().any(|base| base.name == *name);
        if !request.knowledge_base.as_ref().is_none_or(known) {
            return Err(BadQuestion::NoKnowledgeBase);
        }
        Ok(())
    }

    /// The best pages. Computes on this thread and on those of the compute pool.
    pub(crate) fn search(&self, request: &SearchRequest) -> Result<SearchAnswer> {
        let start = Instant::now();
        let embedder = &self.model.embedder;
        let question = embedder.embed_query(request.question.trim())?;
        let (mut pages, values) = self.store.searchable();
        let names: BTreeMap<u64, String> = self
            .store
            .files()
            .into_iter()
            .map(|(name, file)| (file.id, name))
            .collect();
        let is_asked = |page: &StoredPage| {
            let Some(name) = names.get(&page.file) else {
                return false;
            };
            let base = request.knowledge_base.as_deref();
            base.is_none_or(|base| base == knowledge_base(name, &self.root_name))
        };
        pages.retain(is_asked);
        let compared = Question::new(question.dimensions(), question.values());
        let vectors = |index: usize| Vectors::F16(pages[index].vectors(&values));
        let ranking = rank(&compared, &vectors, pages.len(), request.top);
        // A page may have gone since.
        let mut found: Vec<(StoredPage, PageRecord, f32)> = Vec::new();
        for scored in ranking {
            let page = pages[scored.index];
            if let Some(record) = self.store.page(page.file, page.page)? {
                found.push((page, record, scored.score));
            }
        }
        let mut shown = vec![Shown::default(); found.len()];
        if request.heat {
            let hottest = &found[..found.len().min(MAX_HEAT)];
            let records: Vec<&PageRecord> = hottest.iter().map(|(_, page, _)| page).collect();
            let heat = if embedder.page_pixels().is_none() {
                heat::of_text(&**embedder, &question, &records)?
            } else {
                let of_page = |(page, record, _): &(StoredPage, PageRecord, f32)| {
                    let vectors = Vectors::F16(page.vectors(&values));
                    heat::of_tiles(&compared, &request.question, record, vectors)
                };
                hottest.iter().map(of_page).collect()
            };
            shown[..heat.len()].clone_from_slice(&heat);
        }
        let answers = found
            .into_iter()
            .zip(shown)
            .map(|((page, record, score), shown)| {
                let name = names.get(&page.file).context("the name of a file")?;
                Ok(self.answer(name, page, &record, score, shown, request.heat))
            });
        let answers = answers.collect::<Result<Vec<Answer>>>()?;
        Ok(SearchAnswer {
            model: self.model.name.clone(),
            compared: pages.len(),
            took_ms: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
            pages: answers,
        })
    }

    fn answer(
        &self,
        name: &str,
        page: StoredPage,
        record: &PageRecord,
        score: f32,
        shown: Shown,
        heat: bool,
    ) -> Answer {
        let StoredPage { file, page, .. } = page;
        let number = page + 1;
        Answer {
            score,
            knowledge_base: knowledge_base(name, &self.root_name).to_owned(),
            file: name.to_owned(),
            file_id: file,
            page: number,
            width: record.size.0,
            height: record.size.1,
            image: format!("/v1/files/{file}/pages/{number}/image"),
            original: format!("/v1/files/{file}/original#page={number}"),
            snippet: shown.snippet,
            heat: heat.then_some(shown.heat),
        }
    }
}
