//! The words of a page that are closest to a question.

use std::collections::BTreeSet;

/// Words of a sentence at most: lists and tables have no full stops.
const SENTENCE_WORDS: usize = 30;
/// The same in letters, for scripts without spaces.
const SENTENCE_LETTERS: usize = 200;
/// Letters of a snippet at most.
const SNIPPET_LETTERS: usize = 280;
/// Terms of a question that are looked for.
const TERMS: usize = 64;
/// Letters that two different forms of a word have in common at least.
const STEM: usize = 4;

/// The sentence of a page that has the rarest words of the question, with the words after it. If none
/// has any, the beginning of the page.
#[must_use]
pub fn snippet(text: &str, question: &str) -> String {
    let sentences = sentences(text);
    let mut asked = terms(question);
    let mut seen = BTreeSet::new();
    asked.retain(|term| seen.insert(term.clone()));
    asked.truncate(TERMS);
    let found: Vec<Vec<bool>> = sentences
        .iter()
        .map(|(_, sentence)| {
            let terms = terms(sentence);
            let has = |asked: &String| terms.iter().any(|term| is_form_of(term, asked));
            asked.iter().map(has).collect()
        })
        .collect();
    // What every sentence has says nothing.
    let weights: Vec<f64> = (0..asked.len())
        .map(|term| {
            let with = found.iter().filter(|found| found[term]).count();
            (sentences.len() as f64 + 1.0).ln() - (with.max(1) as f64).ln()
        })
        .collect();
    let score = |found: &[bool]| -> f64 {
        let found = found.iter().zip(&weights).filter(|(found, _)| **found);
        found.map(|(_, weight)| weight).sum()
    };
    let scores: Vec<f64> = found.iter().map(|found| score(found)).collect();
    // Of equal ones, the first.
    let best = (0..sentences.len())
        .rev()
        .max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    shortened(best.map_or("", |best| &text[sentences[best].0..]))
}

/// Divides a text at full stops, at empty lines, and where a sentence gets too long. Returns where each
/// sentence begins, too.
fn sentences(text: &str) -> Vec<(usize, &str)> {
    let mut sentences = Vec::new();
    let (mut start, mut words, mut letters) = (0, 0, 0);
    let mut rest = text.char_indices().peekable();
    while let Some((at, letter)) = rest.next() {
        let next = rest.peek().map(|(_, next)| *next);
        letters += 1;
        words += usize::from(letter.is_whitespace());
        let is_end = match letter {
            '。' | '？' | '！' => true,
            '.' | '?' | '!' => next.is_none_or(char::is_whitespace),
            '\n' => matches!(next, Some('\n' | '\r')),
            letter if letter.is_whitespace() => words >= SENTENCE_WORDS,
            letter => letters >= SENTENCE_LETTERS && is_unspaced(letter),
        };
        if is_end || next.is_none() {
            let end = at + letter.len_utf8();
            let sentence = text[start..end].trim_start();
            if !sentence.is_empty() {
                sentences.push((end - sentence.len(), sentence));
            }
            (start, words, letters) = (end, 0, 0);
        }
    }
    sentences
}

/// What is compared: words in lower case and, where a script has no spaces, pairs of letters.
fn terms(text: &str) -> Vec<String> {
    let mut terms = Vec::new();
    let words = text.split(|letter: char| !letter.is_alphanumeric());
    for word in words.filter(|word| !word.is_empty()) {
        let word = word.to_lowercase();
        if !word.chars().any(is_unspaced) {
            terms.push(word);
            continue;
        }
        let letters: Vec<char> = word.chars().collect();
        match letters.len() {
            1 => terms.push(word),
            _ => terms.extend(
                letters
                    .windows(2)
                    .map(|pair| pair.iter().collect::<String>()),
            ),
        }
    }
    terms
}

/// Whether a script has no spaces between words: Chinese, Japanese, Thai and their neighbours.
fn is_unspaced(letter: char) -> bool {
    matches!(
        letter,
        '\u{e00}'..='\u{eff}'
            | '\u{3040}'..='\u{30ff}'
            | '\u{3400}'..='\u{9fff}'
            | '\u{f900}'..='\u{faff}'
            | '\u{20000}'..='\u{3ffff}'
    )
}

/// Whether two words are the same but for an ending.
fn is_form_of(a: &str, b: &str) -> bool {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    a == b || (long.starts_with(short) && short.chars().count() >= STEM)
}

/// The beginning of a text, without its line breaks.
fn shortened(text: &str) -> String {
    let mut short = String::new();
    for word in text.split_whitespace() {
        if !short.is_empty() {
            short.push(' ');
        }
        short.push_str(word);
        // A letter has a byte at least.
        if short.len() > SNIPPET_LETTERS
            && let Some((end, _)) = short.char_indices().nth(SNIPPET_LETTERS)
        {
            short.truncate(end);
            return format!("{} …", short.trim_end());
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE: &str = "The sea and the shore. The moon pulls the water of the sea, and the tide \
                        comes in. The boats of the village lie in the mud until then.\n\nOpening \
                        hours: the harbour is open from six to nine.";

    #[test]
    fn the_sentence_with_the_rarest_words_of_the_question_is_shown() {
        let begins = |question, beginning| {
            let snippet = snippet(PAGE, question);
            assert!(snippet.starts_with(beginning), "{question}: {snippet}");
        };
        begins("Why are there tides of the sea?", "The moon pulls");
        begins("when does the HARBOUR open", "Opening hours");
        begins("the boats of the harbour village", "The boats of");
        // Nothing is common, or everything: from the beginning.
        begins("", "The sea and");
        begins("quantum chromodynamics", "The sea and");
        assert_eq!(snippet("", "why"), "");
        assert_eq!(snippet(" one  \r\n two ", "why"), "one two");
    }

    #[test]
    fn scripts_without_spaces_have_sentences_and_words_too() {
        let page = "海边的渔村很安静。月亮牵引海水，于是潮汐涨落。港口六点开放。";
        assert!(snippet(page, "为什么会有潮汐？").starts_with("月亮"));
        assert!(snippet(page, "港口").starts_with("港口"));
    }

    #[test]
    fn a_list_without_full_stops_is_divided() {
        let list: Vec<String> = (0..200).map(|number| format!("n{number}n")).collect();
        let found = snippet(&list.join(" "), "n155n");
        assert!(found.contains("n155n"), "{found}");
        assert!(found.ends_with(" …"), "{found}");
    }

    proptest! {
        #[test]
        fn any_text_has_a_short_snippet_of_its_own_words(text in "\\PC{0,600}", question in "\\PC{0,60}") {
            let found = snippet(&text, &question);
            prop_assert!(found.chars().count() <= SNIPPET_LETTERS + 2);
            prop_assert_eq!(found.is_empty(), text.split_whitespace().next().is_none());
            let all: Vec<&str> = text.split_whitespace().collect();
            let found = found.trim_end_matches(" …");
            prop_assert!(all.join(" ").contains(found));
        }
    }
}
