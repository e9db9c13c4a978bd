//! Names of metrics and labels, as alerts, dashboards and tests use them.

pub mod worker;
