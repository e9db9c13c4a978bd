//! The consumer group: which worker has which partition assigned. Balanced by count in each topic,
//! and sticky: a partition moves only when it must.
//!
//! After a change of the members, partitions that move are not read for [`PAUSE`] seconds. A
//! cooperative rebalance takes two rounds (revoke, then assign). Each round waits until every
//! member has learned of it with its next heartbeat, every three seconds: the slowest of several
//! members takes two and a half of them on average. The other partitions are read meanwhile.

/// Seconds for which a partition that moves is not read.
pub(super) const PAUSE: u32 = 5;

/// The assignment of partitions to workers.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    /// By partition, those of the tasks topic first.
    owners: Vec<Option<u64>>,
    /// By partition: the second from which it is read again.
    resumes: Vec<u32>,
    topic_size: usize,
    rebalancing_until: u32,
    /// Changes of the members.
    pub(super) rebalances: u32,
}

impl Group {
    /// Two topics with this many partitions each, and no member.
    pub(super) fn new(partitions: usize) -> Self {
        Self {
            owners: vec![None; 2 * partitions],
            resumes: vec![0; 2 * partitions],
            topic_size: partitions,
            rebalancing_until: 0,
            rebalances: 0,
        }
    }

    /// Whether partitions are moving.
    pub(super) fn is_rebalancing(&self, now: u32) -> bool {
        now < self.rebalancing_until
    }

    /// Whether the partition is assigned to this worker, and read now.
    pub(super) fn reads(&self, worker: u64, partition: usize, now: u32) -> bool {
        self.owners[partition] == Some(worker) && now >= self.resumes[partition]
    }

    /// The partitions assigned to a worker.
    pub(super) fn partitions_of(&self, worker: u64) -> impl Iterator<Item = usize> {
        let owners = self.owners.iter().enumerate();
        owners.filter_map(move |(partition, owner)| (*owner == Some(worker)).then_some(partition))
    }

    /// Assigns the partitions to new members.
    pub(super) fn rebalance(&mut self, members: &[u64], now: u32) {
        let before = self.owners.clone();
        for owner in &mut self.owners {
            *owner = owner.filter(|owner| members.contains(owner));
        }
        let size = self.topic_size;
        for first in [0, size] {
            self.balance(first..first + size, members);
        }
        for (partition, owner) in before.iter().enumerate() {
            if *owner != self.owners[partition] {
                self.resumes[partition] = now + PAUSE;
            }
        }
        self.rebalancing_until = now + PAUSE;
        self.rebalances += 1;
    }

    fn balance(&mut self, topic: std::ops::Range<usize>, members: &[u64]) {
        let count = |owners: &[Option<u64>], member: u64| {
            owners
                .iter()
                .filter(|owner| **owner == Some(member))
                .count()
        };
        for partition in topic.clone() {
            if self.owners[partition].is_none() {
                // Of those with the fewest of this topic, the one with the fewest of both.
                self.owners[partition] = members.iter().copied().min_by_key(|member| {
                    let of_topic = count(&self.owners[topic.clone()], *member);
                    (of_topic, count(&self.owners, *member))
                });
            }
        }
        loop {
            let counts = |member: &u64| count(&self.owners[topic.clone()], *member);
            let total = |member: &u64| count(&self.owners, *member);
            let Some(most) = members
                .iter()
                .copied()
                .max_by_key(|m| (counts(m), total(m)))
            else {
                return;
            };
            let Some(fewest) = members
                .iter()
                .copied()
                .min_by_key(|m| (counts(m), total(m)))
            else {
                return;
            };
            if counts(&most) <= counts(&fewest) + 1 {
                return;
            }
            let moved = topic
                .clone()
                .rfind(|index| self.owners[*index] == Some(most));
            if let Some(moved) = moved {
                self.owners[moved] = Some(fewest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(group: &Group, members: &[u64]) -> Vec<usize> {
        members
            .iter()
            .map(|one| group.partitions_of(*one).count())
            .collect()
    }

    #[test]
    fn a_new_member_takes_no_more_than_its_share() {
        let mut group = Group::new(6);
        group.rebalance(&[1], 0);
        assert_eq!(counts(&group, &[1]), [12]);
        let before = group.owners.clone();
        group.rebalance(&[1, 2], 100);
        assert_eq!(counts(&group, &[1, 2]), [6, 6]);
        let moved = before.iter().zip(&group.owners).filter(|(a, b)| a != b);
        assert_eq!(moved.count(), 6);
    }

    #[test]
    fn only_partitions_that_move_are_paused() {
        let mut group = Group::new(2);
        group.rebalance(&[1], 0);
        assert!(!group.reads(1, 0, 4) && group.reads(1, 0, 5));
        group.rebalance(&[1, 2], 10);
        assert!(group.reads(1, 0, 10), "it does not move");
        assert!(!group.reads(2, 1, 14) && group.reads(2, 1, 15));
        assert!(group.is_rebalancing(14) && !group.is_rebalancing(15));
    }

    #[test]
    fn without_members_no_partition_is_assigned() {
        let mut group = Group::new(2);
        group.rebalance(&[1], 0);
        group.rebalance(&[], 10);
        assert_eq!(group.owners, [None; 4]);
    }

    proptest! {
        #[test]
        fn every_partition_has_one_owner_and_loads_differ_by_one(
            partitions in 1..20usize,
            changes in proptest::collection::vec(proptest::collection::btree_set(0..12u64, 1..8), 1..6),
        ) {
            let mut group = Group::new(partitions);
            for members in changes {
                let members: Vec<u64> = members.into_iter().collect();
                group.rebalance(&members, 0);
                for topic in [&group.owners[..partitions], &group.owners[partitions..]] {
                    let counts: Vec<usize> = members.iter()
                        .map(|one| topic.iter().filter(|owner| **owner == Some(*one)).count())
                        .collect();
                    prop_assert_eq!(counts.iter().sum::<usize>(), partitions);
                    prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
                }
            }
        }
    }
}
