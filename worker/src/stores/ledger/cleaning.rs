//! Leases: the right to remove a document from the stores.
//!
//! Removal takes several requests to several servers. It starts from an entry that was read before,
//! so without a lease it could remove a document that is being ingested again. No round begins
//! while a lease is held, and each later step of the removal needs the lease. A lease whose holder
//! died ends by itself, once a write of the holder must have landed.

use std::pin::pin;
use std::time::Duration;

use mongodb::bson::{DateTime, Document, doc};

use super::{Entry, LATE_WRITES, Ledger, after, in_state, token};
use crate::runtime::failure::{Failure, Reason, Stage};

/// How long a lease lasts that is not renewed.
const LEASE: Duration = LATE_WRITES;
/// How often a lease is renewed.
const RENEWAL: Duration = Duration::from_secs(LEASE.as_secs() / 6);

/// The right to remove a document from the stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    file_id: String,
    token: String,
}

impl Lease {
    pub(super) fn new(file_id: &str) -> Self {
        Self {
            file_id: file_id.to_owned(),
            token: token(),
        }
    }

    /// The fields of an entry whose document is being removed under this lease.
    pub(super) fn fields(&self) -> Document {
        doc! { "cleaner": &self.token, "cleaning_until": after(DateTime::now(), LEASE) }
    }

    fn filter(&self) -> Document {
        doc! { "_id": &self.file_id, "cleaner": &self.token }
    }
}

impl Ledger {
    /// Takes the lease of a document that is not in progress. Fails with the class `Superseded` if
    /// the round or the state is no longer that of `entry`, and with `Transient` while another
    /// worker holds the lease.
    pub(crate) async fn lease(&self, entry: &Entry) -> Result<Lease, Failure> {
        let lease = Lease::new(&entry.file_id);
        let mut filter = in_state(entry);
        filter.extend(no_lease());
        let update = doc! { "$set": lease.fields() };
        if self.update(filter, update).await?.is_some() {
            return Ok(lease);
        }
        match self.find(&entry.file_id).await? {
            Some(now) if (&now.round, now.state) == (&entry.round, entry.state) => {
                Err(being_removed())
            }
            _ => Err(Failure::superseded(Stage::Mongodb)),
        }
    }

    /// Runs a removal as long as its lease is held. Fails with the class `Superseded` when it is
    /// lost: a deletion has taken it, or this worker stood still for longer than it lasts.
    pub(crate) async fn under_lease<T>(
        &self,
        lease: &Lease,
        removal: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        while_renewed(removal, RENEWAL, || self.renew(lease)).await
    }

    /// Renews a lease. Fails with the class `Superseded` if it is lost.
    pub(crate) async fn ensure_held(&self, lease: &Lease) -> Result<(), Failure> {
        if self.renew(lease).await? {
            Ok(())
        } else {
            Err(Failure::superseded(Stage::Mongodb))
        }
    }

    async fn renew(&self, lease: &Lease) -> Result<bool, Failure> {
        let update = doc! { "$set": lease.fields() };
        Ok(self.update(lease.filter(), update).await?.is_some())
    }

    /// Ends a lease after a complete removal. After a failed one a request may still be in flight,
    /// so the lease must end by itself.
    pub(crate) async fn end_lease(&self, lease: &Lease) -> Result<(), Failure> {
        self.finish(lease, Document::new()).await
    }

    /// Ends a lease and sets further fields.
    pub(super) async fn finish(&self, lease: &Lease, mut set: Document) -> Result<(), Failure> {
        set.extend(doc! { "cleaner": null, "cleaning_until": null });
        let update = doc! { "$set": set };
        self.update(lease.filter(), update).await?;
        Ok(())
    }
}

/// Matches an entry whose document nobody is removing.
pub(super) fn no_lease() -> Document {
    doc! { "$or": [
        { "cleaning_until": null }, { "cleaning_until": { "$lte": DateTime::now() } },
    ] }
}

pub(super) fn being_removed() -> Failure {
    let message = "a worker is removing what the stores hold of the document";
    Failure::transient(Stage::Mongodb, Reason::BeingRemoved, message)
}

/// Runs `work` and calls `renew` in intervals, until that returns `false` or fails. After a pause
/// of the whole process `renew` comes first.
async fn while_renewed<T, Renewal>(
    work: impl Future<Output = Result<T, Failure>>,
    interval: Duration,
    mut renew: impl FnMut() -> Renewal,
) -> Result<T, Failure>
where
    Renewal: Future<Output = Result<bool, Failure>>,
{
    let mut work = pin!(work);
    loop {
        let due = tokio::time::sleep(interval);
        tokio::select! {
            biased;
            () = due => {}
            result = &mut work => return result,
        }
        if !renew().await? {
            return Err(Failure::superseded(Stage::Mongodb));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::runtime::failure::Class;

    const INTERVAL: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_long_removal_is_renewed_until_it_ends() {
        let renewals = Cell::new(0);
        let work = async {
            while renewals.get() < 3 {
                tokio::time::sleep(INTERVAL / 20).await;
            }
            Ok(7)
        };
        let result = while_renewed(work, INTERVAL, || async {
            renewals.set(renewals.get() + 1);
            Ok(true)
        });
        assert_eq!(result.await, Ok(7));
    }

    #[tokio::test]
    async fn a_removal_takes_no_further_step_after_its_lease_is_lost() {
        let is_lost = Cell::new(false);
        let work = async {
            loop {
                assert!(!is_lost.get(), "a step without the lease");
                tokio::time::sleep(INTERVAL / 20).await;
            }
        };
        let result: Result<(), _> = while_renewed(work, INTERVAL, || async {
            is_lost.set(true);
            Ok(false)
        })
        .await;
        assert_eq!(result.unwrap_err().class, Class::Superseded);
    }

    #[tokio::test]
    async fn a_worker_that_stood_still_renews_its_lease_before_its_next_step() {
        let stood_still = Cell::new(false);
        let work = async {
            // The whole process stands still.
            std::thread::sleep(2 * INTERVAL);
            stood_still.set(true);
            tokio::task::yield_now().await;
            unreachable!("a step before the renewal")
        };
        let result: Result<(), _> = while_renewed(work, INTERVAL, || async {
            assert!(stood_still.get());
            Ok(false)
        })
        .await;
        assert_eq!(result.unwrap_err().class, Class::Superseded);
    }
}
