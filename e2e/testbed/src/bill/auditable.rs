//! The crates of a binary in the binary itself, in the format of `cargo auditable`, which scanners
//! read.

use std::io::Write as _;

use anyhow::Result;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde_json::{Map, Value, json};

use super::Crate;

/// Name of the section.
pub const SECTION: &str = ".dep-v0";

pub(super) fn write(crates: &[Crate]) -> Result<Vec<u8>> {
    let packages = crates.iter().enumerate().map(|(position, of)| {
        let source = if of.is_published {
            "crates.io"
        } else {
            "local"
        };
        let mut package = Map::new();
        package.insert("name".to_owned(), json!(of.name));
        package.insert("version".to_owned(), json!(of.version));
        package.insert("source".to_owned(), json!(source));
        if of.is_for_build {
            package.insert("kind".to_owned(), json!("build"));
        }
        if !of.dependencies.is_empty() {
            package.insert("dependencies".to_owned(), json!(of.dependencies));
        }
        if position == 0 {
            package.insert("root".to_owned(), json!(true));
        }
        Value::Object(package)
    });
    let packages: Vec<Value> = packages.collect();
    // Format 1: macros, and what they need, count as part of the build.
    let document = json!({"packages": packages, "format": 1});
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::best());
    packed.write_all(document.to_string().as_bytes())?;
    Ok(packed.finish()?)
}
