//! Questions beside pages that the same server embeds, and each alone.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::future::join_all;
use serde::Serialize;
use serde_json::json;

use super::server::Server;
use super::{Quantiles, QueriesPlan};
use crate::pdf;

/// Requests for pages at the same time: as many as the server reads.
const PAGES_AT_ONCE: usize = 4;
/// Questions whose words are on a page: about as many words as a printed one has.
const QUESTIONS_OF_PAGE: usize = 35;

/// One kind of request in one phase.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    phase: &'static str,
    requests: &'static str,
    clients: usize,
    answered: usize,
    failed: usize,
    per_second: f64,
    #[serde(flatten)]
    times: Quantiles,
}

/// The figures of all phases. A request that fails is an error: then the figures say nothing.
pub(super) async fn measure(
    server: &Server,
    base: &str,
    questions: &[String],
    plan: &QueriesPlan,
) -> Result<Vec<Figures>> {
    // A number makes each question a new one: no answer comes from the cache.
    let number = AtomicUsize::new(0);
    let search = async || {
        let number = number.fetch_add(1, Ordering::Relaxed);
        let question = format!("{} ({number})", questions[number % questions.len()]);
        let search = json!({ "question": question, "knowledge_bases": [base] });
        server.search(&search).await.map(|_| ())
    };
    let text: Vec<&str> = questions.iter().map(String::as_str).collect();
    let document = pdf::with_pages(&[&text[..text.len().min(QUESTIONS_OF_PAGE)].join(" ")]);
    let page = async || server.page(&document).await;
    let took = Duration::from_secs(plan.seconds);
    // What is first is slower.
    clients(4, Duration::from_secs(3), &search).await;
    clients(1, Duration::from_secs(3), &page).await;

    let alone = clients(plan.concurrent, took, &search).await;
    let pages_alone = clients(PAGES_AT_ONCE, took, &page).await;
    let (beside, pages_beside) = tokio::join!(
        clients(plan.concurrent, took, &search),
        clients(PAGES_AT_ONCE, took, &page)
    );
    let figures = [
        ("alone", "questions", plan.concurrent, alone),
        ("alone", "pages", PAGES_AT_ONCE, pages_alone),
        ("together", "questions", plan.concurrent, beside),
        ("together", "pages", PAGES_AT_ONCE, pages_beside),
    ];
    let mut all = Vec::new();
    for (phase, requests, clients, results) in figures {
        ensure!(
            results.errors.is_empty(),
            "{} of the {requests} failed ({phase}): {}",
            results.errors.len(),
            results.errors[0]
        );
        all.push(Figures {
            phase,
            requests,
            clients,
            answered: results.times.len(),
            failed: results.errors.len(),
            per_second: results.times.len() as f64 / took.as_secs_f64(),
            times: Quantiles::of(&results.times),
        });
    }
    Ok(all)
}

#[derive(Default)]
struct Results {
    /// Milliseconds of each answer.
    times: Vec<f64>,
    errors: Vec<String>,
}

/// This number of clients, each of which sends its next request when the last one is answered.
async fn clients(count: usize, took: Duration, request: &impl AsyncFn() -> Result<()>) -> Results {
    let end = Instant::now() + took;
    let client = async || {
        let mut results = Results::default();
        while Instant::now() < end {
            let began = Instant::now();
            match request().await {
                Ok(()) => results.times.push(began.elapsed().as_secs_f64() * 1000.0),
                Err(error) => results.errors.push(format!("{error:#}")),
            }
        }
        results
    };
    let mut all = Results::default();
    for results in join_all((0..count).map(|_| client())).await {
        all.times.extend(results.times);
        all.errors.extend(results.errors);
    }
    all
}

pub(super) fn print(figures: &[Figures]) {
    println!("\n| | requests | clients | answered | failed | a second | P50 ms | P99 ms |");
    println!("|---|---|---|---|---|---|---|---|");
    for it in figures {
        println!(
            "| {} | {} | {} | {} | {} | {:.1} | {:.0} | {:.0} |",
            it.phase,
            it.requests,
            it.clients,
            it.answered,
            it.failed,
            it.per_second,
            it.times.p50_ms,
            it.times.p99_ms
        );
    }
}
