//! The questions of the report: pictures of the pages that answer them, and over them what of the
//! page the question concerns.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::escape;
use crate::query::Answer;

/// A page of an answer, with its picture as JPEG.
pub type Shown = (Answer, Vec<u8>);

pub(super) const STYLE: &str = ".pages{display:grid;grid-template-columns:repeat(3,1fr);gap:1em}\
figure{margin:0}figcaption{font-size:.9em;color:#5a6675;overflow-wrap:anywhere}figcaption b{color:#1c2430}\
.page{position:relative;border:1px solid #e4e8ee}.page img{display:block;width:100%}\
.page i{position:absolute;background:#ff9600;mix-blend-mode:multiply}\
@media(max-width:600px){.pages{grid-template-columns:1fr}}";

/// All questions with their pages.
pub(super) fn html(answers: &[(String, Vec<Shown>)]) -> String {
    let mut body = String::from("<h2>Questions</h2>");
    if answers.iter().any(|(_, pages)| !pages.is_empty()) {
        body.push_str("<p>Orange: what of the page the question concerns.</p>");
    }
    for (question, pages) in answers {
        let _ = write!(body, "<h3>{}</h3><div class=pages>", escape(question));
        for (answer, picture) in pages {
            body.push_str(&page(answer, picture));
        }
        body.push_str("</div>");
    }
    body
}

fn page(answer: &Answer, picture: &[u8]) -> String {
    let Answer {
        file,
        page,
        score,
        snippet,
        heat,
        ..
    } = answer;
    let (file, snippet) = (escape(file), escape(snippet));
    let mut body = format!(
        "<figure><div class=page><img alt=\"{file}, page {page}\" src=\"data:image/jpeg;base64,{}\">",
        BASE64_STANDARD.encode(picture)
    );
    for part in heat {
        let _ = write!(
            body,
            "<i style=\"left:{:.1}%;top:{:.1}%;width:{:.1}%;height:{:.1}%;opacity:{:.2}\"></i>",
            part.left * 100.0,
            part.top * 100.0,
            part.width * 100.0,
            part.height * 100.0,
            part.weight * 0.65,
        );
    }
    let _ = write!(
        body,
        "</div><figcaption><b>{file}, page {page}</b> ({score:.3})<br>{snippet}</figcaption></figure>"
    );
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::HeatBox;

    #[test]
    fn a_page_is_shown_with_its_picture_and_its_heat() {
        let answer = Answer {
            file: "a\"b.pdf".to_owned(),
            page: 3,
            score: 0.5,
            snippet: "<b>words</b>".to_owned(),
            heat: vec![HeatBox {
                left: 0.1,
                top: 0.25,
                width: 0.5,
                height: 0.02,
                weight: 1.0,
            }],
            ..Answer::default()
        };
        let body = html(&[("Why?".to_owned(), vec![(answer, b"jpeg".to_vec())])]);
        assert!(body.contains("data:image/jpeg;base64,anBlZw=="), "{body}");
        let part = "left:10.0%;top:25.0%;width:50.0%;height:2.0%;opacity:0.65";
        assert!(body.contains(part), "{body}");
        assert!(body.contains("alt=\"a&quot;b.pdf, page 3\""), "{body}");
        assert!(body.contains("&lt;b&gt;words"), "{body}");
    }
}
