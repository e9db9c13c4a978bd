//! What can go wrong, and how it is made to.

use std::fmt;
use std::time::Duration;

use anyhow::Result;

use super::Sent;
use super::fleet::Fleet;
use crate::layra::User;
use crate::testbed::{Service, Testbed};

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A worker is killed.
    KillWorker,
    /// A renderer is killed.
    KillRenderer,
    /// A worker is told to leave, with work in flight.
    TerminateWorker,
    /// A worker stands still until its partitions are given away, and then goes on.
    PauseWorker,
    /// Tasks are delivered once more.
    Duplicate,
    /// A server ends and is started again.
    Restart(Service),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillWorker => f.write_str("kill -9 of a worker"),
            Self::KillRenderer => f.write_str("kill -9 of a renderer"),
            Self::TerminateWorker => f.write_str("SIGTERM to a worker"),
            Self::PauseWorker => f.write_str("a worker stands still for 12 s"),
            Self::Duplicate => f.write_str("tasks are delivered again"),
            Self::Restart(service) => write!(f, "{} is restarted", service.name()),
        }
    }
}

impl Fault {
    /// Any fault; a worker's death is the most frequent one.
    pub(super) fn random(random: &mut fastrand::Rng) -> Self {
        match random.u32(0..16) {
            0..6 => Self::KillWorker,
            6..8 => Self::KillRenderer,
            8..10 => Self::TerminateWorker,
            10..12 => Self::PauseWorker,
            12..14 => Self::Duplicate,
            _ => Self::Restart(Service::ALL[random.usize(0..Service::ALL.len())]),
        }
    }
}

/// Makes it go wrong. Returns when the next thing may.
pub(super) async fn inject(
    fault: Fault,
    fleet: &mut Fleet<'_>,
    testbed: &Testbed,
    user: &User,
    sent: &[Sent],
    random: &mut fastrand::Rng,
) -> Result<()> {
    let index = random.usize(0..fleet.size());
    match fault {
        Fault::KillWorker => fleet.kill(index),
        Fault::KillRenderer => {
            fleet.kill_renderer(index);
            Ok(())
        }
        Fault::TerminateWorker => fleet.terminate(index).await,
        Fault::PauseWorker => fleet.pause(index, Duration::from_secs(12)).await,
        Fault::Duplicate => {
            for _ in 0..3.min(sent.len()) {
                let again = &sent[random.usize(0..sent.len())];
                user.send_task(&again.upload).await?;
            }
            Ok(())
        }
        Fault::Restart(service) => {
            let server = testbed.service(service)?;
            // The MongoDB stand-in has no journal: it may only be asked to end.
            if service == Service::MongoDb {
                server.stop().await?;
            } else {
                server.kill().await?;
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
            server.start().await
        }
    }
}
