//! The stage that renders pages, ahead of the model as far as the memory budget allows.

use std::ops::Range;

use layra_rendering::{Document, RenderedPage};
use tokio::sync::mpsc::Sender;

use super::{PageImage, PendingPage, Stages};
use crate::pipeline::budget::Reservation;
use crate::pipeline::embedder::{PageContent, PagePixels};
use crate::pipeline::render_failure;
use crate::runtime::failure::{Failure, Stage};
use crate::runtime::work::{self, Wait};

impl Stages<'_> {
    /// Renders page by page. A finished page stays in its renderer until there is room for it here.
    /// The stage ends when the receiver of its queue is closed: a later stage has failed and
    /// returns the failure.
    pub(super) async fn render(
        &self,
        mut document: Document,
        pages: Range<u32>,
        rendered: Sender<PendingPage>,
    ) -> Result<(), Failure> {
        let first = pages.start;
        for number in pages {
            let timer = self.pipeline.metrics.conversion_duration.start_timer();
            let room = async |bytes| {
                timer.stop_and_record();
                // Until the first page has room, all room is taken by other documents.
                let _waiting = (number == first).then(|| work::wait(Wait::Others));
                self.pipeline.budget.reserve(bytes).await
            };
            let page = tokio::select! {
                page = document.render_into(self.plan.request(number), room) => page,
                () = self.cancel.cancelled() => return Err(Failure::stopped(Stage::Render)),
                () = rendered.closed() => return Ok(()),
            };
            let (page, memory) = page.map_err(|error| {
                let failure = render_failure(&error);
                let message = format!("page {}: {}", number + 1, failure.message);
                Failure { message, ..failure }
            })?;
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
