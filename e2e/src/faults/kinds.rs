//! The kinds of faults and the order in which they are injected.

use std::fmt;

use layra_testbed::Service;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A worker is killed.
    KillWorker,
    /// A renderer is killed.
    KillRenderer,
    /// The operator is killed.
    KillOperator,
    /// A worker is terminated with work in flight.
    TerminateWorker,
    /// A worker is stopped until its session expires and its partitions are reassigned.
    PauseWorker,
    /// A worker is stopped until it has also exceeded `max.poll.interval.ms`.
    PauseWorkerPastPollInterval,
    /// Another member joins the group, is assigned partitions, processes nothing, and leaves.
    MovePartitions,
    /// The pipeline is given more partitions, which the operator adds to the topics.
    AddPartitions,
    /// A worker and its renderers stand still for longer than a page may take, as in a node that
    /// is suspended.
    StandStill,
    /// The configuration is changed while page ranges wait, and the workers are restarted.
    ChangeConfiguration,
    /// Tasks are sent again.
    Duplicate,
    /// Documents are deleted, and some of them are uploaded again at once.
    DeleteAndUploadAgain,
    /// Dead letters are redriven while MongoDB does not answer.
    Redrive,
    /// The disks of the workers' cache directories are full for some seconds.
    FillDisk,
    /// Milvus throttles all writes for some seconds.
    LimitMilvus,
    /// A server is killed and started again.
    Restart(Service),
    /// A server is stopped with SIGSTOP, its connections open.
    Freeze(Service),
    /// The S3 server runs for a fraction of the time.
    SlowS3,
    /// A server was left frozen by a program that was killed, and the next one finds it so.
    LeaveFrozen,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillWorker => f.write_str("kill -9 of a worker"),
            Self::KillRenderer => f.write_str("kill -9 of a renderer"),
            Self::KillOperator => f.write_str("kill -9 of the operator"),
            Self::TerminateWorker => f.write_str("SIGTERM to a worker"),
            Self::PauseWorker => f.write_str("a worker is stopped past its session timeout"),
            Self::PauseWorkerPastPollInterval => {
                f.write_str("a worker is stopped past max.poll.interval")
            }
            Self::MovePartitions => {
                f.write_str("partitions are assigned to another member and back")
            }
            Self::AddPartitions => f.write_str("partitions are added"),
            Self::StandStill => {
                f.write_str("a worker and its renderers are stopped past the page time limit")
            }
            Self::ChangeConfiguration => {
                f.write_str("the configuration is changed while ranges wait")
            }
            Self::Duplicate => f.write_str("tasks are sent again"),
            Self::DeleteAndUploadAgain => {
                f.write_str("documents are deleted, and half of them uploaded again")
            }
            Self::Redrive => f.write_str("dead letters are redriven while MongoDB is frozen"),
            Self::FillDisk => f.write_str("the disks of the workers' caches are full"),
            Self::LimitMilvus => f.write_str("Milvus throttles writes"),
            Self::Restart(service) => write!(f, "{} is restarted", service.name()),
            Self::Freeze(service) => write!(f, "{} is frozen", service.name()),
            Self::SlowS3 => f.write_str("S3 is slow"),
            Self::LeaveFrozen => f.write_str("a killed run has left a server frozen"),
        }
    }
}

impl Fault {
    /// Whether only a worker that starts a new document notices it.
    pub(super) fn needs_new_work(self) -> bool {
        matches!(
            self,
            Self::FillDisk | Self::LimitMilvus | Self::StandStill | Self::SlowS3
        )
    }
}

/// The faults of a run, drawn by its seed: each kind once, then decks in which the kill of a worker
/// is the most frequent kind.
pub(super) struct Deck {
    cards: Vec<Fault>,
}

impl Deck {
    /// A deck whose first cards are all kinds, in random order.
    pub(super) fn new(random: &mut fastrand::Rng) -> Self {
        let mut cards = kinds();
        random.shuffle(&mut cards);
        Self { cards }
    }

    /// The next fault.
    pub(super) fn draw(&mut self, random: &mut fastrand::Rng) -> Fault {
        if self.cards.is_empty() {
            self.cards = kinds();
            self.cards.extend([Fault::KillWorker; 6]);
            self.cards.extend([
                Fault::KillRenderer,
                Fault::TerminateWorker,
                Fault::PauseWorker,
                Fault::Duplicate,
                Fault::DeleteAndUploadAgain,
            ]);
            random.shuffle(&mut self.cards);
        }
        self.cards.pop().unwrap_or(Fault::KillWorker)
    }
}

fn kinds() -> Vec<Fault> {
    let mut kinds = vec![
        Fault::KillWorker,
        Fault::KillRenderer,
        Fault::KillOperator,
        Fault::TerminateWorker,
        Fault::PauseWorker,
        Fault::PauseWorkerPastPollInterval,
        Fault::MovePartitions,
        Fault::AddPartitions,
        Fault::StandStill,
        Fault::ChangeConfiguration,
        Fault::Duplicate,
        Fault::DeleteAndUploadAgain,
        Fault::Redrive,
        Fault::FillDisk,
        Fault::LimitMilvus,
        Fault::SlowS3,
        Fault::LeaveFrozen,
    ];
    kinds.extend(Service::ALL.map(Fault::Restart));
    kinds.extend(Service::ALL.map(Fault::Freeze));
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_drawn_before_any_is_repeated() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut deck = Deck::new(&mut random);
        let count = kinds().len();
        let first: Vec<Fault> = (0..count).map(|_| deck.draw(&mut random)).collect();
        for kind in kinds() {
            assert_eq!(first.iter().filter(|fault| **fault == kind).count(), 1);
        }
        let later: Vec<Fault> = (0..count + 10).map(|_| deck.draw(&mut random)).collect();
        let kills = later.iter().filter(|fault| **fault == Fault::KillWorker);
        assert_eq!(kills.count(), 7);
    }

    #[test]
    fn the_seed_determines_the_order() {
        let draw = |seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut deck = Deck::new(&mut random);
            (0..60).map(|_| deck.draw(&mut random)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
