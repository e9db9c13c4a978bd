//! Names of metrics and of their labels: alerts, dashboards and tests use them, so they do not
//! change.

pub mod documented;
pub mod operator;
pub mod query;
pub mod table;
pub mod worker;
