//! Finds pages in the stores. Milvus names candidates; every candidate is then compared exactly.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use layra_crds::MilvusSpec;
use layra_embedding::MultiVector;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::links::Links;
use crate::assembly::Common;
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::archives::{Archives, archived};
use crate::stores::milvus::{Hit, SearchLimits, Vectors};
use crate::stores::mongo::{Documents, ShownBase, ShownFile};
use crate::stores::objects::{Objects, Partial};
use crate::stores::uses::Uses;

/// Pages whose vectors are read by one request.
const PAGES_AT_ONCE: usize = 32;
/// Such requests at the same time. Their vectors are all that a search holds in memory.
const READS: usize = 4;
/// Larger originals are not fetched for a search, in bytes.
const LARGEST_ORIGINAL: u64 = 256 << 20;

/// The pages of all knowledge bases.
pub(super) trait Library: Send + Sync {
    /// The candidates of a question, best first.
    fn rank<'a>(&'a self, request: Request<'a>) -> BoxFuture<'a, Result<Ranking, Failure>>;

    /// Those of some files that exist, by their ids.
    fn files<'a>(
        &'a self,
        ids: &'a [String],
    ) -> BoxFuture<'a, Result<HashMap<String, ShownFile>, Failure>>;

    /// Those of some pages' texts that are kept, by their `image_id`.
    fn texts<'a>(
        &'a self,
        image_ids: &'a [String],
    ) -> BoxFuture<'a, Result<HashMap<String, String>, Failure>>;

    /// The knowledge bases.
    fn knowledge_bases(&self) -> BoxFuture<'_, Result<Vec<ShownBase>, Failure>>;

    /// All vectors of a page, one after the other; empty if there are none.
    fn vectors<'a>(
        &'a self,
        knowledge_base: &'a str,
        image_id: &'a str,
    ) -> BoxFuture<'a, Result<Vec<f32>, Failure>>;

    /// Copies an original into a file.
    fn fetch<'a>(&'a self, key: &'a str, to: &'a Path) -> BoxFuture<'a, Result<(), Failure>>;

    /// The address of an object, for browsers.
    fn link<'a>(&'a self, key: &'a str) -> BoxFuture<'a, String>;
}

/// What to look for, and where.
#[derive(Clone, Debug)]
pub(super) struct Request<'a> {
    pub(super) knowledge_base: &'a str,
    /// Only pages of these files. Empty: of all.
    pub(super) files: &'a [String],
    pub(super) question: Arc<MultiVector>,
    pub(super) limits: SearchLimits,
}

/// A page and its score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Scored {
    pub(super) image_id: String,
    pub(super) file_id: String,
    /// `MaxSim`, not divided by the number of the question's vectors.
    pub(super) score: f32,
}

/// The candidates of a question in a knowledge base, best first, and how they were found.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Ranking {
    pub(super) pages: Vec<Scored>,
    /// Vectors of pages that were compared with each vector of the question.
    pub(super) vectors: usize,
    /// Time to find the candidates.
    pub(super) candidates: Duration,
    /// Time to read and compare their vectors.
    pub(super) compare: Duration,
}

/// The pages in Milvus and MongoDB.
pub(super) struct StoredPages {
    documents: Documents,
    vectors: Vectors,
    archives: Archives,
    uses: Uses,
    milvus: MilvusSpec,
    objects: Objects,
    links: Links,
}

impl StoredPages {
    /// Connects to the stores, as soon as they answer.
    pub(super) async fn connect(
        common: &Common,
        dimensions: usize,
        links: Links,
    ) -> Result<Self, Failure> {
        let documents = common.documents().await?;
        let model = common.fingerprint(dimensions).await?;
        let vectors = common.vectors(dimensions).await?;
        Ok(Self {
            vectors: vectors
                .with_rebuilds(documents.database())
                .of_model(documents.database(), model)
                .for_searches(),
            archives: common.archives(&documents)?,
            uses: Uses::new(documents.database()),
            milvus: common.settings.config.stores.milvus.clone(),
            objects: Objects::new(
                &common.settings.config.documents.object_store,
                &common.settings.secrets,
            )?,
            documents,
            links,
        })
    }

    async fn ranked(&self, request: Request<'_>) -> Result<Ranking, Failure> {
        let base = request.knowledge_base;
        let (exists, archive) = tokio::try_join!(
            self.documents.has_knowledge_base(base),
            self.archives.find(base)
        )?;
        if !exists {
            return Err(Failure::fatal(
                Stage::Mongodb,
                Reason::KnowledgeBaseNotFound,
                format!("knowledge base {base} does not exist"),
            ));
        }
        if archive.is_some_and(|archive| archive.is_away()) {
            return Err(archived(base));
        }
        let collection = self.milvus.collection_of(base);
        if !self.vectors.is_searchable(&collection).await? {
            // Nothing was stored yet.
            return Ok(Ranking::default());
        }
        if let Err(failure) = self.uses.searched(&collection).await {
            tracing::warn!(%failure, "search not noted");
        }
        let began = Instant::now();
        let rows: Vec<Vec<f32>> = request.question.rows().map(<[f32]>::to_vec).collect();
        let hits = self
            .vectors
            .candidates_of_files(&collection, request.files, &rows, request.limits)
            .await?;
        let candidates = began.elapsed();
        let ranking = self.compared(&collection, &request.question, hits).await?;
        Ok(Ranking {
            candidates,
            compare: began.elapsed().saturating_sub(candidates),
            ..ranking
        })
    }

    /// Compares all vectors of the candidates with the question. At any time a few pages are in
    /// memory.
    async fn compared(
        &self,
        collection: &str,
        question: &Arc<MultiVector>,
        hits: BTreeMap<String, Hit>,
    ) -> Result<Ranking, Failure> {
        let image_ids: Vec<String> = hits.keys().cloned().collect();
        let groups = image_ids.chunks(PAGES_AT_ONCE).map(<[String]>::to_vec);
        let groups: Vec<Vec<String>> = groups.collect();
        let groups: Vec<(Vec<(String, f32)>, usize)> = futures::stream::iter(groups)
            .map(|group| async move {
                let pages = self.vectors.vectors_of_pages(collection, &group).await?;
                let values: usize = pages.values().map(Vec::len).sum();
                let question = Arc::clone(question);
                let vectors = values / question.dimensions();
                let scores = tokio::task::spawn_blocking(move || scores(&question, pages)).await;
                let scores = scores.map_err(|error| {
                    Failure::permanent(Stage::Milvus, Reason::InvalidVectors, error)
                })?;
                Ok::<_, Failure>((scores, vectors))
            })
            .buffer_unordered(READS)
            .try_collect()
            .await?;
        let vectors = groups.iter().map(|(_, vectors)| vectors).sum();
        let mut pages: Vec<Scored> = groups
            .into_iter()
            .flat_map(|(scores, _)| scores)
            .filter_map(|(image_id, score)| {
                let file_id = hits.get(&image_id)?.file_id.clone();
                Some(Scored {
                    image_id,
                    file_id,
                    score,
                })
            })
            .collect();
        sort(&mut pages);
        Ok(Ranking {
            pages,
            vectors,
            ..Ranking::default()
        })
    }
}

impl Library for StoredPages {
    fn rank<'a>(&'a self, request: Request<'a>) -> BoxFuture<'a, Result<Ranking, Failure>> {
        self.ranked(request).boxed()
    }

    fn files<'a>(
        &'a self,
        ids: &'a [String],
    ) -> BoxFuture<'a, Result<HashMap<String, ShownFile>, Failure>> {
        self.documents.shown_files(ids).boxed()
    }

    fn texts<'a>(
        &'a self,
        image_ids: &'a [String],
    ) -> BoxFuture<'a, Result<HashMap<String, String>, Failure>> {
        self.documents.page_texts(image_ids).boxed()
    }

    fn knowledge_bases(&self) -> BoxFuture<'_, Result<Vec<ShownBase>, Failure>> {
        self.documents.shown_bases().boxed()
    }

    fn vectors<'a>(
        &'a self,
        knowledge_base: &'a str,
        image_id: &'a str,
    ) -> BoxFuture<'a, Result<Vec<f32>, Failure>> {
        async move {
            let collection = self.milvus.collection_of(knowledge_base);
            let image_ids = [image_id.to_owned()];
            let mut found = self
                .vectors
                .vectors_of_pages(&collection, &image_ids)
                .await?;
            Ok(found.remove(image_id).unwrap_or_default())
        }
        .boxed()
    }

    fn fetch<'a>(&'a self, key: &'a str, to: &'a Path) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            let mut partial = Partial::default();
            let fetched =
                self.objects
                    .download(Stage::Fetch, key, LARGEST_ORIGINAL, to, &mut partial);
            fetched.await.map(|_| ())
        }
        .boxed()
    }

    fn link<'a>(&'a self, key: &'a str) -> BoxFuture<'a, String> {
        self.links.link(key).boxed()
    }
}

/// `MaxSim` of a question with each page, in any order, on all cores.
fn scores(question: &MultiVector, pages: HashMap<String, Vec<f32>>) -> Vec<(String, f32)> {
    pages
        .into_par_iter()
        .map(|(image_id, values)| {
            let page = MultiVector::new(question.dimensions(), values);
            (image_id, question.max_sim(&page))
        })
        .collect()
}

/// Best first. Equal scores have the same order each time.
pub(super) fn sort(pages: &mut [Scored]) {
    pages.sort_by(|a, b| {
        let by_score = b.score.total_cmp(&a.score);
        by_score.then_with(|| a.image_id.cmp(&b.image_id))
    });
}
