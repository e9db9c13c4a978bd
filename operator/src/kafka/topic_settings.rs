//! The settings of existing topics that can lose tasks, read every few minutes, a few topics at a
//! time. A topic whose settings may not be read has none.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use super::cluster::Cluster;

/// How often the settings of a topic are read.
const AGE: Duration = Duration::from_mins(5);
/// The most topics that are read at once. The configuration of a topic has dozens of entries.
const AT_ONCE: usize = 50;

/// Settings of a topic; `None` where they may not be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TopicSettings {
    /// The smallest number of replicas of a partition.
    pub(crate) replication_factor: Option<i32>,
    /// `cleanup.policy` contains `compact`.
    pub(crate) compacted: bool,
    /// `retention.ms`; negative: without end.
    pub(crate) retention_ms: Option<i64>,
    /// `min.insync.replicas`
    pub(crate) min_insync_replicas: Option<i32>,
}

/// The settings of the topics of one cluster, with the time of the last request for them; `None`: it
/// has never been answered.
#[derive(Default)]
pub(super) struct SettingsCache {
    topics: HashMap<String, (Instant, Option<TopicSettings>)>,
}

impl SettingsCache {
    /// The last known settings.
    pub(super) fn get(&self, topic: &str) -> Option<TopicSettings> {
        self.topics.get(topic).and_then(|(_, settings)| *settings)
    }

    /// The topics to read now: those without settings, and those whose settings are the oldest.
    fn due<'a>(&mut self, existing: &[&'a str], now: Instant) -> Vec<&'a str> {
        let exists: HashSet<&str> = existing.iter().copied().collect();
        self.topics
            .retain(|topic, _| exists.contains(topic.as_str()));
        let mut due: Vec<(Option<Instant>, &str)> = existing
            .iter()
            .map(|topic| (self.topics.get(*topic).map(|(at, _)| *at), *topic))
            .filter(|(at, _)| at.is_none_or(|at| now.duration_since(at) >= AGE))
            .collect();
        due.sort_unstable();
        due.truncate(AT_ONCE);
        due.into_iter().map(|(_, topic)| topic).collect()
    }

    /// Reads some of the topics whose settings are old. A failure is tried again after as long as a
    /// success, and the last values stay: the settings are a warning, not a condition for anything.
    pub(super) fn refresh(&mut self, cluster: &Cluster, existing: &[&str]) {
        let now = Instant::now();
        let due = self.due(existing, now);
        if due.is_empty() {
            return;
        }
        let read = cluster.topic_settings(&due);
        self.store(&due, &read, now);
    }

    fn store(&mut self, due: &[&str], read: &HashMap<String, TopicSettings>, now: Instant) {
        for topic in due {
            let settings = read.get(*topic).copied().or_else(|| self.get(topic));
            self.topics.insert((*topic).to_owned(), (now, settings));
        }
    }
}

impl TopicSettings {
    /// From the configuration of a topic.
    pub(super) fn new(
        replication_factor: Option<i32>,
        configuration: Option<&HashMap<String, String>>,
    ) -> Self {
        let value = |key| configuration.and_then(|values| values.get(key));
        let policy = value(CLEANUP_POLICY).map_or("", String::as_str);
        Self {
            replication_factor,
            compacted: policy.split(',').any(|word| word.trim() == "compact"),
            retention_ms: value(RETENTION_MS).and_then(|text| text.parse().ok()),
            min_insync_replicas: value(MIN_INSYNC_REPLICAS).and_then(|text| text.parse().ok()),
        }
    }
}

pub(super) const CLEANUP_POLICY: &str = "cleanup.policy";
pub(super) const RETENTION_MS: &str = "retention.ms";
pub(super) const MIN_INSYNC_REPLICAS: &str = "min.insync.replicas";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_as_kafka_writes_it() {
        let configuration = HashMap::from([
            ("cleanup.policy".to_owned(), "delete, compact".to_owned()),
            ("retention.ms".to_owned(), "-1".to_owned()),
            ("min.insync.replicas".to_owned(), "2".to_owned()),
        ]);
        let settings = TopicSettings::new(Some(3), Some(&configuration));
        assert!(settings.compacted);
        assert_eq!(settings.retention_ms, Some(-1));
        assert_eq!(settings.min_insync_replicas, Some(2));
        assert_eq!(TopicSettings::new(None, None), TopicSettings::default());
    }

    #[test]
    fn a_request_that_fails_changes_nothing() {
        let mut cache = SettingsCache::default();
        let start = Instant::now();
        cache.store(&["tasks"], &HashMap::new(), start);
        assert_eq!(
            cache.get("tasks"),
            None,
            "not the same as without a finding"
        );
        assert!(
            cache.due(&["tasks"], start).is_empty(),
            "but not repeated at once"
        );
        let compacted = TopicSettings {
            compacted: true,
            ..TopicSettings::default()
        };
        let read = HashMap::from([("tasks".to_owned(), compacted)]);
        cache.store(&["tasks"], &read, start + AGE);
        cache.store(&["tasks"], &HashMap::new(), start + 2 * AGE);
        assert_eq!(cache.get("tasks"), Some(compacted));
    }

    #[test]
    fn topics_are_read_a_few_at_a_time_the_oldest_first_and_deleted_ones_are_forgotten() {
        let names: Vec<String> = (0..AT_ONCE + 10).map(|n| format!("t{n:03}")).collect();
        let existing: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut cache = SettingsCache::default();
        let start = Instant::now();
        let first = cache.due(&existing, start);
        assert_eq!(first.len(), AT_ONCE);
        for topic in first {
            let read = (start, Some(TopicSettings::default()));
            cache.topics.insert(topic.to_owned(), read);
        }
        assert_eq!(cache.due(&existing, start).len(), 10);
        let later = start + AGE;
        let due = cache.due(&existing[..1], later);
        assert_eq!((due.len(), cache.topics.len()), (1, 1));
    }
}
