//! Measures how fast vectors are written to Milvus, in the way of the store stage, and searched.
//! `e2e/bench/milvus.py` compares it with Python.

use std::time::{Duration, Instant};

use clap::Parser;
use layra_crds::MilvusSpec;
use layra_worker::BenchStore;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// Measure how fast vectors are written to Milvus
///
/// Creates the collection if it does not exist. Vectors are pseudo-random. Prints one JSON object.
#[derive(Debug, Parser)]
struct Arguments {
    /// `http://host:port` of Milvus
    #[arg(long)]
    uri: String,

    /// The collection
    #[arg(long)]
    collection: String,

    /// Number of pages to write
    #[arg(long, default_value_t = 100)]
    pages: u32,

    /// Number of vectors of a page
    #[arg(long, default_value_t = 700)]
    vectors: usize,

    /// Width of a vector
    #[arg(long, default_value_t = 128)]
    dimensions: usize,

    /// Number of pages in one insert
    #[arg(long, default_value_t = 16)]
    batch: usize,

    /// Number of searches after the inserts, each for this number of vectors: 16
    #[arg(long, default_value_t = 0)]
    searches: u32,

    /// File id of the pages
    #[arg(long, default_value = "bench")]
    file: String,
}

#[derive(Debug, Serialize)]
struct Report {
    rows: u64,
    seconds: f64,
    /// CPU time of this client.
    cpu_seconds: f64,
    /// The same of all searches.
    search_seconds: f64,
    search_cpu_seconds: f64,
}

/// As `e2e/bench/milvus.py` searches.
const QUESTION: usize = 16;
const EF: u32 = 100;
const CANDIDATES: u32 = 50;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Arguments::parse();
    let spec: MilvusSpec = serde_json::from_value(serde_json::json!({ "uri": args.uri }))?;
    let store = BenchStore::connect(&spec, &args.collection, args.dimensions).await?;
    let numbers: Vec<u32> = (0..args.pages).collect();
    let batches: Vec<Vec<_>> = numbers
        .chunks(args.batch.max(1))
        .map(|batch| batch.iter().map(|page| random(&args, *page)).collect())
        .collect();
    let (start, cpu) = (Instant::now(), process_cpu());
    let mut rows = 0;
    for batch in batches {
        rows += store.insert(&args.file, batch).await?;
    }
    let (seconds, cpu_seconds) = since(start, cpu);
    let questions: Vec<_> = (0..args.searches)
        .map(|number| {
            random(&args, number)
                .1
                .into_iter()
                .take(QUESTION)
                .collect::<Vec<_>>()
        })
        .collect();
    let (start, cpu) = (Instant::now(), process_cpu());
    for question in questions {
        let found = store.search(&question, EF, CANDIDATES).await?;
        anyhow::ensure!(found > 0, "nothing was found");
    }
    let (search_seconds, search_cpu_seconds) = since(start, cpu);
    let report = Report {
        rows,
        seconds,
        cpu_seconds,
        search_seconds,
        search_cpu_seconds,
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// Time and CPU time, in seconds.
fn since(start: Instant, cpu: Duration) -> (f64, f64) {
    let cpu = process_cpu().saturating_sub(cpu);
    (start.elapsed().as_secs_f64(), cpu.as_secs_f64())
}

/// A page's number and its vectors, all distinct and the same in every run.
fn random(args: &Arguments, page: u32) -> (u32, Vec<Vec<f32>>) {
    let mut state = u64::from(page).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut value = || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let [low, high, ..] = state.to_le_bytes();
        f32::from(i16::from_le_bytes([low, high])) / 32768.0
    };
    let vector = |_| -> Vec<f32> { (0..args.dimensions).map(|_| value()).collect() };
    (page, (0..args.vectors).map(vector).collect())
}

/// CPU time of this process so far, of all threads.
fn process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or_default();
    Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds)
}
