//! Replaces a renderer that has grown with the pages that it has drawn: PDFium keeps what it has read
//! of a document. Without that, the last pages of a long document would find no memory left.

use super::{Document, Opened, RenderError, State, memory, process, start, unexpected};

/// Part of the memory limit, as a divisor, by which a renderer may grow after opening the document.
/// A page may take the rest.
const GROWTH: u64 = 2;

impl Document {
    /// The renderer; an error if it is gone.
    pub(super) fn open_process(&mut self) -> Result<&mut process::RenderProcess, RenderError> {
        match &mut self.state {
            State::Open(process) => Ok(process),
            State::Broken(error) => Err(error.clone()),
        }
    }

    /// Replaces the renderer if it has grown so much that the next page might find no memory.
    pub(super) async fn renew_if_grown(&mut self) -> Result<(), RenderError> {
        let limit = self.options.memory_limit_bytes / GROWTH;
        let State::Open(process) = &self.state else {
            return Ok(());
        };
        let now = process.id().and_then(memory::mapped_bytes_of);
        let grown = now.zip(process.mapped_at_opening());
        if self.drawn == 0 || grown.is_none_or(|(now, then)| now.saturating_sub(then) <= limit) {
            return Ok(());
        }
        tracing::debug!(pages = self.drawn, "renderer has grown, replacing it");
        self.renew().await
    }

    /// Opens the document in another renderer.
    pub(super) async fn renew(&mut self) -> Result<(), RenderError> {
        // The old one must be gone before the new one takes memory. If this call is cancelled, the
        // document has no renderer.
        let signal = libc::SIGKILL;
        self.state = State::Broken(RenderError::Killed { signal });
        self.drawn = 0;
        let opened = start(&self.options, &self.file, &mut String::new()).await;
        let error = match opened {
            Ok(Opened::Document(process, opened)) if opened.pages == self.pages => {
                self.charged += process.charged();
                self.state = State::Open(process);
                return Ok(());
            }
            Ok(_) => unexpected("another document than before"),
            Err(error) => error,
        };
        self.state = State::Broken(error.clone());
        Err(error)
    }
}
