//! The stage that renders pages, ahead of the model as far as the memory budget allows.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Instant;

use layra_rendering::{Document, RenderedPage};
use tokio::sync::mpsc::Sender;

use super::{Page, PageImage, PendingPage, Stages, Warnings};
use crate::pipeline::budget::Reservation;
use crate::pipeline::embedder::{PageContent, PagePixels};
use crate::pipeline::render_failure;
use crate::runtime::failure::{Failure, Stage};
use crate::runtime::work::{self, Wait};

impl Stages<'_> {
    /// Renders one page after the other. A finished page stays in its renderer until there is room for
    /// it here. A bad page is skipped if the renderer can go on; otherwise the stage fails at this
    /// page. The stage ends when the receiver of its queue is closed: a later stage has failed and
    /// returns the failure.
    pub(super) async fn render(
        &self,
        mut document: Document,
        pages: Range<u32>,
        rendered: Sender<Page<PendingPage>>,
    ) -> Result<(), Failure> {
        let first = pages.start;
        for number in pages {
            if let Some(skipped) = self.bad_pages.get(&number) {
                if rendered.send(Err(skipped.clone())).await.is_err() {
                    return Ok(());
                }
                continue;
            }
            tokio::select! {
                turn = self.turn(number) => turn?,
                () = self.cancel.cancelled() => return Err(Failure::stopped(Stage::Render)),
                () = rendered.closed() => return Ok(()),
            };
            let timer = self.pipeline.metrics.conversion_duration.start_timer();
            let began = Instant::now();
            let room = async |bytes| {
                timer.stop_and_record();
                work::record_time(Stage::Render, began.elapsed());
                // Until the first page has room, all room is taken by other documents.
                let _waiting = (number == first).then(|| work::wait(Wait::Others));
                self.pipeline.budget.reserve(bytes).await
            };
            let page = tokio::select! {
                page = document.render_into(self.plan.request(number), room) => page,
                () = self.cancel.cancelled() => return Err(Failure::stopped(Stage::Render)),
                () = rendered.closed() => return Ok(()),
            };
            let charged = u64::try_from(document.take_charged().as_millis()).unwrap_or(u64::MAX);
            self.cpu_ms.fetch_add(charged, Ordering::Relaxed);
            let (page, memory) = match page {
                Ok(page) => page,
                Err(error) => {
                    let failure = render_failure(&error);
                    let message = format!("page {}: {}", number + 1, failure.message);
                    let failure = Failure { message, ..failure };
                    if !document.is_open() {
                        self.pipeline.metrics.count_lost_renderer(failure.reason);
                        return Err(failure);
                    }
                    let skipped = self.skip(number, failure)?;
                    if rendered.send(Err(skipped)).await.is_err() {
                        return Ok(());
                    }
                    continue;
                }
            };
            let metrics = &self.pipeline.metrics;
            metrics.record_page(&page, document.format());
            let warnings = Warnings {
                page: page.facts.warnings.clone(),
                document: match number {
                    0 => document.warnings().to_vec(),
                    _ => Vec::new(),
                },
            };
            let page = self.with_key(page, warnings, memory);
            if rendered.send(Ok(page)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits until the page may be rendered. Where pages are worked on one by one, the ledger knows
    /// the page before that.
    async fn turn(&self, number: u32) -> Result<(), Failure> {
        if !self.page_by_page {
            return Ok(());
        }
        let mut settled = self.settled.subscribe();
        // The sender is `self`'s.
        let _ = settled.wait_for(|settled| *settled >= number).await;
        let ledger = &self.pipeline.stores.ledger;
        let record = || ledger.record_trial(self.claim, number);
        let recorded = self.pipeline.ledger(self.cancel, record).await?;
        recorded
            .map(drop)
            .ok_or_else(|| Failure::superseded(Stage::Mongodb))
    }

    fn with_key(&self, page: RenderedPage, warnings: Warnings, memory: Reservation) -> PendingPage {
        let (width, height) = (page.width, page.height);
        PendingPage {
            content: PageContent {
                text: page.text,
                pixels: page.pixels.map(|rgb| PagePixels { width, height, rgb }),
            },
            image: PageImage {
                number: page.page,
                key: self.plan.image_key(page.page),
                bytes: page.encoded,
                warnings,
                _memory: memory,
            },
        }
    }
}
