//! How many of the exactly best pages a search finds, by the number of candidates: from the vectors
//! of real documents and questions that were written about them.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result, ensure};
use milvus::v2::prelude::{ConsistencyLevel, FlushRequest, QueryRequest};
use serde::Serialize;
use serde_json::json;

use super::super::collection_of;
use super::server::Server;
use crate::stores::Stores;

/// Pages that are compared.
const TOP: usize = 10;
/// Numbers of candidates; 50 is the default of a search.
const CANDIDATES: [u32; 8] = [1, 2, 5, 10, 20, 50, 100, 200];
const DEFAULT: u32 = 50;
/// The least recall at the default.
const LEAST: f64 = 0.99;
const ROWS_AT_ONCE: i64 = 2000;

/// A point of the curve.
#[derive(Debug, Serialize)]
pub(super) struct Point {
    candidates: u32,
    /// Mean share of the exactly best ten pages that were found.
    recall_at_10: f64,
    /// The same of the worst question.
    lowest: f64,
    questions: usize,
}

/// The curve. At the default it has to reach 99 %.
pub(super) async fn curve(
    stores: &Stores,
    server: &Server,
    base: &str,
    questions: &[String],
) -> Result<Vec<Point>> {
    let collection = collection_of(base);
    let flush = FlushRequest::builder().collection_names([&collection]);
    stores.milvus.flush(flush.build()?).await?;
    let pages = pages(stores, &collection).await?;
    let mut exact = Vec::new();
    for question in questions {
        let vectors = server.question(question).await?;
        exact.push(best(&vectors, &pages));
    }
    let mut curve = Vec::new();
    for candidates in CANDIDATES {
        let mut recalls = Vec::new();
        for (question, exact) in questions.iter().zip(&exact) {
            let search = json!({
                "question": question, "knowledge_bases": [base], "top": TOP,
                "candidates": candidates,
            });
            let answer = server.search(&search).await?;
            let found = answer["pages"].as_array().context("pages")?;
            let found = found.iter().filter_map(|page| page["image_id"].as_str());
            let hits = found.filter(|image_id| exact.contains(*image_id)).count();
            recalls.push(hits as f64 / exact.len().max(1) as f64);
        }
        curve.push(Point {
            candidates,
            recall_at_10: recalls.iter().sum::<f64>() / recalls.len().max(1) as f64,
            lowest: recalls.iter().copied().fold(1.0, f64::min),
            questions: recalls.len(),
        });
    }
    let default = curve.iter().find(|point| point.candidates == DEFAULT);
    let recall = default.context("the default")?.recall_at_10;
    ensure!(
        recall >= LEAST,
        "recall@{TOP} is {recall:.4} at the default: {curve:#?}"
    );
    Ok(curve)
}

/// All vectors of each page.
async fn pages(stores: &Stores, collection: &str) -> Result<HashMap<String, Vec<Vec<f32>>>> {
    let mut pages: HashMap<String, Vec<Vec<f32>>> = HashMap::new();
    let mut last = 0;
    loop {
        let request = QueryRequest::builder()
            .collection_name(collection)
            .filter(format!("pk > {last}"))
            .output_fields(["pk", "image_id", "vector"])
            .limit(ROWS_AT_ONCE)
            .consistency_level(ConsistencyLevel::Strong)
            .build()?;
        let answer = stores.milvus.query(request).await?;
        let before = last;
        for row in answer.results().rows()? {
            last = last.max(row.get_i64("pk")?);
            let page = pages.entry(row.get_str("image_id")?.to_owned());
            let vector = row.get_float_vector("vector")?;
            page.or_default().push(vector.to_vec());
        }
        if last == before {
            return Ok(pages);
        }
    }
}

/// The best pages by exact `MaxSim`.
fn best(question: &[Vec<f32>], pages: &HashMap<String, Vec<Vec<f32>>>) -> HashSet<String> {
    let product = |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    let score = |page: &[Vec<f32>]| -> f32 {
        let best = question.iter().map(|asked| {
            let products = page.iter().map(|vector| product(asked, vector));
            products.fold(f32::NEG_INFINITY, f32::max)
        });
        best.sum()
    };
    let mut scored: Vec<(f32, &String)> = pages
        .iter()
        .map(|(image_id, page)| (score(page), image_id))
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    scored.truncate(TOP);
    scored.into_iter().map(|(_, id)| id.clone()).collect()
}

pub(super) fn print(curve: &[Point]) {
    println!("\n| candidates | recall@10 | of the worst question |");
    println!("|---|---|---|");
    for point in curve {
        println!(
            "| {} | {:.2} % | {:.0} % |",
            point.candidates,
            point.recall_at_10 * 100.0,
            point.lowest * 100.0
        );
    }
}
