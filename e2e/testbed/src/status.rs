//! The running processes of a test-bed, with their ports and memory.

use anyhow::Result;

use super::kubernetes;
use super::process::Daemon;
use super::services::Service;
use super::settings::Settings;

/// One process of a test-bed.
#[derive(Debug)]
pub struct ProcessStatus {
    /// Name of the process and of its log.
    pub name: String,
    /// None when it has exited.
    pub pid: Option<u32>,
    /// The port that its clients use.
    pub port: Option<u16>,
    /// Resident memory, while it runs.
    pub resident_bytes: Option<u64>,
}

/// Describes for people whether the test-bed is running, and how to stop it.
pub fn describe_testbed() -> Result<String> {
    let is_down = processes(&Settings::from_env()?)?.is_empty();
    Ok(if is_down {
        "No server is running.".to_owned()
    } else {
        "The test-bed is running, possibly only in part: the next command reuses or replaces it, and \
         `cargo testbed down` stops it."
            .to_owned()
    })
}

/// Every process that the test-bed with these settings has started.
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
