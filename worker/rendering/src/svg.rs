//! Drawings in SVG, drawn by `resvg`. Runs in the renderer. Nothing is loaded: neither files nor
//! what an address names. Pictures inside of the file are drawn.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::fontdb::Database;
use resvg::usvg::{FontResolver, Group, ImageHrefResolver, Node, Options, Tree};

use super::encode::Canvas;
use super::fonts::Fonts;
use super::page_source::{Drawn, MAX_TEXT_BYTES, PageSource};
use super::source::DocumentFile;
use super::{RenderError, Resolution, geometry};

/// Largest file, in bytes.
const MAX_BYTES: u64 = 64 << 20;
/// Points of a unit of SVG: there are 96 units an inch.
const POINTS: f32 = 0.75;
/// Families for text whose own font is not there, the best one first.
const FALLBACKS: [&str; 3] = ["DejaVu Sans", "Noto Sans", "Liberation Sans"];

/// An open drawing.
pub(super) struct SvgSource {
    tree: Tree,
    text: String,
    missing_scripts: Vec<String>,
    max_pixels: u64,
}

impl SvgSource {
    pub(super) fn open(file: &Path, memory_limit_bytes: u64) -> Result<Self, RenderError> {
        let mut file = DocumentFile::open(file)?;
        let failure = file.failure();
        if file.length() > MAX_BYTES {
            return Err(RenderError::TooLarge(format!("{} bytes", file.length())));
        }
        let mut content = Vec::new();
        let read = file.read_to_end(&mut content);
        failure.check()?;
        read.map_err(|error| RenderError::Io(error.to_string()))?;
        // Reading the directories of all fonts takes time.
        let has_text = content
            .windows(5)
            .any(|part| part == b"<text" || part == b":text");
        let fonts = has_text.then(|| Fonts::load(&String::from_utf8_lossy(&content)));
        let options = Options {
            image_href_resolver: ImageHrefResolver {
                resolve_string: Box::new(|_, _| None),
                ..ImageHrefResolver::default()
            },
            font_resolver: FontResolver {
                select_fallback: Box::new(|letter, used, _| {
                    let fonts = fonts.as_ref()?;
                    let font = fonts.id(fonts.place_of(letter)?)?;
                    (!used.contains(&font)).then_some(font)
                }),
                ..FontResolver::default()
            },
            fontdb: fonts.as_ref().map_or_else(Arc::default, families_named),
            ..Options::default()
        };
        let tree = Tree::from_data(&content, &options)
            .map_err(|error| RenderError::Damaged(format!("SVG: {error}")))?;
        let mut text = String::new();
        collect_text(tree.root(), &mut text);
        let missing = fonts.as_ref().map(|fonts| fonts.missing_scripts(&text));
        Ok(Self {
            tree,
            missing_scripts: missing.unwrap_or_default(),
            text: text.trim_end().to_owned(),
            max_pixels: geometry::max_pixels(memory_limit_bytes),
        })
    }
}

impl PageSource for SvgSource {
    fn pages(&self) -> u32 {
        1
    }

    fn draw(
        &mut self,
        _page: u32,
        resolution: Resolution,
        canvas: &mut Canvas,
    ) -> Result<Drawn, RenderError> {
        let units = self.tree.size();
        let points = (POINTS * units.width(), POINTS * units.height());
        paint(&self.tree, 1.0, resolution, self.max_pixels, canvas, points)?;
        Ok(Drawn {
            text: self.text.clone(),
            points: Some(points),
            missing_scripts: self.missing_scripts.clone(),
            ..Drawn::default()
        })
    }
}

/// Draws on white, `shrunk` by a factor, on a page of this size in points.
pub(super) fn paint(
    tree: &Tree,
    shrunk: f32,
    resolution: Resolution,
    max_pixels: u64,
    canvas: &mut Canvas,
    points: (f32, f32),
) -> Result<(), RenderError> {
    let units = tree.size();
    let (wide, high) = (f64::from(points.0), f64::from(points.1));
    let dpi = geometry::dpi(resolution, wide / 72.0, high / 72.0);
    let (width, height) = geometry::page_size(wide, high, dpi, max_pixels);
    // The memory of the page before must be free.
    canvas.rgb = Vec::new();
    let mut pixels = Pixmap::new(width, height).ok_or(RenderError::OutOfMemory)?;
    pixels.fill(resvg::tiny_skia::Color::WHITE);
    let (across, down) = (width as f32 / units.width(), height as f32 / units.height());
    let scale = Transform::from_scale(shrunk * across, shrunk * down);
    resvg::render(tree, scale, &mut pixels.as_mut());
    (canvas.width, canvas.height) = (width, height);
    // On white, every pixel is opaque.
    let (drawn, _) = pixels.data().as_chunks::<4>();
    canvas.rgb.reserve_exact(3 * drawn.len());
    canvas.rgb.extend(
        drawn
            .iter()
            .flat_map(|[red, green, blue, _]| [*red, *green, *blue]),
    );
    Ok(())
}

/// The fonts, with a family for words that name none, or none that is there.
fn families_named(fonts: &Fonts) -> Arc<Database> {
    let mut database = Database::clone(&fonts.database());
    let names = || {
        database
            .faces()
            .flat_map(|face| &face.families)
            .map(|(name, _)| name)
    };
    let best = FALLBACKS
        .iter()
        .find(|family| names().any(|name| name == *family));
    let best = best.map(ToString::to_string);
    if let Some(family) = best.or_else(|| names().next().cloned()) {
        database.set_serif_family(&family);
        database.set_sans_serif_family(&family);
        database.set_monospace_family(&family);
        database.set_cursive_family(&family);
        database.set_fantasy_family(family);
    }
    Arc::new(database)
}

/// The words of a drawing, in its order, a line for each part.
fn collect_text(group: &Group, text: &mut String) {
    for node in group.children() {
        match node {
            Node::Group(group) => collect_text(group, text),
            Node::Text(found) => {
                for chunk in found.chunks() {
                    if text.len() + chunk.text().len() < MAX_TEXT_BYTES {
                        text.push_str(chunk.text());
                    }
                }
                text.push('\n');
            }
            Node::Path(_) | Node::Image(_) => {}
        }
    }
}
