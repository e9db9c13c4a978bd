//! Brings the ledger, and the collection that serves now, up to date with what was embedded again.

use std::collections::BTreeMap;

use layra_crds::ReindexPhase;

use super::verdict::{FileState, Look, Verdict, verdict};
use super::{Contents, Reembedding, Target, contents, files_of};
use crate::commands::reindex::context::Context;
use crate::runtime::failure::Failure;
use crate::stores::mongo::ShownFile;
use crate::stores::rebuilds::Rebuild;

/// Files that are looked up together.
const FILES_AT_ONCE: usize = 100;
/// So many files are not deleted at once by mistake: MongoDB has lost them.
const MANY: usize = 100;

/// Looks at the collection twice. In between, every request that was in flight at the swap has landed
/// or failed. Then the old one is not needed any more.
pub(in super::super) async fn settle(
    context: &Context,
    model: &Reembedding,
    rebuild: &Rebuild,
) -> Result<(), Failure> {
    let name = &rebuild.collection;
    let message = "the new collection serves; what was in flight during the swap is brought in";
    let phase = ReindexPhase::Verifying;
    context.progress.phase(name, phase, message);
    let before = look(context, model, rebuild, Look::First, None).await?;
    context.pause(context.late_writes).await?;
    look(context, model, rebuild, Look::Last, Some(&before)).await?;
    Ok(())
}

async fn look(
    context: &Context,
    model: &Reembedding,
    rebuild: &Rebuild,
    look: Look,
    before: Option<&BTreeMap<String, u64>>,
) -> Result<BTreeMap<String, u64>, Failure> {
    let name = &rebuild.collection;
    let old = old_collections(context, rebuild).await?;
    let mut sources = vec![name.as_str()];
    sources.extend(old.iter().map(String::as_str));
    let files: Vec<String> = files_of(context, name, &sources)
        .await?
        .into_iter()
        .collect();
    let found = contents(context, name).await?;
    let swapped_at = rebuild.swapped_at.unwrap_or(rebuild.started_at);
    let (mut deleted, mut left) = (Vec::new(), Vec::new());
    for ids in files.chunks(FILES_AT_ONCE) {
        let shown = context.documents.shown_files(ids).await?;
        let names: Vec<&str> = ids.iter().map(String::as_str).collect();
        let entries = context.ledger.find_all(&names).await?;
        for id in ids {
            let file = shown.get(id);
            let misses = match file {
                Some(file) => misses(context, model, file, found.get(id)).await?,
                None => false,
            };
            let entry = entries.iter().find(|entry| entry.file_id == *id);
            let state = FileState {
                is_known: file.is_some(),
                entry,
                misses,
                rows: rows_of(&found, id),
                rows_before: before.map(|before| before.get(id).copied().unwrap_or_default()),
            };
            match (verdict(&state, look, swapped_at), entry) {
                (Verdict::Remove, _) => deleted.push(id.clone()),
                (Verdict::Embed, _) => left.push(id.clone()),
                (Verdict::Count, Some(entry)) => {
                    context.ledger.record_rows(entry, Some(state.rows)).await?;
                }
                (Verdict::Ingest, Some(entry)) => {
                    tracing::warn!(file_id = id, "a worker ingests the document again");
                    context.ledger.record_rows(entry, None).await?;
                }
                _ => {}
            }
        }
    }
    if deleted.len() > MANY && deleted.len() > found.len() / 2 {
        return Err(crate::commands::reindex::failed(format!(
            "{} of {} files of {name} vanished from MongoDB while it was embedded again: nothing was \
             removed",
            deleted.len(),
            found.len(),
        )));
    }
    for id in deleted {
        tracing::info!(collection = name, file = id, "deleted meanwhile");
        context.vectors.delete_file(name, &id).await?;
    }
    // What LAYRA wrote during the swap. Another model than the collection's embeds nothing.
    if rebuild.model.as_deref() == Some(model.own().digest.as_str()) {
        let mut target = Target {
            context,
            model,
            name: name.clone(),
            without: std::collections::HashSet::new(),
        };
        for files in left.chunks(super::FILES_AT_ONCE) {
            target.embed(files, true).await?;
        }
    }
    Ok(found
        .into_iter()
        .map(|(file, pages)| (file, pages.values().sum()))
        .collect())
}

/// The old collection, and those that others created while the name was missing.
async fn old_collections(context: &Context, rebuild: &Rebuild) -> Result<Vec<String>, Failure> {
    let mut names = vec![rebuild.old_name()];
    names.extend((0..rebuild.others).map(|number| rebuild.other_name(number)));
    let mut found = Vec::new();
    for name in names {
        if context.vectors.describe(&name).await?.is_some() {
            context.vectors.ensure_index(&name).await?;
            context.load(&name).await?;
            found.push(name);
        }
    }
    Ok(found)
}

fn rows_of(found: &Contents, file: &str) -> u64 {
    found.get(file).map_or(0, |pages| pages.values().sum())
}

/// Whether a page of a file that should have vectors has none. A page without a text has none, if the
/// texts of its file are kept.
async fn misses(
    context: &Context,
    model: &Reembedding,
    file: &ShownFile,
    rows: Option<&BTreeMap<String, u64>>,
) -> Result<bool, Failure> {
    let has = |image: &String| rows.is_some_and(|rows| rows.contains_key(image));
    let missing: Vec<String> = file
        .pages
        .keys()
        .filter(|image| !has(image))
        .cloned()
        .collect();
    if missing.is_empty() || !model.reads_text() {
        return Ok(!missing.is_empty());
    }
    let is_none_kept = missing.len() == file.pages.len();
    let texts = context.documents.page_texts(&missing).await?;
    Ok(is_none_kept || !texts.is_empty())
}
