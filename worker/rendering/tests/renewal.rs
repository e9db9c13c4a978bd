//! A renderer that grows with the pages that it has drawn is replaced in time.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests are not marked as tests"
)]

mod common;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use common::renderer::{at, file, options};
use layra_rendering::{RenderOptions, Renderer};

/// A document whose pages have a picture of their own each, of 256 x `rows` grey pixels.
fn pictures(pages: usize, rows: usize) -> Vec<u8> {
    let kids: Vec<String> = (0..pages)
        .map(|page| format!("{} 0 R", 3 + 3 * page))
        .collect();
    let mut file = b"%PDF-1.4\n".to_vec();
    let mut offsets = Vec::new();
    let mut object = |file: &mut Vec<u8>, parts: &[&[u8]]| {
        offsets.push(file.len());
        let number = offsets.len();
        file.extend(format!("{number} 0 obj\n").bytes());
        for part in parts {
            file.extend(*part);
        }
        file.extend(b"\nendobj\n");
    };
    object(&mut file, &[b"<< /Type /Catalog /Pages 2 0 R >>"]);
    let tree = format!(
        "<< /Type /Pages /Kids [{}] /Count {pages} >>",
        kids.join(" ")
    );
    object(&mut file, &[tree.as_bytes()]);
    let mut random = fastrand::Rng::with_seed(7);
    for page in 0..pages {
        let (content, picture) = (4 + 3 * page, 5 + 3 * page);
        let dictionary = format!(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 100 100] /Contents {content} 0 R \
             /Resources << /XObject << /P {picture} 0 R >> >> >>"
        );
        object(&mut file, &[dictionary.as_bytes()]);
        let draw = "q 100 0 0 100 0 0 cm /P Do Q";
        let stream = format!("<< /Length {} >>\nstream\n{draw}\nendstream", draw.len());
        object(&mut file, &[stream.as_bytes()]);
        let length = 256 * rows;
        let start = format!(
            "<< /Type /XObject /Subtype /Image /Width 256 /Height {rows} /ColorSpace /DeviceGray \
             /BitsPerComponent 8 /Length {length} >>\nstream\n"
        );
        let mut pixels = vec![0; length];
        random.fill(&mut pixels);
        object(&mut file, &[start.as_bytes(), &pixels, b"\nendstream"]);
    }
    let table = file.len();
    let count = offsets.len() + 1;
    let mut end = format!("xref\n0 {count}\n0000000000 65535 f \n");
    for offset in &offsets {
        writeln!(end, "{offset:010} 00000 n ").unwrap();
    }
    write!(
        end,
        "trailer\n<< /Size {count} /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n"
    )
    .unwrap();
    file.extend(end.bytes());
    file
}

/// Peaks of a process's mapped and resident memory, in MiB.
fn peaks(process: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let peak = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        let number = line.split_whitespace().nth(1).unwrap();
        number.parse::<u64>().unwrap() / 1024
    };
    (peak("VmPeak:"), peak("VmHWM:"))
}

/// Draws a document that is larger than the memory limit. With `LAYRA_RENEWAL_PAGES`, another number
/// of pages.
#[tokio::test]
async fn a_document_larger_than_the_memory_is_drawn_to_its_end() {
    let pages = std::env::var("LAYRA_RENEWAL_PAGES").map_or(80, |pages| pages.parse().unwrap());
    // A mebibyte each.
    let (_directory, path) = file(&pictures(pages, 4096));
    let limit_mib = 64;
    let renderer = Renderer::new(RenderOptions {
        memory_limit_bytes: limit_mib << 20,
        max_pages: 100_000,
        ..options()
    });
    let mut document = renderer.open(&path).await.unwrap();
    let mut processes = BTreeSet::new();
    let mut resident = 0;
    for page in 0..u32::try_from(pages).unwrap() {
        let drawn = document.render(at(page, 72)).await.unwrap();
        assert_eq!((drawn.width, drawn.height), (100, 100));
        let process = document.process_id().unwrap();
        processes.insert(process);
        resident = resident.max(peaks(process).1);
        if page == 19 {
            println!(
                "pages=20 peaks_mib={:?} processes={}",
                peaks(process),
                processes.len()
            );
        }
    }
    let last = document.process_id().unwrap();
    println!(
        "pages={pages} peaks_mib={:?} largest_resident_mib={resident} processes={}",
        peaks(last),
        processes.len()
    );
    assert!(document.take_charged() > std::time::Duration::ZERO);
    // What it has loaded before the limit counts, too.
    assert!(resident < limit_mib + 64, "{resident} MiB");
}
