//! The task of a document, its page ranges, and its names in the stores. No I/O.

pub(crate) mod bucket;
mod cutoff;
pub(crate) mod fingerprint;
pub(crate) mod headers;
pub(crate) mod ids;
pub(crate) mod notification;
mod origin;
pub(crate) mod page_range;
pub(crate) mod recipe;
pub(crate) mod sent;
pub(crate) mod task;
pub(crate) mod trace_context;

pub(crate) use cutoff::Cutoff;
pub(crate) use fingerprint::Fingerprint;
pub(crate) use origin::Origin;
pub(crate) use recipe::Recipe;
pub(crate) use sent::Sent;
