//! What of a bed runs, and what it takes.

use anyhow::Result;

use super::kubernetes;
use super::process::Daemon;
use super::services::Service;
use super::settings::Settings;

/// One process of a bed, for `cargo testbed status`.
#[derive(Debug)]
pub struct ProcessStatus {
    /// The name of its log.
    pub name: String,
    /// None when it has ended.
    pub pid: Option<u32>,
    /// The port that others use.
    pub port: Option<u16>,
    /// Resident memory.
    pub resident_bytes: Option<u64>,
}

/// Every process that the bed with these settings has started.
pub fn processes(settings: &Settings) -> Result<Vec<ProcessStatus>> {
    let port = |name: &str| {
        let service = Service::ALL
            .into_iter()
            .find(|service| service.name() == name);
        let offset = kubernetes::PROCESSES
            .iter()
            .find(|(process, _)| *process == name);
        service
            .map(|service| service.port(settings))
            .or_else(|| offset.and_then(|(_, offset)| Some(settings.ports.kubernetes + (*offset)?)))
    };
    let status = |daemon: &Daemon| ProcessStatus {
        name: daemon.name().to_owned(),
        pid: daemon.pid(),
        port: port(daemon.name()),
        resident_bytes: daemon.resident_bytes(),
    };
    Ok(Daemon::recorded(settings)?.iter().map(status).collect())
}
