//! What can go wrong, and in which order it does.

use std::fmt;

use layra_testbed::Service;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A worker is killed.
    KillWorker,
    /// A renderer is killed.
    KillRenderer,
    /// The operator is killed.
    KillOperator,
    /// A worker is told to leave, with work in flight.
    TerminateWorker,
    /// A worker stands still until its session ends and its partitions are given away.
    PauseWorker,
    /// A worker stands still until it has also missed `max.poll.interval.ms`.
    PauseWorkerPastPollInterval,
    /// Another member takes partitions, works on nothing, and leaves again.
    MovePartitions,
    /// The topics get more partitions, through the operator.
    AddPartitions,
    /// Tasks are delivered once more.
    Duplicate,
    /// The workers' cache directories are full for a while.
    FillDisk,
    /// Milvus refuses writes beyond a rate that no write keeps to, for a while.
    LimitMilvus,
    /// A server ends and is started again.
    Restart(Service),
    /// A server stands still, its connections open.
    Freeze(Service),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillWorker => f.write_str("kill -9 of a worker"),
            Self::KillRenderer => f.write_str("kill -9 of a renderer"),
            Self::KillOperator => f.write_str("kill -9 of the operator"),
            Self::TerminateWorker => f.write_str("SIGTERM to a worker"),
            Self::PauseWorker => f.write_str("a worker stands still past its session"),
            Self::PauseWorkerPastPollInterval => {
                f.write_str("a worker stands still past max.poll.interval")
            }
            Self::MovePartitions => f.write_str("partitions move to another member and back"),
            Self::AddPartitions => f.write_str("partitions are added"),
            Self::Duplicate => f.write_str("tasks are delivered again"),
            Self::FillDisk => f.write_str("the disks under the workers' caches are full"),
            Self::LimitMilvus => f.write_str("Milvus limits the rate of writes"),
            Self::Restart(service) => write!(f, "{} is restarted", service.name()),
            Self::Freeze(service) => write!(f, "{} stands still", service.name()),
        }
    }
}

impl Fault {
    /// Whether only a worker that begins something new meets it.
    pub(super) fn needs_new_work(self) -> bool {
        matches!(self, Self::FillDisk | Self::LimitMilvus)
    }
}

/// Deals faults by the seed: each kind once, then decks in which a worker's death is the most
/// frequent kind.
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
        Fault::Duplicate,
        Fault::FillDisk,
        Fault::LimitMilvus,
    ];
    kinds.extend(Service::ALL.map(Fault::Restart));
    kinds.extend(Service::ALL.map(Fault::Freeze));
    kinds
}

/// How many kinds there are: a run with as many faults has seen each.
pub const KINDS: usize = 11 + 2 * Service::ALL.len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_before_any_comes_again() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut deck = Deck::new(&mut random);
        let first: Vec<Fault> = (0..KINDS).map(|_| deck.draw(&mut random)).collect();
        for kind in kinds() {
            assert_eq!(first.iter().filter(|fault| **fault == kind).count(), 1);
        }
        let later: Vec<Fault> = (0..KINDS + 10).map(|_| deck.draw(&mut random)).collect();
        let deaths = later.iter().filter(|fault| **fault == Fault::KillWorker);
        assert_eq!(deaths.count(), 7);
    }

    #[test]
    fn the_seed_decides() {
        let draw = |seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut deck = Deck::new(&mut random);
            (0..60).map(|_| deck.draw(&mut random)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
