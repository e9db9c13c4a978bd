//! How the pages of a document are rendered, and their names in the stores. No I/O.

use layra_crds::{ImageFormat, MilvusSpec, OnBadPage, RenderSpec};
use layra_rendering::{PageRequest, Resolution};

use crate::document::ids;
use crate::document::task::Task;

/// An open document that is about to be stored.
#[derive(Clone, Debug)]
pub(super) struct PagePlan<'a> {
    pub(super) task: &'a Task,
    pub(super) pages: u32,
    pub(super) collection: String,
    resolution: Resolution,
    render: &'a RenderSpec,
    pixels: bool,
}

impl<'a> PagePlan<'a> {
    pub(super) fn new(
        task: &'a Task,
        pages: u32,
        render: &'a RenderSpec,
        milvus: &MilvusSpec,
        model_pixels: Option<u32>,
    ) -> Self {
        let collection = milvus.collection_of(&task.knowledge_base);
        Self {
            task,
            pages,
            collection,
            resolution: resolution(render, pages, model_pixels),
            render,
            pixels: model_pixels.is_some(),
        }
    }

    /// Whether a page that cannot be rendered or embedded is skipped. The only page of a document is
    /// the document.
    pub(super) fn skips_bad_pages(&self) -> bool {
        skips_bad_pages(self.render, self.pages)
    }

    /// The request to render a page (0-based).
    pub(super) fn request(&self, page: u32) -> PageRequest {
        PageRequest {
            page,
            resolution: self.resolution,
            format: match self.render.image_format {
                ImageFormat::Png => layra_rendering::ImageFormat::Png,
                ImageFormat::WebP => layra_rendering::ImageFormat::WebP,
            },
            quality: self.render.quality,
            pixels: self.pixels,
        }
    }

    /// The `image_id` of a page.
    pub(super) fn image_id(&self, page: u32) -> String {
        ids::image_id(&self.task.username, &self.task.file.file_id, page)
    }

    /// The object key of a page's image.
    pub(super) fn image_key(&self, page: u32) -> String {
        image_key(self.task, page, self.render)
    }

    pub(super) fn content_type(&self) -> &'static str {
        match self.render.image_format {
            ImageFormat::Png => "image/png",
            ImageFormat::WebP => "image/webp",
        }
    }
}

/// The resolution of the pages of a document with `pages` pages, for a model that uses
/// `model_pixels` of a page, or that reads text.
pub(crate) fn resolution(render: &RenderSpec, pages: u32, model_pixels: Option<u32>) -> Resolution {
    match render.dpi_for(pages) {
        Some(dpi) => Resolution::Dpi(dpi),
        None => Resolution::Auto {
            pixels: model_pixels.unwrap_or(0),
        },
    }
}

/// Whether a bad page of a document with `pages` pages is skipped.
pub(crate) fn skips_bad_pages(render: &RenderSpec, pages: u32) -> bool {
    render.on_bad_page == OnBadPage::Skip && pages > 1
}

/// The object keys of the images of a document with `pages` pages.
pub(super) fn image_keys(
    task: &Task,
    pages: u32,
    render: &RenderSpec,
) -> impl Iterator<Item = String> {
    (0..pages).map(move |page| image_key(task, page, render))
}

fn image_key(task: &Task, page: u32, render: &RenderSpec) -> String {
    let extension = match render.image_format {
        ImageFormat::Png => "png",
        ImageFormat::WebP => "webp",
    };
    let file = &task.file;
    ids::image_key(&task.username, &file.name, &file.file_id, page, extension)
}
