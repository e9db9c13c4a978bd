//! What a document is before anything is done with it: the task, a range of its pages, and every
//! name that it will have in the stores. No I/O.

pub mod ids;
mod origin;
pub mod page_range;
pub mod task;

pub use origin::Origin;
