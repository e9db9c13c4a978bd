//! What of a page a question concerns, as boxes with a weight.
//!
//! A visual model has vectors of tiles: their inner products with the question. A text model has
//! vectors of passages, which are half a page: the sentences are compared with the question, and
//! lie where PDFium found their words.

use layra_embedding::{EmbedError, Embedder, MultiVector, PageGrid, PageInput};
use layra_rendering::Word;
use layra_search::{Question, Vectors};
use serde::Serialize;

use crate::store::PageRecord;

/// Words of a sentence at most: lists and tables have no full stops.
const SENTENCE_WORDS: usize = 40;
/// Letters of a snippet at most.
const SNIPPET_LETTERS: usize = 280;
/// Boxes with less are not shown.
const LEAST_WEIGHT: f32 = 0.3;

/// A part of a page, in fractions of its width and height, from the top left.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HeatBox {
    /// Left edge.
    pub left: f32,
    /// Top edge.
    pub top: f32,
    /// From the left edge to the right one.
    pub width: f32,
    /// From the top edge to the lower one.
    pub height: f32,
    /// 0 to 1: how much the question concerns it, compared with the rest of the page.
    pub weight: f32,
}

/// What is shown of a page that was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Shown {
    pub(crate) heat: Vec<HeatBox>,
    pub(crate) snippet: String,
}

/// Heat and snippet of pages of a text model.
pub(crate) fn of_text(
    embedder: &dyn Embedder,
    question: &MultiVector,
    pages: &[&PageRecord],
) -> Result<Vec<Shown>, EmbedError> {
    let sentences: Vec<Vec<&[Word]>> = pages.iter().map(|page| sentences(&page.words)).collect();
    let texts: Vec<String> = sentences
        .iter()
        .flatten()
        .map(|words| text(words))
        .collect();
    let inputs = texts.iter().map(|text| PageInput { text, pixels: None });
    let vectors = embedder.embed_pages(&inputs.collect::<Vec<_>>())?;
    let mut scores = vectors.iter().map(|vectors| question.max_sim(vectors));
    let mut shown = Vec::with_capacity(pages.len());
    for (page, sentences) in pages.iter().zip(sentences) {
        let scores: Vec<f32> = scores.by_ref().take(sentences.len()).collect();
        let best = (0..sentences.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        let snippet = match best {
            Some(best) => around(&sentences, best),
            None => shortened(&page.text),
        };
        shown.push(Shown {
            heat: of_sentences(&sentences, &scores),
            snippet,
        });
    }
    Ok(shown)
}

/// Heat of sentences, from what each scores.
#[must_use]
pub fn of_sentences(sentences: &[&[Word]], scores: &[f32]) -> Vec<HeatBox> {
    let weighted = sentences.iter().zip(weights(scores));
    weighted
        .filter(|(_, weight)| *weight >= LEAST_WEIGHT)
        .flat_map(|(words, weight)| lines(words, weight))
        .collect()
}

/// Heat and snippet of a page of a visual model.
pub(crate) fn of_tiles(
    question: &Question<'_>,
    asked: &str,
    page: &PageRecord,
    vectors: Vectors<'_>,
) -> Shown {
    let scores = question.heat(vectors);
    let heat = page.grid.map_or_else(Vec::new, |(first, columns, rows)| {
        let grid = PageGrid {
            first,
            columns,
            rows,
        };
        of_vectors(&scores, grid)
    });
    let sentences = sentences(&page.words);
    let asked = asked.to_lowercase();
    let asked: Vec<&str> = asked
        .split(|letter: char| !letter.is_alphanumeric())
        .collect();
    let common = |words: &&[Word]| {
        let text = text(words).to_lowercase();
        let long = asked.iter().filter(|word| word.chars().count() > 3);
        long.filter(|word| text.contains(**word)).count()
    };
    // Of equal ones, the first.
    let best = (0..sentences.len())
        .rev()
        .max_by_key(|place| common(&sentences[*place]));
    Shown {
        heat,
        snippet: best.map_or_else(|| shortened(&page.text), |best| around(&sentences, best)),
    }
}

/// Heat of tiles, from what each vector of the page scores. Empty if there are fewer vectors.
#[must_use]
pub fn of_vectors(scores: &[f32], grid: PageGrid) -> Vec<HeatBox> {
    let PageGrid {
        first,
        columns,
        rows,
    } = grid;
    let first = first as usize;
    let count = columns as usize * rows as usize;
    let Some(scores) = scores.get(first..first + count) else {
        return Vec::new();
    };
    let (width, height) = (1.0 / columns as f32, 1.0 / rows as f32);
    let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
    let boxes = places
        .zip(weights(scores))
        .map(|((row, column), weight)| HeatBox {
            left: column as f32 * width,
            top: row as f32 * height,
            width,
            height,
            weight,
        });
    boxes.filter(|part| part.weight >= LEAST_WEIGHT).collect()
}

/// 1 for the highest score, 0 for the middle one and all below.
fn weights(scores: &[f32]) -> Vec<f32> {
    let mut sorted = scores.to_vec();
    sorted.sort_by(f32::total_cmp);
    let (Some(highest), Some(middle)) = (sorted.last(), sorted.get(sorted.len() / 2)) else {
        return Vec::new();
    };
    // A page of one sentence is all that there is.
    let middle = if sorted.len() == 1 { 0.0 } else { *middle };
    let range = highest - middle;
    let weight = |score: &f32| {
        if range <= f32::EPSILON {
            0.0
        } else {
            ((score - middle) / range).clamp(0.0, 1.0)
        }
    };
    scores.iter().map(weight).collect()
}

/// Divides the words of a page at full stops, gaps, and where a sentence gets too long.
#[must_use]
pub fn sentences(words: &[Word]) -> Vec<&[Word]> {
    let mut sentences = Vec::new();
    let mut start = 0;
    for (index, word) in words.iter().enumerate() {
        let next = words.get(index + 1);
        let is_end =
            word.text.ends_with(['.', '?', '!', '。', '？', '！']) && word.text.chars().count() > 2;
        let is_gap = next.is_none_or(|next| {
            let height = i32::from(word.bottom) - i32::from(word.top);
            let down = i32::from(next.top) - i32::from(word.bottom);
            // Another paragraph, or another column.
            down > height || i32::from(next.bottom) < i32::from(word.top) - 3 * height
        });
        if is_end || is_gap || index + 1 - start >= SENTENCE_WORDS {
            sentences.push(&words[start..=index]);
            start = index + 1;
        }
    }
    sentences
}

/// The words of a sentence.
#[must_use]
pub fn text(words: &[Word]) -> String {
    let words: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    words.join(" ")
}

/// The sentence and as much of those after it as a snippet holds.
fn around(sentences: &[&[Word]], best: usize) -> String {
    let mut snippet = String::new();
    for words in &sentences[best..] {
        if snippet.chars().count() > SNIPPET_LETTERS / 2 {
            break;
        }
        if !snippet.is_empty() {
            snippet.push(' ');
        }
        snippet.push_str(&text(words));
    }
    shortened(&snippet)
}

fn shortened(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(SNIPPET_LETTERS) {
        Some((end, _)) => format!("{} …", text[..end].trim_end()),
        None => text,
    }
}

/// One box for each line of a sentence.
fn lines(words: &[Word], weight: f32) -> Vec<HeatBox> {
    let mut lines: Vec<Word> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if word.top < line.bottom && word.bottom > line.top => {
                line.left = line.left.min(word.left);
                line.right = line.right.max(word.right);
                line.top = line.top.min(word.top);
                line.bottom = line.bottom.max(word.bottom);
            }
            _ => lines.push(word.clone()),
        }
    }
    let fraction = |value: u16| f32::from(value) / 10_000.0;
    let boxes = lines.iter().map(|line| HeatBox {
        left: fraction(line.left),
        top: fraction(line.top),
        width: fraction(line.right - line.left),
        height: fraction(line.bottom - line.top),
        weight,
    });
    boxes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, top: u16) -> Vec<Word> {
        let words = text.split(' ').enumerate();
        let words = words.map(|(place, text)| {
            let left = 1000 + 500 * u16::try_from(place).unwrap();
            Word {
                text: text.to_owned(),
                left,
                top,
                right: left + 400,
                bottom: top + 100,
            }
        });
        words.collect()
    }

    #[test]
    fn sentences_end_at_full_stops_and_gaps() {
        let words = [
            line("A heading", 500),
            line("One two. Three", 900),
            line("four five.", 1010),
        ]
        .concat();
        let found: Vec<String> = sentences(&words).into_iter().map(text).collect();
        assert_eq!(found, ["A heading", "One two.", "Three four five."]);
        assert_eq!(sentences(&line(&["word"; 15].join(" "), 0)).len(), 1);
        assert!(sentences(&[]).is_empty());
    }

    #[test]
    fn a_sentence_has_a_box_for_each_line() {
        let words = [line("a b", 900), line("c", 1010)].concat();
        let boxes = lines(&words, 0.5);
        assert_eq!(boxes.len(), 2);
        assert!((boxes[0].left - 0.1).abs() < 1e-6 && (boxes[0].width - 0.09).abs() < 1e-6);
    }

    #[test]
    fn tiles_are_numbered_row_by_row_behind_the_prompt() {
        let scores = [9.0, 0.0, 0.1, 0.0, 0.0, 1.0, 0.0, 9.0];
        let grid = |first| PageGrid {
            first,
            columns: 3,
            rows: 2,
        };
        let boxes = of_vectors(&scores, grid(1));
        assert_eq!(boxes.len(), 1);
        let hottest = boxes[0];
        assert!((hottest.left - 1.0 / 3.0).abs() < 1e-6 && (hottest.top - 0.5).abs() < 1e-6);
        assert!(
            of_vectors(&scores, grid(4)).is_empty(),
            "fewer vectors than tiles"
        );
    }

    #[test]
    fn weights_stand_out_from_the_middle() {
        assert_eq!(weights(&[0.2, 0.4, 0.6]), [0.0, 0.0, 1.0]);
        assert_eq!(weights(&[0.5]), [1.0]);
        assert_eq!(weights(&[0.5, 0.5]), [0.0, 0.0]);
        assert!(weights(&[]).is_empty());
    }

    #[test]
    fn long_snippets_are_cut_between_letters() {
        let long = "ä".repeat(SNIPPET_LETTERS + 5);
        assert_eq!(shortened(&long).chars().count(), SNIPPET_LETTERS + 2);
        assert_eq!(shortened(" a\n b "), "a b");
    }
}
