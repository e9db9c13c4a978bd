//! What is generated from the charts or beside them, and how tests render and judge it. Nothing of
//! this crate is installed.

pub mod argo_cd;
pub mod dashboards;
pub mod helm;
pub mod kustomize;
pub mod values;

use std::path::PathBuf;

/// A file or folder below `charts/`.
#[must_use]
pub fn path(below: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(below)
}
