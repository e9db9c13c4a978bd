//! What of a page a question concerns: the original is fetched, and opened in the sandbox. A text
//! model's sentences lie where their words are drawn; a visual model's vectors belong to tiles.
//!
//! A page of which this cannot be said is shown without it: it never fails a search.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use layra_embedding::MultiVector;
use layra_search::{Question, Vectors};
use layra_try::heat;
use schemars::JsonSchema;
use serde::Serialize;

use super::model::Model;
use super::search::FoundPage;
use super::service::Service;
use crate::runtime::failure::Failure;

/// Best pages that get it.
const PAGES: usize = 12;
/// Originals that are fetched and opened at the same time.
const FILES_AT_ONCE: usize = 2;
/// Longest time for all pages together.
const LONGEST: Duration = Duration::from_secs(15);

/// A part of a page, in fractions of its width and height, from the top left.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub(super) struct HeatBox {
    left: f32,
    top: f32,
    width: f32,
    height: f32,
    /// 0 to 1: how much the question concerns it, compared with the rest of the page.
    weight: f32,
}

impl From<heat::HeatBox> for HeatBox {
    fn from(part: heat::HeatBox) -> Self {
        Self {
            left: part.left,
            top: part.top,
            width: part.width,
            height: part.height,
            weight: part.weight,
        }
    }
}

/// A page that gets it.
struct Wanted {
    /// Its place in the answer.
    place: usize,
    /// The page, from 0.
    page: u32,
    knowledge_base: String,
    image_id: String,
}

/// Adds it to the best pages.
pub(super) async fn add(
    service: &Service,
    model: &Model,
    question: &Arc<MultiVector>,
    pages: &mut [FoundPage],
) {
    let mut files: BTreeMap<&str, Vec<Wanted>> = BTreeMap::new();
    for (place, found) in pages.iter().take(PAGES).enumerate() {
        let Some(page) = u32::try_from(found.page - 1).ok() else {
            continue;
        };
        files.entry(&found.file_key).or_default().push(Wanted {
            place,
            page,
            knowledge_base: found.knowledge_base.clone(),
            image_id: found.image_id.clone(),
        });
    }
    let files = files
        .into_iter()
        .map(|(key, pages)| (key.to_owned(), pages));
    let files: Vec<(String, Vec<Wanted>)> = files.collect();
    let files = files.as_slice();
    let mut found = futures::stream::iter(0..files.len())
        .map(|file| of_file(service, model, question, &files[file]))
        .buffer_unordered(FILES_AT_ONCE);
    let all = async {
        let _entered = service.enter_heat().await;
        while let Some(of_file) = found.next().await {
            for (place, heat) in of_file {
                pages[place].heat = Some(heat);
            }
        }
    };
    if tokio::time::timeout(LONGEST, all).await.is_err() {
        tracing::warn!("pages are shown without heat: it takes too long");
    }
}

type Heats = Vec<(usize, Vec<HeatBox>)>;

/// What is known of the pages of a file, by their places.
async fn of_file(
    service: &Service,
    model: &Model,
    question: &Arc<MultiVector>,
    (key, pages): &(String, Vec<Wanted>),
) -> Heats {
    let mut heats = Heats::new();
    let read = of_pages(service, model, question, key, pages, &mut heats);
    if let Err(failure) = read.await {
        // Its message may quote the document.
        tracing::warn!(reason = %failure.reason, "pages are shown without heat");
    }
    heats
}

async fn of_pages(
    service: &Service,
    model: &Model,
    question: &Arc<MultiVector>,
    key: &str,
    pages: &[Wanted],
    heats: &mut Heats,
) -> Result<(), Failure> {
    let Ok(library) = service.library() else {
        return Ok(());
    };
    let file = model.new_file()?.into_temp_path();
    library.fetch(key, &file).await?;
    let mut document = model.open(&file).await?;
    for wanted in pages {
        let found = if model.reads_images() {
            let Some(grid) = model.grid(&mut document, wanted.page).await? else {
                return Ok(());
            };
            let vectors = library.vectors(&wanted.knowledge_base, &wanted.image_id);
            let vectors = vectors.await?;
            let question = Arc::clone(question);
            let compare = move || {
                let question = Question::new(question.dimensions(), question.values());
                heat::of_vectors(&question.heat(Vectors::F32(&vectors)), grid)
            };
            tokio::task::spawn_blocking(compare).await
        } else {
            let words = model.words(&mut document, wanted.page).await?;
            let sentences = heat::sentences(&words);
            let texts: Vec<String> = sentences.iter().map(|words| heat::text(words)).collect();
            let vectors = model.texts(texts).await?;
            let scores: Vec<f32> = vectors.iter().map(|it| question.max_sim(it)).collect();
            Ok(heat::of_sentences(&sentences, &scores))
        };
        if let Ok(found) = found {
            let found = found.into_iter().map(HeatBox::from).collect();
            heats.push((wanted.place, found));
        }
    }
    Ok(())
}
