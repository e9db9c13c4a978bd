//! Replaces the index of a collection in place: nothing finds its pages meanwhile.

use layra_crds::{ReindexPhase, rebuild_collection};
use uuid::Uuid;

use super::Ended;
use super::context::Context;
use crate::runtime::failure::Failure;
use crate::stores::rebuilds::Rebuild;

/// Replaces the index. What was begun earlier is continued.
pub(super) async fn replace(context: &Context, rebuild: &Rebuild) -> Result<Ended, Failure> {
    let (vectors, name) = (&context.vectors, &rebuild.collection);
    let progress = &context.progress;
    if vectors.describe(name).await?.is_none() {
        context.rebuilds.end(name, &context.owner).await?;
        return Ok(Ended::Gone);
    }
    progress.phase(
        name,
        ReindexPhase::Indexing,
        "nothing finds its pages meanwhile",
    );
    let state = vectors.index_state(name).await?;
    if context
        .index
        .difference(state.as_ref().map(|state| &state.found))
        .is_some()
    {
        vectors.release(name).await?;
        vectors.drop_index(name).await?;
        vectors.ensure_index(name).await?;
    }
    context.wait_for_index(name, 0).await?;
    context.load(name).await?;
    context.rebuilds.end(name, &context.owner).await?;
    Ok(Ended::Done)
}

/// Fails if the server refuses the object's index, before any collection lost its own. Tries it on
/// an empty collection.
pub(super) async fn try_index(context: &Context, model: &str) -> Result<(), Failure> {
    let Some(model) = context.vectors.describe(model).await? else {
        return Ok(());
    };
    let token = Uuid::new_v4().simple().to_string();
    let trial = rebuild_collection(&token, "trial");
    context.vectors.create_like(&trial, &model).await?;
    let tried = context.vectors.ensure_index(&trial).await;
    context.vectors.drop_collection(&trial).await?;
    tried
}
