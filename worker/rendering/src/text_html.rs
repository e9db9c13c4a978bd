//! The text of a page of HTML or XHTML, as a reader sees it: paragraphs, lists and tables as lines,
//! cells with tabs between. Nothing is loaded, and no script runs. Runs in the renderer.

use std::fmt::Write;

use html5gum::{DefaultEmitter, StartTag, Token, Tokenizer};

/// Elements of which nothing is seen.
const HIDDEN: [&str; 9] = [
    "script", "style", "title", "template", "iframe", "object", "audio", "video", "datalist",
];
/// Elements that have lines of their own.
const BLOCKS: [&str; 26] = [
    "address",
    "article",
    "aside",
    "body",
    "center",
    "dd",
    "details",
    "div",
    "dt",
    "fieldset",
    "figcaption",
    "figure",
    "footer",
    "form",
    "header",
    "hr",
    "html",
    "li",
    "main",
    "nav",
    "option",
    "section",
    "summary",
    "tbody",
    "thead",
    "tr",
];
/// Elements with an empty line before and after.
const PARAGRAPHS: [&str; 13] = [
    "p",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "ul",
    "ol",
    "dl",
    "table",
    "pre",
    "blockquote",
];
/// Elements that have no end.
const VOID: [&str; 8] = ["br", "hr", "img", "input", "link", "meta", "wbr", "col"];

/// Elements that also end where the next one of their name starts.
const OPTIONAL_END: [&str; 8] = ["p", "li", "td", "th", "tr", "dt", "dd", "option"];

/// Whether a text is a page of HTML. Other markup is shown as it is.
pub(super) fn is_html(text: &str) -> bool {
    let start: String = text.chars().take(1024).collect::<String>().to_lowercase();
    let start = start.trim_start_matches('\u{feff}').trim_start();
    let first = |word: &str| {
        let rest = start.strip_prefix(word);
        rest.is_some_and(|rest| rest.starts_with(|next: char| !next.is_alphanumeric()))
    };
    first("<!doctype html")
        || (start.starts_with('<') && (start.contains("<html>") || start.contains("<html ")))
        || [
            "<head", "<body", "<title", "<meta", "<table", "<div", "<p", "<h1", "<h2", "<ul",
        ]
        .into_iter()
        .any(first)
}

/// The text of a page.
pub(super) fn text(html: &str) -> String {
    let is_xml = html
        .trim_start_matches('\u{feff}')
        .trim_start()
        .starts_with("<?xml");
    let mut emitter = DefaultEmitter::default();
    // In XML, an element without an end ends itself, also a script.
    emitter.naively_switch_states(!is_xml);
    let mut page = Page::default();
    for Ok(token) in Tokenizer::new_with_emitter(html, emitter) {
        match token {
            Token::StartTag(tag) => page.start(&tag, is_xml),
            Token::EndTag(tag) => page.end(&String::from_utf8_lossy(&tag.name)),
            Token::String(text) => page.words(&String::from_utf8_lossy(&text)),
            Token::Comment(_) | Token::Doctype(_) | Token::Error(_) => {}
        }
    }
    page.text.trim().to_owned()
}

#[derive(Default)]
struct Page {
    text: String,
    /// The element that hides what comes, and how many of this name are open.
    hidden: Option<(String, usize)>,
    /// Open elements in which spaces and lines count.
    preformatted: usize,
    /// Whether a space comes before the next word.
    space: bool,
    /// The next number of each open list; `None` without numbers.
    lists: Vec<Option<u32>>,
}

impl Page {
    fn start(&mut self, tag: &StartTag<()>, is_xml: bool) {
        let name = String::from_utf8_lossy(&tag.name).into_owned();
        let is_empty = VOID.contains(&name.as_str()) || (is_xml && tag.self_closing);
        if let Some((hiding, open)) = &mut self.hidden {
            if *hiding != name || !OPTIONAL_END.contains(&hiding.as_str()) {
                *open += usize::from(*hiding == name && !is_empty);
                return;
            }
            self.hidden = None;
        }
        if is_hidden(&name, tag) {
            if !is_empty {
                self.hidden = Some((name, 1));
            }
            return;
        }
        match name.as_str() {
            "br" => self.text.push('\n'),
            "td" | "th" if !self.text.is_empty() && !self.text.ends_with(['\n', '\t']) => {
                self.space = false;
                self.text.push('\t');
            }
            "img" => {
                if let Some(words) = attribute(tag, "alt") {
                    self.words(&words);
                }
            }
            "ul" => self.lists.push(None),
            "ol" => self.lists.push(Some(1)),
            _ => {}
        }
        self.separate(&name);
        match name.as_str() {
            "pre" | "textarea" if !is_empty => self.preformatted += 1,
            "li" => self.item(),
            _ => {}
        }
    }

    fn end(&mut self, name: &str) {
        if let Some((hiding, open)) = &mut self.hidden {
            *open -= usize::from(hiding == name);
            if *open == 0 {
                self.hidden = None;
            }
            return;
        }
        match name {
            "pre" | "textarea" => self.preformatted = self.preformatted.saturating_sub(1),
            "ul" | "ol" => {
                self.lists.pop();
            }
            _ => {}
        }
        self.separate(name);
    }

    /// The sign of a list's item.
    fn item(&mut self) {
        let depth = self.lists.len().saturating_sub(1).min(8);
        self.text.push_str(&"  ".repeat(depth));
        match self.lists.last_mut() {
            Some(Some(number)) => {
                // Writing to a string cannot fail.
                let _ = write!(self.text, "{number}. ");
                *number += 1;
            }
            _ => self.text.push_str("- "),
        }
    }

    /// Ends the line, or the paragraph, where an element does.
    fn separate(&mut self, name: &str) {
        let lines = if PARAGRAPHS.contains(&name) && self.lists.len() < 2 {
            2
        } else {
            usize::from(BLOCKS.contains(&name) || PARAGRAPHS.contains(&name))
        };
        if lines == 0 || self.text.is_empty() {
            return;
        }
        self.space = false;
        // A paragraph in an item or a cell starts behind its sign.
        if self.text.ends_with("- ") || self.text.ends_with(". ") {
            return;
        }
        let present = self.text.len() - self.text.trim_end_matches('\n').len();
        for _ in present..lines {
            self.text.push('\n');
        }
    }

    fn words(&mut self, words: &str) {
        if self.hidden.is_some() {
            return;
        }
        if self.preformatted > 0 {
            self.text.push_str(words);
            return;
        }
        let is_space = |letter: char| letter.is_ascii_whitespace();
        for (number, word) in words.split(is_space).enumerate() {
            self.space |= number > 0;
            if word.is_empty() {
                continue;
            }
            if self.space && !self.text.is_empty() && !self.text.ends_with(['\n', '\t', ' ']) {
                self.text.push(' ');
            }
            self.space = false;
            self.text.push_str(word);
        }
    }
}

fn is_hidden(name: &str, tag: &StartTag<()>) -> bool {
    let style = attribute(tag, "style").unwrap_or_default();
    let style: String = style.split_whitespace().collect();
    HIDDEN.contains(&name)
        || attribute(tag, "hidden").is_some()
        || style.to_ascii_lowercase().contains("display:none")
}

/// The value of an attribute of a tag.
pub(super) fn attribute(tag: &StartTag<()>, name: &str) -> Option<String> {
    let value = tag.attributes.get(name.as_bytes())?;
    Some(String::from_utf8_lossy(value).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_becomes_the_text_that_is_seen() {
        let html = "<!doctype html><html><head><title>t</title><style>p { color: red }</style>\
            <script>if (a < b) document.write('<p>no</p>')</script></head><body>\
            <h1>Opening  hours</h1>\n<p>Nine to <b>five</b>&nbsp;&amp; <i>later</i>.<br>Closed\n on \
            Sunday</p><p style='display: none'>secret</p><div hidden>x<div>y</div>z</div>\
            <ul><li>one</li><li><p>two</p><ol><li>inner</ol></ul>\
            <table><tr><th>Fruit<th>Price</tr><tr><td>Pear</td><td>3 €</td></tr></table>\
            <pre>a\n  b\tc</pre><img src='http://example.org/x.png' alt='A map'></body></html>";
        let expected = "Opening hours\n\nNine to five\u{a0}& later.\nClosed on Sunday\n\n\
            - one\n- two\n  1. inner\n\nFruit\tPrice\nPear\t3 €\n\na\n  b\tc\n\nA map";
        assert_eq!(text(html), expected);
        assert!(is_html(html));
    }

    #[test]
    fn in_xml_an_element_without_an_end_hides_nothing() {
        let xhtml = "<?xml version='1.0'?><html><head><title/><script src='a.js'/></head>\
            <body><p>A quiet morning</p></body></html>";
        assert_eq!(text(xhtml), "A quiet morning");
        assert!(is_html(xhtml));
    }

    #[test]
    fn other_markup_is_no_page() {
        for text in [
            "<?xml version='1.0'?><order>5</order>",
            "<price>",
            "a <p> b",
            "# Title",
        ] {
            assert!(!is_html(text), "{text}");
        }
        assert!(is_html("<P>one"));
    }

    #[test]
    fn a_hidden_paragraph_hides_none_behind_it() {
        assert_eq!(text("<p hidden>a<p>b</p><div hidden>c</div>d"), "b\n\nd");
    }

    #[test]
    fn unbalanced_markup_loses_no_words() {
        assert_eq!(text("</div></ol><li>a</ul><td>b</pre>c<p"), "- a\n\nb\n\nc");
    }
}
