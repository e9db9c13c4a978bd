//! The task of a document, its page ranges, and its names in the stores. No I/O.

pub(crate) mod headers;
pub(crate) mod ids;
mod origin;
pub(crate) mod page_range;
pub(crate) mod recipe;
pub(crate) mod task;

pub(crate) use origin::Origin;
pub(crate) use recipe::Recipe;
