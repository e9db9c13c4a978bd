//! Metrics of `layra-worker serve`. It has those of its model and its renderers, too, under the names
//! of a [`worker`](super::worker).

/// Requests, by [`PATH`] and [`STATUS`].
pub const REQUESTS: &str = "ingestion_query_requests_total";
/// Seconds to answer a request, by [`PATH`].
pub const DURATION: &str = "ingestion_query_duration_seconds";
/// Requests in progress, by [`PATH`].
pub const IN_FLIGHT: &str = "ingestion_query_in_flight";
/// Seconds of a stage of a search, by [`STAGE`]: `embed`, `candidates`, `compare`, `check`, `snippet`,
/// `heat`.
pub const STAGE_DURATION: &str = "ingestion_query_stage_seconds";
/// Searches of a knowledge base, by [`RESULT`]: `hit` if the cache had the pages, else `miss`.
pub const CACHE: &str = "ingestion_query_cache_total";
/// Label: the path of the request.
pub const PATH: &str = "path";
/// Label: the status code; `499` if the client left before the answer.
pub const STATUS: &str = "status";
/// Label of [`STAGE_DURATION`].
pub const STAGE: &str = "stage";
/// Label of [`CACHE`].
pub const RESULT: &str = "result";
