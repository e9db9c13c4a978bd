//! End-to-end tests on the test-bed: real Kubernetes, Kafka, Milvus, MongoDB wire server, S3 and
//! Redis.
//!
//! Every assertion reads the servers themselves. `cargo e2e` starts the servers. A test should
//! take at most a minute and embed fewer than 300 pages: longer ones belong to `cargo faults` and
//! `cargo measure`.

mod advise;
mod alerts;
mod api;
mod archive_and_rebuild;
mod bad_edit;
mod bad_pages;
mod bucket;
mod cli;
mod collection_life;
mod contradictions;
mod dashboards;
mod deaths;
mod deletions;
mod documents;
mod fairness;
mod gitops;
mod image_contents;
mod install;
mod kinds;
mod kstatus;
mod kube_score;
mod learning;
mod ledger;
mod lifecycle;
mod metrics;
mod obstacles;
mod order;
mod otlp;
mod page_texts;
mod pairs;
mod progress;
mod query;
mod quotas;
mod rebuild;
mod rebuild_faults;
mod recall;
mod reembed;
mod reindex;
mod reindex_latest;
mod restarts;
mod retention;
mod scale_subresource;
mod scaling;
mod scene;
mod secured_broker;
mod secured_kafka;
mod serve;
mod shutdown;
mod stress;
mod topic_settings;
mod trace;
mod trouble;
mod tune;
mod validate;
mod visual;
