//! The policies with their names and settings.

use clap::ValueEnum;
use layra_autoscaler::{Learned, Policy};

use super::{
    flink::{self, Flink},
    hpa::Hpa,
    keda::{self, Keda},
    layra::Layra,
    numaflow::{self, Numaflow},
    scaler::{Bounds, Scaler},
};

/// Another autoscaler to compare with: our implementation of its published formula.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Peer {
    /// KEDA's `apache-kafka` scaler with the HPA that it creates.
    Keda,
    /// A Kubernetes HPA on the lag, at least one worker.
    Hpa,
    /// Numaflow's autoscaler for a source.
    Numaflow,
    /// The Flink autoscaler, at least one worker.
    Flink,
}

/// Where the settings of the peers come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Settings {
    /// Their documented defaults.
    Defaults,
    /// Tuned for the drain target, with the true speed of the workers and size of the documents.
    ForDrainTarget {
        /// Documents per second of one worker.
        documents_per_second: f64,
        /// Seconds.
        drain_target: f64,
    },
}

impl Peer {
    /// The policy with its settings.
    pub(super) fn scaler(self, bounds: Bounds, settings: Settings) -> Box<dyn Scaler> {
        let (threshold, processing, catch_up) = match settings {
            Settings::Defaults => (
                keda::LAG_THRESHOLD,
                numaflow::TARGET_PROCESSING,
                flink::CATCH_UP,
            ),
            Settings::ForDrainTarget {
                documents_per_second,
                drain_target,
            } => (
                (documents_per_second * drain_target).floor().max(1.0),
                drain_target,
                drain_target,
            ),
        };
        match self {
            Self::Keda => Box::new(Keda::new(bounds, threshold)),
            Self::Hpa => Box::new(Hpa::new(bounds, threshold)),
            Self::Numaflow => Box::new(Numaflow::new(bounds, processing)),
            Self::Flink => Box::new(Flink::new(bounds, catch_up)),
        }
    }
}

/// This operator's policy, then the peers'.
pub(super) fn scalers(
    policy: &Policy,
    learned: Option<Learned>,
    peers: &[Peer],
    settings: Settings,
) -> Vec<Box<dyn Scaler>> {
    let bounds = Bounds {
        min: policy.floor,
        max: policy.max.get(),
    };
    let own: Box<dyn Scaler> = Box::new(Layra::new(policy.clone(), learned));
    let others = peers.iter().map(|peer| peer.scaler(bounds, settings));
    std::iter::once(own).chain(others).collect()
}
