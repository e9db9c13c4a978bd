//! Lines and pages of a text. Pure: no fonts, no drawing. Text is set like on a typewriter: every
//! letter has one column, those of Chinese, Japanese and Korean have two.

use std::ops::Range;

use unicode_width::UnicodeWidthChar;

/// Columns of a line.
pub(super) const COLUMNS: usize = 80;
/// Lines of a page.
pub(super) const LINES: usize = 56;
/// Columns between two tab stops.
const TAB: usize = 8;
/// Letters of a line at most: letters without a width do not fill it.
const MAX_LETTERS: usize = 500;

/// A line as it is drawn.
pub(super) struct Line<'a> {
    pub(super) text: &'a str,
    /// Bytes of the text that it takes.
    taken: usize,
    ends_page: bool,
}

/// The column behind a letter that starts at `column`.
pub(super) fn next_column(column: usize, letter: char) -> usize {
    match letter {
        '\t' => (column / TAB + 1) * TAB,
        letter => column + letter.width().unwrap_or(0),
    }
}

/// The first line of a text that is not empty. Words that do not fit are moved to the next line;
/// what is longer than a line is cut.
fn first_line(text: &str) -> Line<'_> {
    let line = |shown: usize, taken: usize, ends_page: bool| Line {
        text: &text[..shown],
        taken,
        ends_page,
    };
    let (mut column, mut gap) = (0, 0);
    for (count, (place, letter)) in text.char_indices().enumerate() {
        let behind = place + letter.len_utf8();
        match letter {
            '\n' => return line(place, behind, false),
            '\u{c}' => return line(place, behind, true),
            _ => {}
        }
        let is_gap = matches!(letter, ' ' | '\t');
        let is_wide = letter.width() == Some(2);
        if is_wide {
            gap = place;
        }
        column = next_column(column, letter);
        if place > 0 && (column > COLUMNS || count >= MAX_LETTERS) {
            if is_gap {
                return line(place, behind, false);
            }
            let end = if gap > 0 { gap } else { place };
            return line(end, end, false);
        }
        if is_gap || is_wide {
            gap = behind;
        }
    }
    line(text.len(), text.len(), false)
}

/// The lines of one page.
pub(super) fn lines(page: &str) -> impl Iterator<Item = &str> {
    let mut rest = page;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let line = first_line(rest);
        rest = &rest[line.taken..];
        Some(line.text)
    })
}

/// The pages of a text, at most `most` of them. Pages without a letter are left out.
pub(super) fn pages(text: &str, most: usize) -> Vec<Range<usize>> {
    let mut pages = Vec::new();
    let (mut start, mut at, mut count) = (0, 0, 0);
    while at < text.len() && pages.len() < most {
        let line = first_line(&text[at..]);
        at += line.taken;
        count += 1;
        if count == LINES || line.ends_page || at == text.len() {
            if !text[start..at].trim().is_empty() {
                pages.push(start..at);
            }
            (start, count) = (at, 0);
        }
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn long_lines_are_wrapped_between_words() {
        let text = format!(
            "{} {} {}\nnext",
            "a".repeat(50),
            "b".repeat(40),
            "c".repeat(90)
        );
        let found: Vec<&str> = lines(&text).collect();
        let (a, b) = ("a".repeat(50) + " ", "b".repeat(40) + " ");
        let (cut, rest) = ("c".repeat(80), "c".repeat(10));
        let expected = [a.as_str(), &b, &cut, &rest, "next"];
        assert_eq!(found, expected);
    }

    #[test]
    fn wide_letters_and_tabs_take_their_columns() {
        let text = "年".repeat(45);
        let found: Vec<usize> = lines(&text).map(|line| line.chars().count()).collect();
        assert_eq!(found, [40, 5]);
        assert_eq!(next_column(next_column(3, '\t'), '年'), 10);
        assert_eq!(lines("a\n\nb").collect::<Vec<_>>(), ["a", "", "b"]);
        let flood = "\u{301}".repeat(10_000);
        assert!(lines(&flood).all(|line| line.chars().count() <= MAX_LETTERS));
    }

    #[test]
    fn pages_end_after_their_lines_and_at_form_feeds() {
        let text = "line\n".repeat(60) + "last\u{c}\u{c}\n\u{c}next";
        let found: Vec<&str> = pages(&text, 10)
            .into_iter()
            .map(|page| &text[page])
            .collect();
        assert_eq!(found.len(), 3);
        assert_eq!(lines(found[0]).count(), LINES);
        assert!(found[1].ends_with("last\u{c}"));
        assert_eq!(found[2], "next");
        assert_eq!(pages(&text, 2).len(), 2);
        assert_eq!(pages("", 2).len(), 0);
    }

    proptest! {
        #[test]
        fn nothing_is_lost(text in "[a-c 年\u{301}\t\n\u{c}]{0,600}") {
            let whole: String = pages(&text, usize::MAX).into_iter().map(|page| &text[page]).collect();
            let letters = |text: &str| text.chars().filter(|letter| !letter.is_whitespace()).collect::<String>();
            prop_assert_eq!(letters(&whole), letters(&text));
            for page in pages(&text, usize::MAX) {
                let shown: String = lines(&text[page.clone()]).collect();
                prop_assert_eq!(letters(&shown), letters(&text[page.clone()]));
                prop_assert!(lines(&text[page]).count() <= LINES);
            }
        }
    }
}
