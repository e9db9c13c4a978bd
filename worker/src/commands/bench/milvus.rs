//! `layra-worker bench milvus`: rows into a collection, as the store stage writes them.

use std::io::Write;
use std::time::Instant;

use clap::Args;
use layra_crds::MilvusSpec;
use serde::Serialize;

use super::cpu_of_process;
use crate::stores::milvus::{PageVectors, Vectors};

/// Measure how fast vectors are written to Milvus
///
/// Makes the collection where it does not exist. Vectors are pseudo-random.
#[derive(Debug, Args)]
pub struct MilvusArgs {
    /// `http://host:port` of Milvus
    #[arg(long)]
    uri: String,

    /// The collection
    #[arg(long)]
    collection: String,

    /// Pages to write
    #[arg(long, default_value_t = 100)]
    pages: u32,

    /// Vectors of a page
    #[arg(long, default_value_t = 700)]
    vectors: usize,

    /// Width of a vector
    #[arg(long, default_value_t = 128)]
    dimensions: usize,

    /// Pages that are written together
    #[arg(long, default_value_t = 16)]
    batch: usize,

    /// Name of the file that the pages are of
    #[arg(long, default_value = "bench")]
    file: String,
}

#[derive(Debug, Serialize)]
struct Report {
    rows: u64,
    seconds: f64,
    /// CPU time of this client.
    cpu_seconds: f64,
}

/// Runs the command. Writes one JSON object.
pub async fn run(args: &MilvusArgs, output: &mut impl Write) -> anyhow::Result<()> {
    let spec: MilvusSpec = serde_json::from_value(serde_json::json!({ "uri": args.uri }))?;
    let vectors = Vectors::connect(&spec, None, args.dimensions).await?;
    vectors.ensure_collection(&args.collection).await?;
    let pages: Vec<PageVectors> = (0..args.pages).map(|page| random(args, page)).collect();
    let (start, cpu) = (Instant::now(), cpu_of_process());
    let mut rows = 0;
    for batch in pages.chunks(args.batch.max(1)) {
        rows += vectors.insert(&args.collection, &args.file, batch).await?;
    }
    let report = Report {
        rows,
        seconds: start.elapsed().as_secs_f64(),
        cpu_seconds: cpu_of_process().saturating_sub(cpu).as_secs_f64(),
    };
    serde_json::to_writer(&mut *output, &report)?;
    writeln!(output)?;
    Ok(())
}

/// A page whose vectors are different from each other and the same at every call.
fn random(args: &MilvusArgs, page: u32) -> PageVectors {
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
    PageVectors {
        image_id: format!("{}-{page}", args.file),
        page,
        vectors: (0..args.vectors).map(vector).collect(),
    }
}
