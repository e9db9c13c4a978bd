//! A search: from a question to pages that MongoDB has.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::{StreamExt, TryStreamExt};
use layra_embedding::MultiVector;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use super::access::Grant;
use super::cache;
use super::heat::{self, HeatBox};
use super::layra::CHARACTERS;
use super::library::{Ranking, Request, Scored};
use super::model::Model;
use super::refusal::Refusal;
use super::service::Service;
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::milvus::SearchLimits;
use crate::stores::mongo::ShownFile;

/// Candidates that an HNSW index examines for each vector of the question.
const EF: u32 = 100;
/// Default of `candidates` for a text, as in LAYRA.
const CANDIDATES: u32 = 50;
/// The same for an image, which has hundreds of vectors.
const CANDIDATES_OF_IMAGE: u32 = 10;
/// Largest value of `candidates`.
const MOST_CANDIDATES: u32 = 500;
/// Largest value of `top`.
const MOST_PAGES: usize = 100;
/// Knowledge bases of a search.
const BASES: usize = 32;
/// Those that are searched at the same time.
const BASES_AT_ONCE: usize = 4;
/// Files of the filter.
const FILES: usize = 1_000;

/// A search. It has a `question` or an `image`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Search {
    /// The question, of at most 8,000 characters.
    #[serde(default)]
    question: Option<String>,
    /// An image in base64 instead of a question, for models that read images.
    #[serde(default)]
    image: Option<String>,
    /// Ids of the knowledge bases to search, at most 32.
    knowledge_bases: Vec<String>,
    /// Only pages of the files with these ids, at most 1,000. Without any: of all files.
    #[serde(default)]
    files: Vec<String>,
    /// Number of pages, 1 to 100.
    #[serde(default = "default_top")]
    top: usize,
    /// Only pages with at least this score.
    #[serde(default)]
    threshold: Option<f32>,
    /// Nearest vectors that Milvus returns for each vector of the question, 1 to 500. Their pages
    /// are then compared exactly. Default: 50, for an image 10.
    #[serde(default)]
    candidates: Option<u32>,
    /// Whether to return times and counts of the stages.
    #[serde(default)]
    explain: bool,
    /// Whether to return what of the best 12 pages the question concerns.
    #[serde(default)]
    heat: bool,
}

fn default_top() -> usize {
    10
}

/// The pages that answer a question, best first.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Answer {
    pages: Vec<FoundPage>,
    /// How the pages were found, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    explain: Option<Explain>,
}

/// A page that answers a question.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct FoundPage {
    pub(super) knowledge_base: String,
    file_id: String,
    /// The name of the file.
    file: String,
    /// The page, from 1.
    pub(super) page: i64,
    pub(super) image_id: String,
    /// `MaxSim` of question and page: the sum of the best product of each vector of the question.
    score: f32,
    /// Address of the page's image. It is valid for an hour, unless the server says otherwise.
    image_url: String,
    /// Address of the original, valid for the same time.
    file_url: String,
    /// The words of the page that are closest to the question, if its text is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    snippet: Option<String>,
    /// Parts of the page that the question concerns, if it was asked for and can be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) heat: Option<Vec<HeatBox>>,
    /// The key of the original.
    #[serde(skip)]
    pub(super) file_key: String,
}

/// Times and counts of the stages.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(super) struct Explain {
    total_ms: f64,
    /// Time to embed the question. 0 if everything was in the cache.
    embed_ms: f64,
    /// Vectors of the question. 0 if everything was in the cache.
    question_vectors: usize,
    knowledge_bases: Vec<ExplainBase>,
    /// Time to check the pages against MongoDB.
    check_ms: f64,
    /// Time to read the texts of the pages and to find the snippets.
    snippet_ms: f64,
    /// Time to find what of the pages the question concerns. 0 if it was not asked for.
    heat_ms: f64,
    /// Pages that were left out because MongoDB does not have them.
    left_out: usize,
}

/// The stages in one knowledge base.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(super) struct ExplainBase {
    knowledge_base: String,
    /// Whether the ranking came from the cache, which has the best 200 pages.
    cached: bool,
    candidate_pages: usize,
    /// Vectors of pages that were compared with each vector of the question.
    compared_vectors: usize,
    candidates_ms: f64,
    compare_ms: f64,
}

/// What is looked for.
enum Question {
    Text(String),
    Image(Vec<u8>),
}

impl Question {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Image(bytes) => bytes,
        }
    }

    fn kind(&self) -> &'static [u8] {
        match self {
            Self::Text(_) => b"text",
            Self::Image(_) => b"image",
        }
    }
}

/// A search with valid values.
struct Valid {
    question: Question,
    knowledge_bases: Vec<String>,
    files: Vec<String>,
    top: usize,
    threshold: f32,
    limits: SearchLimits,
    explain: bool,
    heat: bool,
}

impl Search {
    fn validated(self, grant: &Grant) -> Result<Valid, Refusal> {
        let question = match (self.question, self.image) {
            (Some(text), None) if text.trim().is_empty() => {
                return Err(Refusal::field("question", "it is empty"));
            }
            (Some(text), None) if text.chars().nth(CHARACTERS).is_some() => {
                let detail = format!("it has more than {CHARACTERS} characters");
                return Err(Refusal::field("question", detail));
            }
            (Some(text), None) => Question::Text(text),
            (None, Some(image)) => match BASE64_STANDARD.decode(image.trim()) {
                Ok(bytes) if !bytes.is_empty() => Question::Image(bytes),
                _ => return Err(Refusal::field("image", "it is empty or not base64")),
            },
            _ => {
                let detail = "either a question or an image is needed";
                return Err(Refusal::field("question", detail));
            }
        };
        let within = |name: &str, count: usize, most: usize| {
            if (1..=most).contains(&count) {
                return Ok(());
            }
            Err(Refusal::field(name, format!("1 to {most} are possible")))
        };
        within("knowledge_bases", self.knowledge_bases.len(), BASES)?;
        within("top", self.top, MOST_PAGES)?;
        if self.files.len() > FILES {
            let detail = format!("at most {FILES} are possible");
            return Err(Refusal::field("files", detail));
        }
        let default = match question {
            Question::Text(_) => CANDIDATES,
            Question::Image(_) => CANDIDATES_OF_IMAGE,
        };
        let candidates = self.candidates.unwrap_or(default);
        if !(1..=MOST_CANDIDATES).contains(&candidates) {
            let detail = format!("1 to {MOST_CANDIDATES} are possible");
            return Err(Refusal::field("candidates", detail));
        }
        // The same answer as for one that does not exist.
        if !self.knowledge_bases.iter().all(|base| grant.covers(base)) {
            return Err(Refusal::knowledge_base_not_found());
        }
        let different = |texts: Vec<String>| -> Vec<String> {
            let different: BTreeSet<String> = texts.into_iter().collect();
            different.into_iter().collect()
        };
        Ok(Valid {
            question,
            knowledge_bases: different(self.knowledge_bases),
            files: different(self.files),
            top: self.top,
            threshold: self.threshold.unwrap_or(f32::NEG_INFINITY),
            limits: SearchLimits {
                ef: EF.max(candidates),
                candidates,
            },
            explain: self.explain,
            heat: self.heat,
        })
    }
}

/// Runs a search.
pub(super) async fn search(
    service: &Service,
    grant: &Grant,
    search: Search,
) -> Result<Answer, Refusal> {
    let began = Instant::now();
    let valid = search.validated(grant)?;
    let model = service.model()?;
    let embedded = OnceCell::new();
    let embed = Embed {
        service,
        model,
        question: &valid.question,
        embedded: &embedded,
    };
    let (embed, valid) = (&embed, &valid);
    let bases = valid.knowledge_bases.as_slice();
    let rankings: Vec<(bool, Ranking)> = futures::stream::iter(0..bases.len())
        .map(|base| ranked(embed, valid, &bases[base]))
        .buffered(BASES_AT_ONCE)
        .try_collect()
        .await?;
    let mut explain = Explain::default();
    if let Some((question, took)) = embedded.get() {
        explain.embed_ms = milliseconds(*took);
        explain.question_vectors = question.len();
    }
    let mut pages = Vec::new();
    for ((cached, ranking), base) in rankings.into_iter().zip(bases) {
        explain.knowledge_bases.push(ExplainBase {
            knowledge_base: base.clone(),
            cached,
            candidate_pages: ranking.pages.len(),
            compared_vectors: ranking.vectors,
            candidates_ms: milliseconds(ranking.candidates),
            compare_ms: milliseconds(ranking.compare),
        });
        let good = ranking.pages.into_iter();
        let good = good.filter(|page| page.score >= valid.threshold);
        pages.extend(good.map(|page| (base.as_str(), page)));
    }
    pages.sort_by(|(_, a), (_, b)| {
        let by_score = b.score.total_cmp(&a.score);
        by_score.then_with(|| a.image_id.cmp(&b.image_id))
    });
    let checking = Instant::now();
    let (mut pages, left_out) = checked(service, pages, valid.top).await?;
    service.measured.stage("check", checking.elapsed());
    explain.check_ms = milliseconds(checking.elapsed());
    let reading = Instant::now();
    add_snippets(service, &valid.question, &mut pages).await?;
    service.measured.stage("snippet", reading.elapsed());
    explain.snippet_ms = milliseconds(reading.elapsed());
    if valid.heat && !pages.is_empty() {
        let began = Instant::now();
        heat::add(service, model, &embed.vectors().await?, &mut pages).await;
        service.measured.stage("heat", began.elapsed());
        explain.heat_ms = milliseconds(began.elapsed());
    }
    explain.left_out = left_out;
    explain.total_ms = milliseconds(began.elapsed());
    Ok(Answer {
        pages,
        explain: valid.explain.then_some(explain),
    })
}

/// Embeds the question once, when a knowledge base needs it.
struct Embed<'a> {
    service: &'a Service,
    model: &'a Model,
    question: &'a Question,
    embedded: &'a OnceCell<(Arc<MultiVector>, Duration)>,
}

impl Embed<'_> {
    async fn vectors(&self) -> Result<Arc<MultiVector>, Refusal> {
        let embed = || async {
            let began = Instant::now();
            let vectors = match self.question {
                Question::Text(text) => self.model.questions(std::slice::from_ref(text)).await,
                Question::Image(bytes) => self.image(bytes).await.map(|vectors| vec![vectors]),
            };
            let mut vectors = vectors.map_err(|failure| self.service.refuse(failure))?;
            self.service.measured.stage("embed", began.elapsed());
            let vectors = vectors.pop().ok_or_else(Refusal::loading)?;
            Ok::<_, Refusal>((Arc::new(vectors), began.elapsed()))
        };
        let (vectors, _) = self.embedded.get_or_try_init(embed).await?;
        Ok(Arc::clone(vectors))
    }

    async fn image(&self, bytes: &[u8]) -> Result<MultiVector, Failure> {
        let file = self.model.new_file()?.into_temp_path();
        tokio::fs::write(&file, bytes)
            .await
            .map_err(|error| Failure::transient(Stage::Fetch, Reason::CacheUnwritable, error))?;
        self.model.image(&file).await
    }
}

/// The ranking of a knowledge base, and whether it was in the cache.
async fn ranked(embed: &Embed<'_>, valid: &Valid, base: &str) -> Result<(bool, Ranking), Refusal> {
    let service = embed.service;
    let candidates = valid.limits.candidates.to_le_bytes();
    let parts = [
        embed.model.key.as_bytes(),
        base.as_bytes(),
        valid.question.kind(),
        valid.question.bytes(),
        candidates.as_slice(),
    ];
    let files = valid.files.iter().map(String::as_bytes);
    let key = cache::key(parts.into_iter().chain(files));
    let known = service.cache.get(&key).await;
    service.measured.looked_up(known.is_some());
    if let Some(pages) = known {
        let ranking = Ranking {
            pages,
            ..Ranking::default()
        };
        return Ok((true, ranking));
    }
    let library = service.library()?;
    let request = Request {
        knowledge_base: base,
        files: &valid.files,
        question: embed.vectors().await?,
        limits: valid.limits,
    };
    let ranking = library.rank(request).await;
    let ranking = ranking.map_err(|failure| service.refuse(failure))?;
    service.measured.stages(&[
        ("candidates", ranking.candidates),
        ("compare", ranking.compare),
    ]);
    service.cache.put(key, &ranking.pages).await;
    Ok((false, ranking))
}

/// The first `top` pages that MongoDB has in the same knowledge base, and the number of those before
/// them that it does not have. LAYRA changes collections unseen, and `-` and `_` are the same in
/// their names.
async fn checked(
    service: &Service,
    ranked: Vec<(&str, Scored)>,
    top: usize,
) -> Result<(Vec<FoundPage>, usize), Refusal> {
    let library = service.library()?;
    let mut files: HashMap<String, ShownFile> = HashMap::new();
    let (mut pages, mut left_out) = (Vec::new(), 0);
    for group in ranked.chunks(top) {
        let ids: BTreeSet<&String> = group.iter().map(|(_, page)| &page.file_id).collect();
        let unknown = ids.into_iter().filter(|id| !files.contains_key(*id));
        let unknown: Vec<String> = unknown.cloned().collect();
        if !unknown.is_empty() {
            let found = library.files(&unknown).await;
            files.extend(found.map_err(|failure| service.refuse(failure))?);
        }
        for (base, scored) in group {
            let file = files.get(&scored.file_id);
            let file = file.filter(|file| file.knowledge_base == *base);
            let shown = file.and_then(|file| Some((file, file.pages.get(&scored.image_id)?)));
            let Some((file, page)) = shown else {
                left_out += 1;
                continue;
            };
            pages.push(FoundPage {
                knowledge_base: (*base).to_owned(),
                file_id: scored.file_id.clone(),
                file: file.name.clone(),
                page: page.number,
                image_id: scored.image_id.clone(),
                score: scored.score,
                image_url: library.link(&page.key).await,
                file_url: library.link(&file.key).await,
                snippet: None,
                heat: None,
                file_key: file.key.clone(),
            });
            if pages.len() == top {
                return Ok((pages, left_out));
            }
        }
    }
    Ok((pages, left_out))
}

/// Adds the words that are closest to the question to those pages whose text is kept.
async fn add_snippets(
    service: &Service,
    question: &Question,
    pages: &mut [FoundPage],
) -> Result<(), Refusal> {
    let image_ids: Vec<String> = pages.iter().map(|page| page.image_id.clone()).collect();
    if image_ids.is_empty() {
        return Ok(());
    }
    let texts = service.library()?.texts(&image_ids).await;
    let texts = texts.map_err(|failure| service.refuse(failure))?;
    if texts.is_empty() {
        return Ok(());
    }
    // An image has no words: the page is shown from its beginning.
    let question = match question {
        Question::Text(text) => text.clone(),
        Question::Image(_) => String::new(),
    };
    let find = move || -> HashMap<String, String> {
        let snippets = texts.into_iter();
        snippets
            .map(|(image_id, text)| (image_id, layra_search::snippet(&text, &question)))
            .collect()
    };
    let Ok(mut snippets) = tokio::task::spawn_blocking(find).await else {
        tracing::error!("no snippets: the search for them has panicked");
        return Ok(());
    };
    for page in pages {
        page.snippet = snippets.remove(&page.image_id);
    }
    Ok(())
}

fn milliseconds(duration: Duration) -> f64 {
    // Microseconds are precise enough.
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
