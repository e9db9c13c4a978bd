//! Brings the store up to date with the folder: files that came, changed or went.
//!
//! Documents are rendered by sandboxed processes, a few at a time. Their pages go through one
//! channel to the model, and from there to the store, in batches that are committed as a whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use layra_embedding::{EmbedError, Embedder, MultiVector, PageInput, Pixels, Prepared};
use layra_rendering::{
    Document, ImageFormat, PageRequest, RENDERER_LIMIT_BYTES, RenderError, RenderOptions,
    RenderedPage, Renderer, Resolution, SOFFICE, SandboxPolicy, Word, container_limit_bytes,
    renderer_count,
};
use tokio::sync::mpsc;

use crate::folder::{self, Stamp};
use crate::progress::Progress;
use crate::store::{FileRecord, NewPage, State, Store};

/// Pages that are embedded and stored together.
const BATCH: usize = 16;
/// Quality of the pictures, 1 to 100.
const QUALITY: u8 = 80;
/// A document whose renderer ends this often is given up.
const MAX_BROKEN: u32 = 3;
const PAGE_TIMEOUT: Duration = Duration::from_mins(1);
const OFFICE_TIMEOUT: Duration = Duration::from_mins(3);
const MAX_PAGES: u32 = 10_000;

/// Everything that is needed to bring the store up to date.
pub(crate) struct Indexer {
    pub(crate) root: PathBuf,
    pub(crate) store: Arc<Store>,
    pub(crate) embedder: Arc<dyn Embedder>,
    pub(crate) renderer: Renderer,
    pub(crate) progress: Arc<Progress>,
}

/// What goes from renderers to the model.
enum Item {
    Page(Box<Unembedded>),
    End(String, u64, State),
}

/// A rendered page.
struct Unembedded {
    file: u64,
    page: RenderedPage,
    words: Vec<Word>,
    /// Bytes of the document that stand for it.
    share: u64,
}

/// Documents that are rendered at a time.
fn processes() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    renderer_count(container_limit_bytes(), cores)
}

/// A renderer with the limits of this machine.
pub(crate) fn renderer(pdfium: &Path, scratch: &Path, sandbox: SandboxPolicy) -> Result<Renderer> {
    Ok(Renderer::new(RenderOptions {
        pdfium: pdfium.to_owned(),
        program: std::env::current_exe().context("the path of this program")?,
        page_timeout: PAGE_TIMEOUT,
        memory_limit_bytes: RENDERER_LIMIT_BYTES,
        max_pages: MAX_PAGES,
        processes: processes(),
        soffice: PathBuf::from(SOFFICE),
        scratch: scratch.to_owned(),
        office_timeout: OFFICE_TIMEOUT,
        sandbox,
    }))
}

impl Indexer {
    /// Brings the store up to date once. With `settled`, files that may still be written are left
    /// for later. Returns whether anything changed.
    pub(crate) async fn pass(&self, settled: bool) -> Result<bool> {
        let root = self.root.clone();
        let found = tokio::task::spawn_blocking(move || folder::scan(&root)).await??;
        let known = self.store.files();
        for name in known.keys().filter(|name| !found.contains_key(*name)) {
            self.store.remove(name)?;
        }
        let work = self.unfinished(&found, &known, settled)?;
        if work.is_empty() {
            return Ok(known.len() != found.len());
        }
        self.progress.begin(&work);
        let (sender, receiver) = mpsc::channel(BATCH);
        let documents = async {
            let mut documents = futures::stream::iter(work)
                .map(|(name, file)| self.read(name, file, sender.clone()))
                .buffer_unordered(processes());
            while let Some(read) = documents.next().await {
                read?;
            }
            drop(documents);
            drop(sender);
            Ok::<(), anyhow::Error>(())
        };
        let result = tokio::try_join!(documents, self.embed(receiver));
        self.progress.end();
        result.map(|_| true)
    }

    /// The files to work on. New and changed ones are begun.
    fn unfinished(
        &self,
        found: &BTreeMap<String, Stamp>,
        known: &BTreeMap<String, FileRecord>,
        settled: bool,
    ) -> Result<Vec<(String, FileRecord)>> {
        let mut work = Vec::new();
        for (name, stamp) in found {
            match known.get(name) {
                Some(file) if file.stamp == *stamp => {
                    if file.state == State::Begun {
                        work.push((name.clone(), file.clone()));
                    }
                }
                _ if settled && stamp.is_fresh() => {}
                _ => work.push((name.clone(), self.store.begin(name, *stamp)?)),
            }
        }
        Ok(work)
    }

    /// Files that failed through no fault of their own are tried again.
    pub(crate) fn retry_failed(&self) -> Result<()> {
        for (name, file) in self.store.files() {
            if matches!(file.state, State::Failed { again: true, .. }) {
                self.store.begin(&name, file.stamp)?;
            }
        }
        Ok(())
    }

    /// Renders the pages of a document that are not stored, and sends them.
    async fn read(&self, name: String, file: FileRecord, sender: mpsc::Sender<Item>) -> Result<()> {
        let state = match self.read_pages(&name, &file, &sender).await {
            Ok(state) => state,
            Err(error @ (RenderError::Unavailable(_) | RenderError::SandboxUnavailable(_))) => {
                bail!("{error}")
            }
            Err(error) => State::Failed {
                reason: error.to_string(),
                again: matches!(
                    error,
                    RenderError::Io(_) | RenderError::Killed { .. } | RenderError::Stalled { .. }
                ),
            },
        };
        // If the model has failed, its error is the one to report.
        let _ = sender.send(Item::End(name, file.id, state)).await;
        Ok(())
    }

    async fn read_pages(
        &self,
        name: &str,
        file: &FileRecord,
        sender: &mpsc::Sender<Item>,
    ) -> Result<State, RenderError> {
        let path = self.root.join(name);
        let stored = self.store.pages_of(file.id);
        let mut document = self.renderer.open(&path).await?;
        let pages = document.pages();
        let share = file.stamp.size / u64::from(pages);
        self.progress.advance(share * stored.len() as u64, 0);
        let (mut skipped, mut broken) = (0, 0);
        for number in (0..pages).filter(|number| !stored.contains(number)) {
            if !document.is_open() {
                broken += 1;
                // It holds a place that another one may wait for.
                drop(document);
                document = self.renderer.open(&path).await?;
            }
            match self.render(&mut document, number).await {
                Ok((page, words)) => {
                    let file = file.id;
                    let page = Unembedded {
                        file,
                        page,
                        words,
                        share,
                    };
                    if sender.send(Item::Page(Box::new(page))).await.is_err() {
                        break;
                    }
                }
                Err(error) if broken >= MAX_BROKEN => return Err(error),
                Err(error) => {
                    tracing::warn!(file = name, page = number + 1, %error, "a page is left out");
                    skipped += 1;
                    self.progress.advance(share, 0);
                }
            }
        }
        Ok(State::Done { pages, skipped })
    }

    async fn render(
        &self,
        document: &mut Document,
        page: u32,
    ) -> Result<(RenderedPage, Vec<Word>), RenderError> {
        let pixels = self.embedder.page_pixels();
        let request = PageRequest {
            page,
            resolution: Resolution::Auto {
                pixels: pixels.unwrap_or(0),
            },
            format: ImageFormat::WebP,
            quality: QUALITY,
            pixels: pixels.is_some(),
        };
        let page = document.render(request).await?;
        // A page without the places of its words is still a page.
        let words = document.words(page.page).await.unwrap_or_default();
        Ok((page, words))
    }

    /// Embeds and stores pages as they come.
    async fn embed(&self, mut items: mpsc::Receiver<Item>) -> Result<()> {
        loop {
            let mut batch = Vec::with_capacity(BATCH);
            if items.recv_many(&mut batch, BATCH).await == 0 {
                return Ok(());
            }
            let (store, embedder) = (Arc::clone(&self.store), Arc::clone(&self.embedder));
            let work = move || store_batch(&store, &*embedder, batch);
            let (bytes, pages, files) = tokio::task::spawn_blocking(work).await??;
            self.progress.advance(bytes, pages);
            self.progress.files_done(files);
        }
    }
}

/// Embeds and stores one batch. Returns bytes, pages and files that are done.
fn store_batch(
    store: &Store,
    embedder: &dyn Embedder,
    batch: Vec<Item>,
) -> Result<(u64, u32, u32)> {
    let (mut pages, mut ended) = (Vec::new(), Vec::new());
    for item in batch {
        match item {
            Item::Page(page) => pages.push(page),
            Item::End(name, id, state) => ended.push((name, id, state)),
        }
    }
    let bytes = pages.iter().map(|page| page.share).sum();
    // A page that the model cannot use, such as a picture of one line of pixels, is left out.
    let prepared = pages.into_iter().filter_map(|page| {
        let prepared = prepare(embedder, &page);
        let prepared = prepared.inspect_err(|error| tracing::warn!(%error, "a page is left out"));
        Some((page, prepared.ok()?))
    });
    let (pages, prepared): (Vec<_>, Vec<_>) = prepared.unzip();
    let vectors = embed(embedder, &prepared)?;
    let count = u32::try_from(pages.len()).unwrap_or(u32::MAX);
    let new = pages.into_iter().zip(&prepared).zip(vectors);
    let new = new.map(|((page, prepared), vectors)| {
        let Unembedded {
            file, page, words, ..
        } = *page;
        NewPage {
            file,
            page: page.page,
            picture: page.encoded.to_vec(),
            size: (page.width, page.height),
            text: page.text,
            words,
            grid: embedder.grid(prepared),
            vectors,
        }
    });
    store.add(new.collect(), &ended)?;
    Ok((bytes, count, u32::try_from(ended.len()).unwrap_or(u32::MAX)))
}

fn prepare(embedder: &dyn Embedder, page: &Unembedded) -> Result<Prepared, EmbedError> {
    let page = &page.page;
    let pixels = page.pixels.as_deref().map(|rgb| Pixels {
        width: page.width,
        height: page.height,
        rgb,
    });
    let input = PageInput {
        text: &page.text,
        pixels,
    };
    embedder.prepare(&input)
}

/// The vectors of each page, in order.
fn embed(embedder: &dyn Embedder, pages: &[Prepared]) -> Result<Vec<MultiVector>> {
    let mut vectors = Vec::with_capacity(pages.len());
    let mut rest: Vec<&Prepared> = pages.iter().collect();
    while !rest.is_empty() {
        let tokens = rest.iter().map(|page| page.tokens);
        let size = layra_embedding::batch_size(tokens, embedder.batch_tokens());
        let batch: Vec<&Prepared> = rest.drain(..size).collect();
        let found = embedder.forward(embedder.upload(&batch)?)?;
        vectors.extend(found.into_iter().map(|page| embedder.finish(page)));
    }
    Ok(vectors)
}
