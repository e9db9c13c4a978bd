//! The stores that a document ends up in.

pub mod milvus;
pub mod mongo;
pub mod objects;
pub mod presign;
pub mod progress;
