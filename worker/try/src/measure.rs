//! Measures the search with questions whose pages are known, in the files of BEIR: `queries.jsonl`
//! (`{"_id": "...", "text": "..."}` in each line) and `qrels.tsv` (a heading, then the question's
//! id, the page as `FILE#PAGE` with pages from 1, and its grade).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use layra_search::metrics::{self, Relevant};
use serde::{Deserialize, Serialize};

use crate::answer::{SearchRequest, Searcher};

/// Pages of each ranking.
const DEPTH: usize = 50;

/// A question with its pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    id: String,
    text: String,
    relevant: Relevant,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    model: String,
    /// Questions that were asked.
    questions: usize,
    /// Questions about files that the folder does not have.
    left_out: usize,
    /// Pages that each question was compared with.
    pages: usize,
    #[serde(rename = "ndcg@5")]
    ndcg_5: f64,
    #[serde(rename = "ndcg@10")]
    ndcg_10: f64,
    #[serde(rename = "recall@1")]
    recall_1: f64,
    #[serde(rename = "recall@5")]
    recall_5: f64,
    #[serde(rename = "recall@10")]
    recall_10: f64,
    #[serde(rename = "hit@1")]
    hit_1: f64,
    #[serde(rename = "hit@5")]
    hit_5: f64,
    #[serde(rename = "hit@10")]
    hit_10: f64,
    /// Milliseconds of half of the questions, and of 99 of 100.
    p50_ms: f64,
    p99_ms: f64,
    /// Questions without a relevant page among the first ten.
    missed: Vec<Missed>,
}

/// A question that was not answered.
#[derive(Clone, Debug, Serialize)]
struct Missed {
    id: String,
    question: String,
    expected: Vec<String>,
    first: Option<String>,
}

#[derive(Deserialize)]
struct QueryLine {
    #[serde(rename = "_id")]
    id: String,
    text: String,
}

/// Reads `queries.jsonl` and `qrels.tsv` of a folder. Questions without pages are an error.
pub(crate) fn read(folder: &Path) -> Result<Vec<Judged>> {
    let text = |name: &str| {
        let path = folder.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    };
    parse(&text("queries.jsonl")?, &text("qrels.tsv")?)
}

fn parse(queries: &str, judgements: &str) -> Result<Vec<Judged>> {
    let mut relevant: BTreeMap<String, Relevant> = BTreeMap::new();
    for (number, line) in judgements.lines().enumerate().skip(1) {
        let place = || format!("qrels.tsv, line {}", number + 1);
        let parts: Vec<&str> = line.split('\t').collect();
        let [id, page, grade] = parts[..] else {
            ensure!(
                line.trim().is_empty(),
                "{}: three columns expected",
                place()
            );
            continue;
        };
        let grade = grade.trim().parse().with_context(place)?;
        let pages = relevant.entry(id.to_owned()).or_default();
        pages.insert(page.to_owned(), grade);
    }
    let mut ids = BTreeSet::new();
    let mut judged = Vec::new();
    let lines = queries.lines().enumerate();
    for (number, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let place = || format!("queries.jsonl, line {}", number + 1);
        let QueryLine { id, text } = serde_json::from_str(line).with_context(place)?;
        ensure!(ids.insert(id.clone()), "{}: a second {id}", place());
        let relevant = relevant.remove(&id);
        let relevant = relevant.with_context(|| format!("qrels.tsv has no page for {id}"))?;
        judged.push(Judged { id, text, relevant });
    }
    ensure!(!judged.is_empty(), "queries.jsonl has no question");
    let unasked = relevant.keys().next();
    ensure!(
        unasked.is_none(),
        "queries.jsonl has no question {unasked:?}"
    );
    Ok(judged)
}

/// Asks the questions whose files the folder has.
pub(crate) fn measure(searcher: &Searcher, judged: &[Judged]) -> Result<Report> {
    let files = searcher.store.files();
    let has = |page: &String| {
        page.rsplit_once('#')
            .is_some_and(|(file, _)| files.contains_key(file))
    };
    let asked = judged
        .iter()
        .filter(|question| question.relevant.keys().any(has));
    let asked: Vec<&Judged> = asked.collect();
    ensure!(
        !asked.is_empty(),
        "the folder has none of the files that the questions are about"
    );
    let mut rankings = Vec::new();
    let mut times = Vec::new();
    let mut pages = 0;
    for question in &asked {
        let request = SearchRequest {
            question: question.text.clone(),
            knowledge_base: None,
            top: DEPTH,
            heat: false,
        };
        let start = std::time::Instant::now();
        let found = searcher.search(&request)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        pages = found.compared;
        let ranking = found.pages.into_iter();
        let ranking = ranking.map(|page| format!("{}#{}", page.file, page.page));
        rankings.push(ranking.collect::<Vec<String>>());
    }
    let mean = |metric: &dyn Fn(&[String], &Relevant) -> f64| {
        let values = rankings.iter().zip(&asked);
        let sum: f64 = values
            .map(|(ranking, asked)| metric(ranking, &asked.relevant))
            .sum();
        sum / asked.len() as f64
    };
    let hit = |k| mean(&|ranking, relevant| f64::from(metrics::hit(ranking, relevant, k)));
    let missed = rankings.iter().zip(&asked);
    let missed = missed.filter(|(ranking, asked)| !metrics::hit(ranking, &asked.relevant, 10));
    Ok(Report {
        model: searcher.model.name.clone(),
        questions: asked.len(),
        left_out: judged.len() - asked.len(),
        pages,
        ndcg_5: mean(&|ranking, relevant| metrics::ndcg(ranking, relevant, 5)),
        ndcg_10: mean(&|ranking, relevant| metrics::ndcg(ranking, relevant, 10)),
        recall_1: mean(&|ranking, relevant| metrics::recall(ranking, relevant, 1)),
        recall_5: mean(&|ranking, relevant| metrics::recall(ranking, relevant, 5)),
        recall_10: mean(&|ranking, relevant| metrics::recall(ranking, relevant, 10)),
        hit_1: hit(1),
        hit_5: hit(5),
        hit_10: hit(10),
        p50_ms: metrics::percentile(&times, 0.5),
        p99_ms: metrics::percentile(&times, 0.99),
        missed: missed
            .map(|(ranking, asked)| Missed {
                id: asked.id.clone(),
                question: asked.text.clone(),
                expected: asked.relevant.keys().cloned().collect(),
                first: ranking.first().cloned(),
            })
            .collect(),
    })
}

/// The report for people.
pub(crate) fn table(report: &Report) -> String {
    let mut text = format!(
        "{} questions over {} pages with {}",
        report.questions, report.pages, report.model
    );
    if report.left_out > 0 {
        let _ = write!(text, " ({} are about other files)", report.left_out);
    }
    text.push_str("\n\n|        |   @1 |   @5 |  @10 |\n|--------|-----:|-----:|-----:|\n");
    let rows = [
        ("nDCG", [None, Some(report.ndcg_5), Some(report.ndcg_10)]),
        (
            "recall",
            [report.recall_1, report.recall_5, report.recall_10].map(Some),
        ),
        ("hit", [report.hit_1, report.hit_5, report.hit_10].map(Some)),
    ];
    for (name, values) in rows {
        let values = values.map(|value| value.map_or(String::new(), |value| format!("{value:.2}")));
        let [one, five, ten] = values;
        let _ = writeln!(text, "| {name:<6} | {one:>4} | {five:>4} | {ten:>4} |");
    }
    let _ = writeln!(
        text,
        "\nP50 {:.1} ms, P99 {:.1} ms for each question",
        report.p50_ms, report.p99_ms
    );
    for missed in &report.missed {
        let first = missed.first.as_deref().unwrap_or("no page");
        let _ = writeln!(
            text,
            "missed {}: {} (expected {}, found {first})",
            missed.id,
            missed.question,
            missed.expected.join(", "),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERIES: &str =
        "{\"_id\": \"1\", \"text\": \"what?\"}\n\n{\"_id\": \"2\", \"text\": \"why?\"}\n";
    const HEADING: &str = "query-id\tcorpus-id\tscore\n";

    #[test]
    fn questions_are_read_with_their_pages() {
        let judgements = format!("{HEADING}1\ta.pdf#3\t2\n1\ta.pdf#4\t1\n2\tb.pdf#1\t1\n");
        let judged = parse(QUERIES, &judgements).unwrap();
        assert_eq!(judged.len(), 2);
        assert_eq!(judged[0].relevant["a.pdf#3"], 2);
    }

    #[test]
    fn mistakes_are_named() {
        let error = |judgements: &str| {
            let text = format!("{HEADING}{judgements}");
            format!("{:#}", parse(QUERIES, &text).unwrap_err())
        };
        assert!(error("1\ta.pdf#3\t1\n").contains("no page for 2"));
        assert!(error("1\ta.pdf#3\n").contains("line 2: three columns"));
        assert!(error("1\ta.pdf#3\tmuch\n").contains("qrels.tsv, line 2"));
        assert!(error("1\ta#1\t1\n2\ta#1\t1\n3\ta#1\t1\n").contains("no question"));
    }
}
