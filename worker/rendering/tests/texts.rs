//! Text files, pages of HTML, mails and books.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests are not marked as tests"
)]

mod common;

use common::documents::{Part, zip};
use common::renderer::{at, first_page, open};
use layra_rendering::{PageWarning, RenderError, RenderedPage};

async fn pages(content: &[u8]) -> Result<Vec<RenderedPage>, RenderError> {
    let mut document = open(content).await?;
    let mut pages = Vec::new();
    for page in 0..document.pages() {
        pages.push(document.render(at(page, 72)).await?);
    }
    Ok(pages)
}

fn has_ink(page: &RenderedPage) -> bool {
    let pixels = page.pixels.as_ref().unwrap();
    pixels.iter().any(|level| *level < 100)
}

#[tokio::test]
async fn a_text_becomes_pages_with_its_words() {
    let lines: Vec<String> = (1..=100)
        .map(|number| format!("{number}\tline <&> {number}"))
        .collect();
    let text = lines.join("\r\n");
    let pages = pages(text.as_bytes()).await.unwrap();
    assert_eq!(pages.len(), 2);
    assert_eq!((pages[0].width, pages[0].height), (595, 842));
    assert_eq!(pages[0].facts.points, Some((595.0, 842.0)));
    let found: Vec<&str> = pages.iter().flat_map(|page| page.text.lines()).collect();
    assert_eq!(found, lines);
    for page in &pages {
        assert!(has_ink(page));
        assert_eq!(page.facts.warnings, []);
    }
}

#[tokio::test]
async fn long_lines_are_wrapped_in_the_image_and_not_in_the_text() {
    let text = "word ".repeat(200);
    let page = first_page(text.as_bytes(), 72).await.unwrap();
    assert_eq!(page.text, text.trim_end());
    // The last of 13 lines starts at the left margin, and nothing is behind the right one.
    let pixels = page.pixels.as_ref().unwrap();
    let dark = |x: u32, y: u32| pixels[3 * (y * page.width + x) as usize] < 128;
    let row = |line: u32| (66 + 13 * line - 9)..(66 + 13 * line);
    assert!(row(12).any(|y| (57..120).any(|x| dark(x, y))));
    assert!(!(0..page.height).any(|y| (545..page.width).any(|x| dark(x, y))));
}

#[tokio::test]
async fn long_texts_have_the_limits_of_other_documents() {
    let text = "line\n".repeat(56 * 51);
    let error = open(text.as_bytes()).await.unwrap_err();
    assert_eq!(error.reason(), "TooManyPages");
    let endless = vec![b'a'; 33 << 20];
    assert_eq!(open(&endless).await.unwrap_err().reason(), "TooLarge");
}

#[tokio::test]
async fn letters_of_other_scripts_are_drawn_or_named() {
    let page = first_page("Привет, γειά σου, שלום עולם".as_bytes(), 72)
        .await
        .unwrap();
    assert!(has_ink(&page));
    assert_eq!(page.facts.warnings, []);
    // No font has these: they are not assigned to anything, or to a script that is not written.
    let page = first_page("𞤀𞤁𞤂 and words".as_bytes(), 72).await.unwrap();
    let adlam = [PageWarning::MissingGlyphs("Adlam".to_owned())];
    assert!(page.facts.warnings == adlam || page.facts.warnings.is_empty());
}

#[tokio::test]
async fn texts_that_turn_out_to_be_none_are_refused() {
    let mut content = "text ".repeat(300).into_bytes();
    content.extend((0..20_000_u32).map(|number| u8::try_from(number % 32).unwrap()));
    let error = open(&content).await.unwrap_err();
    assert_eq!(error.reason(), "Unsupported");
    assert!(error.to_string().contains("begins like a text"), "{error}");
}

/// A book of two chapters; the first one comes second in the archive.
fn book(extra: &[Part]) -> Vec<u8> {
    let package = "<package xmlns:opf='http://www.idpf.org/2007/opf'><opf:manifest>\
        <opf:item id='b' href='text/b.xhtml'/><opf:item id='a' href='text/a%20a.xhtml'/>\
        </opf:manifest><spine><itemref idref='a'/><itemref idref='b'/></spine></package>";
    let chapter = |text: &str| {
        format!("<?xml version='1.0'?><html><head><title/></head><body><p>{text}</p></body></html>")
    };
    let mut parts =
        vec![
        Part::stored("mimetype", b"application/epub+zip"),
        Part::deflated(
            "META-INF/container.xml",
            b"<container><rootfiles><rootfile full-path='OEBPS/book.opf'/></rootfiles></container>",
        ),
        Part::deflated("OEBPS/book.opf", package.as_bytes()),
        Part::deflated("OEBPS/text/b.xhtml", chapter("The end").as_bytes()),
        Part::deflated("OEBPS/text/a a.xhtml", chapter("A quiet morning").as_bytes()),
    ];
    parts.extend(extra.iter().cloned());
    zip(&parts)
}

#[tokio::test]
async fn a_book_has_its_chapters_in_order_each_on_its_own_page() {
    let found = pages(&book(&[])).await.unwrap();
    let text: Vec<&str> = found.iter().map(|page| page.text.as_str()).collect();
    assert_eq!(text, ["A quiet morning", "The end"]);
    let encrypted = b"<encryption><CipherReference URI='OEBPS/text/b.xhtml'/></encryption>";
    let protected = book(&[Part::stored("META-INF/encryption.xml", encrypted)]);
    assert_eq!(pages(&protected).await.unwrap_err().reason(), "Encrypted");
    let sound = book(&[]);
    assert_eq!(
        pages(&sound[..sound.len() / 2]).await.unwrap_err().reason(),
        "Damaged"
    );
}
