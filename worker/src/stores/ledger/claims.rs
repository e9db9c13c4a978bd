//! Claims: the right to work on a page range.
//!
//! The claim is checked with each batch. When two workers have the same range, the later one wins
//! and the earlier one stops. A claim that was never released belongs to a worker that died or is
//! late: the document is rechecked once a late write must have landed.

use mongodb::bson::{DateTime, Document, doc};

use super::{Entry, Ledger, RangeEntry, State, number, token, working};
use crate::runtime::failure::Failure;

/// The right to work on a page range until another worker takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) file_id: String,
    pub(crate) round: String,
    /// The range's first page, from 0.
    pub(crate) first: u32,
    token: String,
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
        let update = doc! {
            "$set": { path(*first, "claim"): token, "updated_at": DateTime::now() },
            "$inc": { path(*first, "attempts"): 1_i64, path(*first, "turns"): 1_i64 },
            "$push": { "open": token },
        };
        if let Some(entry) = self.update(filter, update).await? {
            return Ok(Some(entry));
        }
        let now = self.find(file_id).await?;
        Ok(now.filter(|entry| claim.is_held_in(entry)))
    }

    /// Records that the first `stored` pages of the range are in all stores, with `rows` rows.
    /// `false`: the claim is void.
    pub(crate) async fn record_progress(
        &self,
        claim: &Claim,
        stored: u32,
        rows: u64,
    ) -> Result<bool, Failure> {
        let set = doc! {
            path(claim.first, "stored"): i64::from(stored),
            path(claim.first, "rows"): number(rows),
            path(claim.first, "attempts"): 1_i64,
        };
        Ok(self.set(&claim.filter(), set).await?.is_some())
    }

    /// The state of the claimed range. `None`: the claim is void.
    pub(crate) async fn claimed_range(&self, claim: &Claim) -> Result<Option<RangeEntry>, Failure> {
        let entry = self.set(&claim.filter(), doc! {}).await?;
        Ok(entry.map(|entry| entry.range_entry(claim.first)))
    }

    /// Records that every page of the range is stored. `None`: the claim is void.
    pub(crate) async fn record_range_done(
        &self,
        claim: &Claim,
        pages: u32,
        rows: u64,
    ) -> Result<Option<Entry>, Failure> {
        let update = doc! {
            "$set": {
                path(claim.first, "stored"): i64::from(pages),
                path(claim.first, "rows"): number(rows),
                path(claim.first, "done"): true,
                path(claim.first, "attempts"): 0_i64,
                "updated_at": DateTime::now(),
            },
            "$pull": { "open": &claim.token },
        };
        self.update(claim.filter(), update).await
    }

    /// Releases a range: this attempt does not count. A repeated call counts once, because the
    /// first one closes the claim.
    pub(crate) async fn release(&self, claim: &Claim) -> Result<(), Failure> {
        let mut filter = claim.filter();
        filter.insert("open", &claim.token);
        let update = doc! {
            "$inc": { path(claim.first, "attempts"): -1_i64 },
            "$set": { "updated_at": DateTime::now() },
            "$pull": { "open": &claim.token },
        };
        match self.update(filter, update).await? {
            Some(_) => Ok(()),
            None => self.close(claim).await,
        }
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

    fn filter(&self) -> Document {
        let mut filter = working(&self.file_id, &self.round);
        filter.insert(path(self.first, "claim"), &self.token);
        filter
    }
}

fn path(first: u32, field: &str) -> String {
    format!("units.{first}.{field}")
}
