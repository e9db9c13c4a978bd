//! Claims: the right to work on a page range.
//!
//! The claim is checked with each batch. When two workers have the same range, the later one wins
//! and the earlier one stops. A claim that was never released belongs to a worker that died or is
//! late: the document is rechecked once a late write must have landed.

use std::collections::BTreeSet;

use futures::future::try_join_all;
use mongodb::bson::{Bson, DateTime, Document, doc};

use super::{
    EndOfWorker, Entry, LATE_WRITES, Ledger, RangeEntry, Rejection, State, after, number, token,
    unchanged_recheck, working,
};
use crate::document::Cutoff;
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::mongo::ask;

/// Stands for a claim's token in a failure that was decided without a claim.
const ROUND: &str = "round";

/// The right to work on a page range until another worker takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) file_id: String,
    pub(crate) round: String,
    /// The range's first page, from 0.
    pub(crate) first: u32,
    token: String,
}

/// Who decides how a document in progress ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Decider<'a> {
    /// The worker that holds a claim.
    Claim(&'a Claim),
    /// A worker that does something for the document as a whole, in this round: it counts the rows
    /// of all ranges, or sends them. Workers that hold claims are superseded.
    Round(&'a Entry),
}

impl Ledger {
    /// Takes a range, from another worker if necessary, and returns the new entry. `None`: the
    /// range is done, or its round is over. A repeated call with the same claim counts once.
    pub(crate) async fn claim(&self, claim: &Claim) -> Result<Option<Entry>, Failure> {
        let Claim {
            file_id,
            round,
            first,
            token,
        } = claim;
        let mut filter = working(file_id, round);
        filter.insert(path(*first, "done"), doc! { "$ne": true });
        filter.insert(path(*first, "claim"), doc! { "$ne": token });
        let now = DateTime::now();
        let mut set = doc! {
            path(*first, "claim"): token, path(*first, "worker"): &self.worker,
            path(*first, "claimed_at"): now, "updated_at": now,
        };
        set.extend(unchanged_recheck());
        let update = doc! {
            "$set": set,
            "$inc": { path(*first, "attempts"): 1_i64, path(*first, "turns"): 1_i64 },
            "$push": { "open": token },
        };
        if let Some(entry) = self.update(filter, update).await? {
            return Ok(Some(entry));
        }
        let now = self.find(file_id).await?;
        Ok(now.filter(|entry| claim.is_held_in(entry)))
    }

    /// Records the number of pages and the length of a range, if the document is split. `None`: the
    /// claim is void.
    pub(crate) async fn record_page_count(
        &self,
        claim: &Claim,
        pages: u32,
        range_pages: Option<u32>,
    ) -> Result<Option<Entry>, Failure> {
        let set = doc! { "pages": i64::from(pages), "range_pages": range_pages.map(i64::from) };
        self.progress(&claim.filter(), set).await
    }

    /// Records that the stores hold nothing of earlier rounds. `None`: the claim is void.
    pub(crate) async fn record_prepared(&self, claim: &Claim) -> Result<Option<Entry>, Failure> {
        self.progress(&claim.filter(), doc! { "prepared": true })
            .await
    }

    /// Records that the document cannot be processed. Returns its entry if this call decided that,
    /// also when it is repeated. `None`: the claim is void, another round began, or another range
    /// failed first.
    pub(crate) async fn record_failed(
        &self,
        decider: Decider<'_>,
        failure: &Failure,
    ) -> Result<Option<Entry>, Failure> {
        let set = failed(failure, decider.token())?;
        if let Some(entry) = self.set(&decider.filter(), set).await? {
            return Ok(Some(entry));
        }
        let now = self.find(decider.file_id()).await?;
        Ok(now.filter(|entry| decider.has_failed(entry)))
    }

    /// Records that LAYRA deleted the file while it was processed. `requested`: the deletion of its
    /// knowledge base that somebody asked for. `None`: the claim is void, or another round began.
    pub(crate) async fn record_deleted(
        &self,
        decider: Decider<'_>,
        requested: Option<&Cutoff>,
    ) -> Result<Option<Entry>, Failure> {
        let now = DateTime::now();
        // The round stays: a repeated call finds its own entry.
        let mut update = doc! { "$set": {
            "state": "deleted", "deletion_requested": requested.is_some(), "updated_at": now,
            "finished_at": requested.map_or(now, |deletion| deletion.at),
            "recheck_at": after(now, LATE_WRITES),
        } };
        if let Some(deletion) = requested {
            update.insert("$push", doc! { "deletions": Bson::from(deletion) });
        }
        if let Some(entry) = self.update(decider.filter(), update).await? {
            return Ok(Some(entry));
        }
        let now = self.find(decider.file_id()).await?;
        Ok(now.filter(|entry| entry.state == State::Deleted && entry.round == decider.round()))
    }

    /// The state of the claimed range. `None`: the claim is void.
    pub(crate) async fn claimed_range(&self, claim: &Claim) -> Result<Option<RangeEntry>, Failure> {
        let entry = self.progress(&claim.filter(), doc! {}).await?;
        Ok(entry.map(|entry| entry.range_entry(claim.first)))
    }

    /// Records that every page of the range is stored or skipped. `None`: the claim is void.
    pub(crate) async fn record_range_done(
        &self,
        claim: &Claim,
        range: &RangeEntry,
    ) -> Result<Option<Entry>, Failure> {
        let mut set = doc! {
            path(claim.first, "stored"): i64::from(range.stored),
            path(claim.first, "rows"): number(range.rows),
            path(claim.first, "cpu_ms"): number(range.cpu_ms),
            path(claim.first, "done"): true,
            path(claim.first, "attempts"): 0_i64,
            "updated_at": DateTime::now(),
        };
        set.extend(unchanged_recheck());
        let update = doc! {
            "$set": set,
            "$pull": { "open": &claim.token },
        };
        self.update(claim.filter(), update).await
    }

    /// Releases a range: this attempt does not count. A repeated call counts once, because the
    /// first one closes the claim.
    pub(crate) async fn release(&self, claim: &Claim) -> Result<(), Failure> {
        let mut filter = claim.filter();
        filter.insert("open", &claim.token);
        // Void, so that the same claim is not given back again.
        let mut set = doc! { path(claim.first, "claim"): "", "updated_at": DateTime::now() };
        set.extend(unchanged_recheck());
        let update = doc! {
            "$inc": { path(claim.first, "attempts"): -1_i64 },
            "$set": set,
            "$pull": { "open": &claim.token },
        };
        match self.update(filter, update).await? {
            Some(_) => Ok(()),
            None => self.close(claim).await,
        }
    }

    /// Records that the worker ends because of a failure that the document may have caused. The
    /// attempt counts. No write of this claim is in flight.
    pub(crate) async fn record_end_of_worker(
        &self,
        claim: &Claim,
        failure: &Failure,
    ) -> Result<(), Failure> {
        let EndOfWorker { reason, message } = failure.into();
        let ended = doc! { "reason": reason, "message": message };
        let set = doc! { path(claim.first, "ended"): ended };
        self.progress(&claim.filter(), set).await?;
        self.close(claim).await
    }

    /// Gives claims back whose work has not ended, because the worker exits: their attempts do not
    /// count, and the claims are void. Writes may still be in flight, so the tokens stay in `open`.
    /// A repeated call, or a release of the same claim, does not count again.
    pub(crate) async fn give_back(&self, claims: &[Claim]) -> Result<(), Failure> {
        let firsts: BTreeSet<u32> = claims.iter().map(|claim| claim.first).collect();
        // The fields of a range are named by its first page: one update for each.
        let updates = firsts.into_iter().map(|first| {
            let (filter, update) = giving_back(claims, first);
            ask(self.entries.update_many(filter, update))
        });
        try_join_all(updates).await?;
        Ok(())
    }

    /// Records that no write of this claim is in flight.
    pub(crate) async fn close(&self, claim: &Claim) -> Result<(), Failure> {
        let update = doc! { "$pull": { "open": &claim.token } };
        self.update(doc! { "_id": &claim.file_id }, update).await?;
        Ok(())
    }
}

impl Claim {
    /// A claim to the range of a round that begins at page `first`. The ledger must grant it.
    pub(crate) fn new(file_id: &str, round: &str, first: u32) -> Self {
        Self {
            file_id: file_id.to_owned(),
            round: round.to_owned(),
            first,
            token: token(),
        }
    }

    fn is_held_in(&self, entry: &Entry) -> bool {
        let range = entry.range_entry(self.first);
        let is_current = entry.state == State::Working && entry.round == self.round;
        is_current && !range.done && range.claim == self.token
    }

    /// Matches the document as long as the claim is held. Every write that decides on the document
    /// uses it.
    pub(super) fn filter(&self) -> Document {
        let mut filter = working(&self.file_id, &self.round);
        filter.insert(path(self.first, "claim"), &self.token);
        filter
    }
}

impl Decider<'_> {
    fn file_id(&self) -> &str {
        match self {
            Self::Claim(claim) => &claim.file_id,
            Self::Round(entry) => &entry.file_id,
        }
    }

    fn round(&self) -> &str {
        match self {
            Self::Claim(claim) => &claim.round,
            Self::Round(entry) => &entry.round,
        }
    }

    fn token(&self) -> &str {
        match self {
            Self::Claim(claim) => &claim.token,
            Self::Round(_) => ROUND,
        }
    }

    fn filter(&self) -> Document {
        match self {
            Self::Claim(claim) => claim.filter(),
            Self::Round(entry) => working(&entry.file_id, &entry.round),
        }
    }

    fn has_failed(&self, entry: &Entry) -> bool {
        let failure = entry.failure.as_ref();
        let is_own = failure.is_some_and(|failure| failure.claim == self.token());
        entry.state == State::Failed && entry.round == self.round() && is_own
    }
}

/// The name of a field of the range that begins at `first`.
pub(super) fn path(first: u32, field: &str) -> String {
    format!("units.{first}.{field}")
}

/// Filter and update that give back the claims to the ranges that begin at page `first`.
fn giving_back(claims: &[Claim], first: u32) -> (Document, Document) {
    let same = claims.iter().filter(|claim| claim.first == first);
    let (ids, tokens): (Vec<&str>, Vec<&str>) = same
        .map(|claim| (claim.file_id.as_str(), claim.token.as_str()))
        .unzip();
    let filter = doc! {
        "_id": { "$in": ids }, "state": "working", path(first, "claim"): { "$in": tokens },
        // Not of a range that is done: its last attempt was taken back.
        path(first, "attempts"): { "$gt": 0 },
    };
    let mut set = doc! { path(first, "claim"): "", "updated_at": DateTime::now() };
    set.extend(unchanged_recheck());
    let update = doc! { "$inc": { path(first, "attempts"): -1_i64 }, "$set": set };
    (filter, update)
}

/// The fields of an entry that failed, by whose decision.
fn failed(failure: &Failure, decided_by: &str) -> Result<Document, Failure> {
    let rejection = Rejection {
        claim: decided_by.to_owned(),
        ..Rejection::from(failure)
    };
    let rejection = mongodb::bson::serialize_to_document(&rejection)
        .map_err(|error| Failure::permanent(Stage::Mongodb, Reason::DocumentNotStorable, error))?;
    let now = DateTime::now();
    Ok(doc! {
        "state": "failed", "failure": rejection, "finished_at": now,
        // Other workers may be processing ranges of the document.
        "recheck_at": after(now, LATE_WRITES),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::ledger::an_entry;

    #[test]
    fn a_failure_counts_as_recorded_only_for_the_one_that_recorded_it() {
        let claim = Claim::new("u_f", "round", 0);
        let failure = Failure::permanent(Stage::Render, Reason::Damaged, "x");
        let working = an_entry(State::Working);
        let deciders = [Decider::Claim(&claim), Decider::Round(&working)];
        for (decider, other) in [(deciders[0], deciders[1]), (deciders[1], deciders[0])] {
            let mut entry = an_entry(State::Failed);
            entry.failure = Some(Rejection {
                claim: decider.token().to_owned(),
                ..Rejection::from(&failure)
            });
            assert!(decider.has_failed(&entry));
            assert!(!other.has_failed(&entry));
            entry.round = "later".into();
            assert!(!decider.has_failed(&entry));
        }
        assert!(deciders[1].filter().get("units.0.claim").is_none());
    }

    #[test]
    fn claims_are_given_back_by_their_tokens_once() {
        let claims = [
            Claim::new("a", "round", 0),
            Claim::new("b", "round", 0),
            Claim::new("b", "round", 64),
        ];
        let (filter, update) = giving_back(&claims, 0);
        let tokens = [claims[0].token.as_str(), claims[1].token.as_str()];
        assert_eq!(
            filter,
            doc! {
                "_id": { "$in": ["a", "b"] }, "state": "working",
                "units.0.claim": { "$in": tokens.as_slice() },
                "units.0.attempts": { "$gt": 0 },
            }
        );
        let set = update.get_document("$set").unwrap();
        assert_eq!(set.get_str("units.0.claim").ok(), Some(""), "matched once");
        let less = update.get_document("$inc").unwrap();
        assert_eq!(less.get_i64("units.0.attempts").ok(), Some(-1));
        assert!(update.get("$pull").is_none(), "writes may be in flight");
        let (filter, _) = giving_back(&claims, 64);
        assert_eq!(filter.get_document("_id").unwrap(), &doc! { "$in": ["b"] });
    }

    #[test]
    fn a_claim_matches_its_own_round_and_token_only() {
        let claim = Claim::new("u_f", "round", 64);
        let filter = claim.filter();
        assert_eq!(filter.get_str("round").ok(), Some("round"));
        assert_eq!(filter.get_str("state").ok(), Some("working"));
        assert_eq!(
            filter.get_str("units.64.claim").ok(),
            Some(claim.token.as_str())
        );
    }
}
