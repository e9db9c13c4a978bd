//! The stage that renders pages, ahead of the model as far as the memory budget allows.

use std::ops::Range;

use bytes::Bytes;
use layra_rendering::{Document, RenderedPage};
use tokio::sync::mpsc::Sender;

use super::{PageImage, PendingPage, Stages};
use crate::pipeline::budget::Reservation;
use crate::pipeline::embedder::{PageContent, PagePixels};
use crate::pipeline::render_failure;
use crate::runtime::failure::{Failure, Stage};

impl Stages<'_> {
    /// Renders page by page. The stage ends when the receiver of its queue is closed: a later stage
    /// has failed and returns the failure.
    pub(super) async fn render(
        &self,
        mut document: Document,
        pages: Range<u32>,
        rendered: Sender<PendingPage>,
    ) -> Result<(), Failure> {
        for number in pages {
            let timer = self.pipeline.metrics.conversion_duration.start_timer();
            let page = tokio::select! {
                page = document.render(self.plan.request(number)) => page,
                () = self.cancel.cancelled() => return Err(Failure::stopped(Stage::Render)),
                () = rendered.closed() => return Ok(()),
            };
            timer.stop_and_record();
            let page = page.map_err(|error| {
                let failure = render_failure(&error);
                let message = format!("page {}: {}", number + 1, failure.message);
                Failure { message, ..failure }
            })?;
            let pixels = page.pixels.as_ref().map_or(0, Bytes::len);
            let bytes = page.encoded.len() + page.text.len() + pixels;
            let memory = tokio::select! {
                memory = self.pipeline.budget.reserve(bytes) => memory,
                () = self.cancel.cancelled() => return Err(Failure::stopped(Stage::Render)),
            };
            if rendered.send(self.with_key(page, memory)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn with_key(&self, page: RenderedPage, memory: Reservation) -> PendingPage {
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
                _memory: memory,
            },
        }
    }
}
