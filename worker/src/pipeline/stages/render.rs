//! The stage that draws pages, ahead of the model as far as the budget allows.

use std::ops::Range;

use bytes::Bytes;
use layra_rendering::{Document, RenderedPage};
use tokio::sync::mpsc::Sender;

use super::{DrawnPage, PageImage, Stages};
use crate::pipeline::budget::Room;
use crate::pipeline::embedder::{PageContent, PagePixels};
use crate::pipeline::render_failure;
use crate::runtime::failure::{Failure, Stage};

impl Stages<'_> {
    /// Draws page after page. A queue that nobody reads any more ends the stage: the reader knows
    /// why.
    pub(super) async fn render(
        &self,
        mut document: Document,
        pages: Range<u32>,
        drawn: Sender<DrawnPage>,
    ) -> Result<(), Failure> {
        for number in pages {
            let timer = self.pipeline.metrics.conversion_duration.start_timer();
            let page = tokio::select! {
                page = document.render(self.plan.request(number)) => page,
                () = self.cancel.cancelled() => return Err(Failure::stopped(Stage::Render)),
                () = drawn.closed() => return Ok(()),
            };
            timer.stop_and_record();
            let page = page.map_err(|error| {
                let failure = render_failure(&error);
                let message = format!("page {}: {}", number + 1, failure.message);
                Failure { message, ..failure }
            })?;
            let pixels = page.pixels.as_ref().map_or(0, Bytes::len);
            let bytes = page.encoded.len() + page.text.len() + pixels;
            let room = tokio::select! {
                room = self.pipeline.budget.room(bytes) => room,
                () = self.cancel.cancelled() => return Err(Failure::stopped(Stage::Render)),
            };
            if drawn.send(self.named(page, room)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn named(&self, page: RenderedPage, room: Room) -> DrawnPage {
        let (width, height) = (page.width, page.height);
        DrawnPage {
            content: PageContent {
                text: page.text,
                pixels: page.pixels.map(|rgb| PagePixels { width, height, rgb }),
            },
            image: PageImage {
                number: page.page,
                key: self.plan.image_key(page.page),
                bytes: page.encoded,
                _room: room,
            },
        }
    }
}
