//! The program's commands, one module each. They connect the other modules and make no decisions
//! about documents.

pub(crate) mod advise;
pub(crate) mod archive;
pub(crate) mod audit;
pub(crate) mod check;
pub(crate) mod delete;
pub(crate) mod documents;
pub(crate) mod ingest;
pub(crate) mod inspect;
pub(crate) mod load;
pub(crate) mod proxy;
pub(crate) mod redrive;
pub(crate) mod reindex;
pub(crate) mod retain;
pub(crate) mod run;
pub(crate) mod search;
pub(crate) mod serve;
pub(crate) mod trace;
pub(crate) mod tune;
