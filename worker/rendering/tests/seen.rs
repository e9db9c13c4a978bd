//! The text of a page is what is seen of it, and what is not seen is reported.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests are not marked as tests"
)]

mod common;

use common::documents::{Page, objects_pdf, pdf};
use common::renderer::{at, first_page, open};
use layra_rendering::{DocumentWarning, PageWarning};

const FONT: &str = "/Type /Font /Subtype /Type1 /BaseFont /Helvetica";

fn stream(dictionary: &str, content: &str) -> String {
    let length = content.len();
    format!("<< {dictionary} /Length {length} >>\nstream\n{content}\nendstream")
}

/// A page with the word `Page` and these annotations, the first of which is object 6.
fn annotated(annotations: &[&str], form: &str) -> Vec<u8> {
    let references: Vec<String> = (0..annotations.len())
        .map(|index| format!("{} 0 R", 6 + index))
        .collect();
    let references = references.join(" ");
    let mut objects = vec![
        format!(
            "<< /Type /Catalog /Pages 2 0 R /AcroForm << /Fields [{references}] \
             /DA (/F1 12 Tf 0 g) /DR << /Font << /F1 << {FONT} >> >> >> {form} >> >>"
        ),
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_owned(),
        format!(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 300] /Contents 4 0 R \
             /Resources << /Font << /F1 << {FONT} >> >> >> /Annots [{references}] >>"
        ),
        stream("", "BT /F1 12 Tf 20 280 Td (Page) Tj ET"),
        stream(
            &format!(
                "/Type /XObject /Subtype /Form /BBox [0 0 100 20] \
                 /Resources << /Font << /F1 << {FONT} >> >> >>"
            ),
            "BT /F1 12 Tf 5 5 Td (Appearance) Tj ET",
        ),
    ];
    objects.extend(annotations.iter().map(|&annotation| annotation.to_owned()));
    objects_pdf(&objects)
}

async fn text_of(annotations: &[&str], form: &str) -> String {
    let file = annotated(annotations, form);
    let mut document = open(&file).await.unwrap();
    let page = document.render(at(0, 72)).await.unwrap();
    let again = document.render(at(0, 72)).await.unwrap();
    assert_eq!(page, again, "a page is the same each time");
    page.text
}

const APPEARANCE: &str = "/AP << /N 5 0 R >>";
const FIELD: &str = "/Type /Annot /Subtype /Widget /F 4 /Rect [20 100 120 120] /P 3 0 R";

#[tokio::test]
async fn values_of_form_fields_are_text() {
    let text = format!("<< {FIELD} /FT /Tx /T (a) /V (Invoice 4711) /DA (/F1 12 Tf 0 g) >>");
    let with_appearance = format!(
        "<< {FIELD} /FT /Tx /T (b) /V (Invoice 4712) /DA (/F1 12 Tf 0 g) /AP << /N 5 0 R >> >>"
    );
    let choice = format!(
        "<< {FIELD} /FT /Ch /Ff 131072 /T (c) /Opt [[(n) (North)] [(s) (South)]] /V (s) \
         /DA (/F1 12 Tf 0 g) >>"
    );
    let password = format!("<< {FIELD} /FT /Tx /Ff 8192 /T (d) /V (secret) /DA (/F1 12 Tf 0 g) >>");
    let hidden = format!("<< {FIELD} /FT /Tx /T (e) /V (unseen) /DA (/F1 12 Tf 0 g) >>")
        .replace("/F 4", "/F 2");
    let fields = [&*text, &with_appearance, &choice, &password, &hidden];
    for form in ["", "/NeedAppearances true"] {
        let text = text_of(&fields, form).await;
        assert_eq!(text, "Page\nInvoice 4711\nInvoice 4712\nSouth", "{form}");
    }
}

#[tokio::test]
async fn annotations_are_text_if_they_are_seen_on_the_page() {
    let annotation = |kind: &str, flags: u32, more: &str| {
        format!(
            "<< /Type /Annot /Subtype /{kind} /F {flags} /Rect [20 200 120 220] \
             /Contents (words of {kind}) {more} >>"
        )
    };
    for kind in ["Stamp", "FreeText"] {
        for (flags, is_seen) in [(4, true), (0, true), (2, false), (32, false)] {
            let text = text_of(&[&annotation(kind, flags, APPEARANCE)], "").await;
            assert_eq!(
                text.contains("Appearance"),
                is_seen,
                "{kind} {flags}: {text}"
            );
            assert!(text.starts_with("Page"), "{text}");
        }
    }
    // A note is opened by a click, and a marking has no words of its own.
    for kind in ["Text", "Highlight"] {
        assert_eq!(text_of(&[&annotation(kind, 4, "")], "").await, "Page");
    }
}

/// A document whose second layer is hidden. Words are drawn on each, by themselves and in a form.
fn layered(configuration: &str) -> Vec<u8> {
    let form = format!(
        "/Type /XObject /Subtype /Form /BBox [0 0 300 300] \
         /Resources << /Font << /F1 << {FONT} >> >> >>"
    );
    objects_pdf(&[
        format!(
            "<< /Type /Catalog /Pages 2 0 R /OCProperties << /OCGs [6 0 R 7 0 R] \
             /D << {configuration} >> >> >>"
        ),
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_owned(),
        format!(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 300] /Contents 4 0 R /Resources << \
             /Font << /F1 << {FONT} >> >> /XObject << /X 5 0 R >> \
             /Properties << /A 6 0 R /B 7 0 R >> >> >>"
        ),
        stream(
            "",
            "/OC /A BDC BT /F1 12 Tf 20 280 Td (English) Tj ET EMC \
             /OC /B BDC BT /F1 12 Tf 20 280 Td (Deutsch) Tj ET /X Do EMC \
             BT /F1 12 Tf 20 200 Td (Both) Tj ET",
        ),
        stream(&form, "BT /F1 12 Tf 20 240 Td (Formular) Tj ET"),
        "<< /Type /OCG /Name (English words) >>".to_owned(),
        "<< /Type /OCG /Name (German words) >>".to_owned(),
    ])
}

#[tokio::test]
async fn words_on_hidden_layers_are_no_text() {
    for (configuration, expected) in [
        ("/OFF [7 0 R]", "English\nBoth"),
        ("/BaseState /OFF /ON [6 0 R]", "English\nBoth"),
        ("/BaseState /OFF", "Both"),
    ] {
        let page = first_page(&layered(configuration), 72).await.unwrap();
        assert_eq!(page.text, expected, "{configuration}");
    }
    let page = first_page(&layered("/ON [6 0 R 7 0 R]"), 72).await.unwrap();
    for word in ["English", "Deutsch", "Formular", "Both"] {
        assert!(page.text.contains(word), "{word}: {}", page.text);
    }
}

#[tokio::test]
async fn pages_without_text_and_blank_pages_are_reported() {
    let mut drawing = Page::of_size(100.0, 100.0);
    "0 g 10 10 20 20 re f".clone_into(&mut drawing.content);
    let mut coloured = Page::of_size(100.0, 100.0);
    "0 0 1 rg 0 0 100 100 re f".clone_into(&mut coloured.content);
    let pages = [
        Page::with_text(&["Words"]),
        drawing,
        Page::of_size(100.0, 100.0),
        coloured,
        Page::of_size(14_400.0, 18.0),
    ];
    let mut document = open(&pdf(&pages)).await.unwrap();
    for (number, expected) in [
        (0, vec![]),
        (1, vec![PageWarning::NoText]),
        (2, vec![PageWarning::Blank]),
        (3, vec![PageWarning::Blank]),
        (4, vec![PageWarning::Blank]),
    ] {
        let page = document.render(at(number, 72)).await.unwrap();
        assert_eq!(page.facts.warnings, expected, "{number}");
    }
}

/// A page with three Yi syllables in a font that is not embedded, and that nobody has.
fn letters(colour: &str, mode: u32) -> Vec<u8> {
    objects_pdf(&[
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_owned(),
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 300] /Contents 4 0 R \
         /Resources << /Font << /F1 5 0 R >> >> >>"
            .to_owned(),
        stream(
            "",
            &format!("{colour} {mode} Tr BT /F1 40 Tf 20 200 Td <010203> Tj ET"),
        ),
        "<< /Type /Font /Subtype /TrueType /BaseFont /Unheard /FirstChar 1 /LastChar 3 \
         /Widths [1000 1000 1000] /FontDescriptor 6 0 R \
         /Encoding << /Type /Encoding /Differences [1 /uniA000 /uniA001 /uniA002] >> >>"
            .to_owned(),
        "<< /Type /FontDescriptor /FontName /Unheard /Flags 4 /FontBBox [0 0 1000 1000] \
         /ItalicAngle 0 /Ascent 800 /Descent -200 /CapHeight 700 /StemV 80 >>"
            .to_owned(),
    ])
}

#[tokio::test]
async fn letters_without_a_font_name_their_script() {
    let page = first_page(&letters("0 g", 0), 72).await.unwrap();
    assert_eq!(page.text, "ꀀꀁꀂ");
    let missing = PageWarning::MissingGlyphs("Yi".to_owned());
    assert_eq!(page.facts.warnings, [missing]);
    // Text that nobody should see, like that behind a scan, misses nothing.
    for (colour, mode) in [("1 g", 0), ("0 g", 3)] {
        let page = first_page(&letters(colour, mode), 72).await.unwrap();
        assert_eq!(page.facts.warnings, [], "{colour} {mode}");
    }
    let latin = Page::with_text(&["Latin words"]);
    let page = first_page(&pdf(&[latin]), 72).await.unwrap();
    assert_eq!(page.facts.warnings, []);
}

#[tokio::test]
async fn a_form_for_adobes_programs_only_is_reported() {
    let xfa = |needs: &str| {
        objects_pdf(&[
            format!(
                "<< /Type /Catalog /Pages 2 0 R {needs} /AcroForm << /Fields [] /XFA 5 0 R >> >>"
            ),
            "<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_owned(),
            format!(
                "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 300] /Contents 4 0 R \
                 /Resources << /Font << /F1 << {FONT} >> >> >> >>"
            ),
            stream("", "BT /F1 12 Tf 20 280 Td (Please wait...) Tj ET"),
            stream("", "<xdp:xdp xmlns:xdp='http://ns.adobe.com/xdp/'/>"),
        ])
    };
    let document = open(&xfa("/NeedsRendering true")).await.unwrap();
    assert_eq!(document.warnings(), [DocumentWarning::XfaForm]);
    // The pages of this one are the form.
    assert_eq!(open(&xfa("")).await.unwrap().warnings(), []);
}
