//! The latest entries, for people.

use futures::TryStreamExt;
use mongodb::bson::{Document, doc};

use super::{Entry, Ledger, State, state};
use crate::runtime::failure::Failure;
use crate::stores::mongo::ask;

/// Which entries of the pipeline are listed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listing {
    pub(crate) state: Option<State>,
    pub(crate) knowledge_base: Option<String>,
    /// At most so many, those that changed last.
    pub(crate) limit: u32,
}

impl Ledger {
    /// The entries of this pipeline that changed last; the latest one first.
    pub(crate) async fn latest(&self, listing: &Listing) -> Result<Vec<Entry>, Failure> {
        let found = self
            .entries
            .find(filter(&self.topic, listing))
            .sort(doc! { "updated_at": -1 })
            .limit(i64::from(listing.limit));
        let mut found = ask(found).await?;
        let mut entries = Vec::new();
        while let Some(entry) = ask(found.try_next()).await? {
            entries.push(entry);
        }
        Ok(entries)
    }
}

fn filter(topic: &str, listing: &Listing) -> Document {
    // What begins with the topic and `/`: `0` is the character after it.
    let mut filter = doc! {
        "origin": { "$gte": format!("{topic}/"), "$lt": format!("{topic}0") },
    };
    if let Some(wanted) = listing.state {
        filter.insert("state", state(wanted));
    }
    if let Some(knowledge_base) = &listing.knowledge_base {
        filter.insert("knowledge_db_id", knowledge_base);
    }
    filter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_entries_of_the_pipelines_topic_match() {
        let filter = filter("tasks", &Listing::default());
        let range = filter.get_document("origin").unwrap();
        let (from, to) = (
            range.get_str("$gte").unwrap(),
            range.get_str("$lt").unwrap(),
        );
        for (origin, expected) in [
            ("tasks/0/17", true),
            ("tasks/ingest/f/1", true),
            ("tasks-2/0/17", false),
            ("tasks.ranges/0/17", false),
            ("task/0/17", false),
        ] {
            assert_eq!(origin >= from && origin < to, expected, "{origin}");
        }
        assert_eq!(filter.len(), 1);
    }

    #[test]
    fn a_state_and_a_knowledge_base_narrow_the_list() {
        let listing = Listing {
            state: Some(State::Failed),
            knowledge_base: Some("kb".to_owned()),
            limit: 5,
        };
        let filter = filter("tasks", &listing);
        assert_eq!(filter.get_str("state").unwrap(), "failed");
        assert_eq!(filter.get_str("knowledge_db_id").unwrap(), "kb");
    }
}
