//! Waits until a name leads to the new collection for everybody.

use std::time::Duration;

use super::context::Context;
use crate::runtime::failure::{Failure, Reason, Stage};

/// Between two looks at what a proxy of Milvus remembers.
const REMEMBERED: Duration = Duration::from_millis(250);
/// By default it forgets after 3 seconds which nodes serve a name.
const MOST_REMEMBERED: Duration = Duration::from_secs(5);
/// Then the attempt has failed.
const LONGEST: Duration = Duration::from_secs(30);

/// Waits until the name leads to the new collection, not only for those who ask whether it exists.
/// A primary key of the old one that is found under the name shows that a proxy of Milvus remembers
/// where it led: keys are unique in the whole server.
pub(super) async fn wait_until_served(
    context: &Context,
    target: &str,
    sources: &[String],
) -> Result<(), Failure> {
    let vectors = &context.vectors;
    vectors.forget_name(target).await?;
    context.load(target).await?;
    let mut waited = Duration::ZERO;
    while is_remembered(context, target, sources, waited >= MOST_REMEMBERED).await? {
        if waited >= LONGEST {
            // Trying again makes them forget it again.
            let message = format!("Milvus still reads the old collection under the name {target}");
            let reason = Reason::MilvusUnavailable;
            return Err(Failure::transient(Stage::Milvus, reason, message));
        }
        context.pause(REMEMBERED).await?;
        waited += REMEMBERED;
    }
    Ok(())
}

/// Whether reads under the name do not come from the new collection. One without any row counts,
/// unless that is so for long, or the old one has none either.
async fn is_remembered(
    context: &Context,
    target: &str,
    sources: &[String],
    is_long: bool,
) -> Result<bool, Failure> {
    let vectors = &context.vectors;
    let found = vectors.first_pk(target).await?;
    for source in sources {
        let is_old = match found {
            Some(pk) => vectors.has_pk(source, pk).await?,
            None => !is_long && vectors.first_pk(source).await?.is_some(),
        };
        if is_old {
            return Ok(true);
        }
    }
    Ok(false)
}
