//! The stores that a document ends up in, the ledger that remembers how far it is, and the progress
//! that users see.

pub mod ledger;
pub mod milvus;
pub mod mongo;
pub mod objects;
pub mod presign;
pub mod progress;
