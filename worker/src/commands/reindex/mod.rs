//! The `reindex` command: rebuilds the pipeline's collections whose index differs from the object's.
//!
//! It finds them by itself, continues what an earlier run left, and needs no model. How a rebuild
//! stays whole: `docs/decisions/0024-collections-are-rebuilt-beside.md`.
//!
//! The `reembed` command does the same with collections of another model: [`mod@reembed`].

mod beside;
mod comparison;
mod context;
mod in_place;
mod progress;
mod reembed;
mod served;
mod server;
mod settle;
mod step;
mod survey;
mod verdict;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use layra_crds::{OnIndexDrift, ReindexPhase};
use mongodb::bson::DateTime;
use tokio::sync::{OnceCell, Semaphore};
use uuid::Uuid;

use crate::assembly::Common;
use crate::cli::{Method, RebuildArgs, ReembedArgs, ReindexArgs};
use crate::runtime::failure::{Class, Failure, Reason, Stage};
use crate::stores::collection_models::CollectionModels;
use crate::stores::ledger::LATE_WRITES;
use crate::stores::rebuilds::{Owner, Phase, Rebuild, Rebuilds};
use context::{Context, Throttle};
use progress::Progress;
use reembed::Reembedding;
use survey::{Job, Task};
use window::Window;

/// Between two looks while other processes work on all that is left.
const ELSEWHERE: Duration = Duration::from_secs(5);
/// A collection that still differs after so many rebuilds fails.
const MOST_REBUILDS: u32 = 3;

/// How the work on a collection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// It serves with the new index.
    Done,
    /// It was dropped.
    Gone,
    /// Another process works on it.
    Elsewhere,
    /// The window has closed, or the process must end.
    Paused,
    /// Its copy was dropped: it serves as before.
    Undone,
    Failed,
}

/// Runs the command. Returns whether nothing failed.
pub(crate) async fn run(common: &Common, args: &ReindexArgs) -> anyhow::Result<bool> {
    let milvus = &common.settings.config.stores.milvus;
    let method = match (args.method, milvus.on_index_drift) {
        (Some(method), _) => method,
        (None, OnIndexDrift::RebuildBeside) => Method::Beside,
        (None, OnIndexDrift::RebuildInPlace) => Method::InPlace,
        (None, OnIndexDrift::Report) if args.dry_run || args.finish => Method::Beside,
        (None, OnIndexDrift::Report) => anyhow::bail!(
            "stores.milvus.onIndexDrift is Report. Choose a method with --method, only finish what \
             an earlier run has begun with --finish, or only show what differs with --dry-run"
        ),
    };
    let window = if args.finish {
        // Nothing is begun that would have to wait for it.
        Window::always()
    } else {
        Window::new(milvus.rebuild.window.as_ref())?
    };
    let choices = Choices {
        work: &args.work,
        method,
        window,
        only_finishes: args.finish,
        dry_run: args.dry_run,
        reembeds: false,
    };
    Box::pin(execute(common, choices)).await
}

/// Embeds collections of another model again. Returns whether nothing failed.
pub(crate) async fn reembed(common: &Common, args: &ReembedArgs) -> anyhow::Result<bool> {
    let choices = Choices {
        work: &args.work,
        method: Method::Beside,
        window: Window::always(),
        only_finishes: args.finish,
        dry_run: args.dry_run,
        reembeds: true,
    };
    Box::pin(execute(common, choices)).await
}

/// What a run does.
struct Choices<'a> {
    work: &'a RebuildArgs,
    method: Method,
    window: Window,
    only_finishes: bool,
    dry_run: bool,
    /// Vectors are computed again, and not copied.
    reembeds: bool,
}

async fn execute(common: &Common, choices: Choices<'_>) -> anyhow::Result<bool> {
    let milvus = &common.settings.config.stores.milvus;
    let RebuildArgs {
        collection, listen, ..
    } = choices.work;
    if let Some(name) = collection
        && !milvus.owns_collection(name)
    {
        anyhow::bail!(
            "{name} is not a collection of this pipeline: {}",
            milvus.collection
        );
    }
    let progress = Arc::new(Progress::new(Arc::clone(&common.health)));
    progress.message("connecting to the stores");
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    let metrics = Arc::clone(&common.metrics);
    tokio::spawn(server::serve(listener, Arc::clone(&progress), metrics));
    let (method, dry_run) = (choices.method, choices.dry_run);
    let collection = collection.clone();
    let context = Box::pin(connect(common, choices, progress)).await?;
    if dry_run {
        let survey = survey::survey(&context, collection.as_deref()).await?;
        survey.write(&mut std::io::stdout().lock())?;
        return Ok(true);
    }
    let run = Run {
        context,
        method,
        collection,
        tried: OnceCell::new(),
    };
    Box::pin(run.until_nothing_is_left()).await
}

async fn connect(
    common: &Common,
    choices: Choices<'_>,
    progress: Arc<Progress>,
) -> Result<Context, Failure> {
    let milvus = common.settings.config.stores.milvus.clone();
    let late_writes = choices.work.late_writes_seconds.map(Duration::from_secs);
    let late_writes = late_writes.unwrap_or(LATE_WRITES);
    let documents = common.documents().await?;
    let reembedding = if choices.reembeds {
        Some(Box::pin(Reembedding::prepare(common)).await?)
    } else {
        None
    };
    // The width of the vectors is that of the model or, if they are copied, of each collection.
    let dimensions = reembedding.as_ref().map_or(0, Reembedding::dimensions);
    let own = reembedding.as_ref().map(|model| model.own().clone());
    let vectors = common.vectors(dimensions).await?;
    Ok(Context {
        vectors: vectors.of_model(documents.database(), own),
        ledger: common.ledger(&documents).await?,
        rebuilds: Rebuilds::new(documents.database()),
        archives: common.archives(&documents)?,
        models: CollectionModels::new(documents.database()),
        documents,
        owner: Owner {
            name: Uuid::new_v4().to_string(),
            lasts: late_writes,
        },
        index: milvus.index.resolved(),
        window: choices.window,
        only_finishes: choices.only_finishes,
        reembedding,
        throttle: Throttle::new(milvus.rebuild.vectors_per_second),
        milvus,
        progress,
        metrics: Arc::clone(&common.metrics),
        retry: common.retry(),
        stop: common.stop.clone(),
        late_writes,
    })
}

/// A failure of a rebuild that trying again does not overcome.
fn failed(message: String) -> Failure {
    Failure::permanent(Stage::Milvus, Reason::RebuildFailed, message)
}

struct Run {
    context: Context,
    method: Method,
    collection: Option<String>,
    /// Set once the server has accepted the index.
    tried: OnceCell<()>,
}

impl Run {
    async fn until_nothing_is_left(&self) -> anyhow::Result<bool> {
        let context = &self.context;
        let mut failed = BTreeSet::new();
        let mut rebuilt: BTreeMap<String, u32> = BTreeMap::new();
        survey::drop_trials(context).await?;
        loop {
            let mut survey = survey::survey(context, self.collection.as_deref()).await?;
            if context.only_finishes {
                let was_begun = |task: &Task| matches!(task.job, Job::Continue(_));
                survey.tasks.retain(was_begun);
            }
            survey
                .tasks
                .retain(|task| !failed.contains(&task.collection));
            for task in &survey.tasks {
                let times = rebuilt.get(&task.collection).copied().unwrap_or_default();
                if times >= MOST_REBUILDS {
                    let reason = format!("after {times} rebuilds: {}", task.difference);
                    self.report_failure(&task.collection, &reason);
                    failed.insert(task.collection.clone());
                }
            }
            survey
                .tasks
                .retain(|task| !failed.contains(&task.collection));
            let rows = survey.tasks.iter();
            let rows = rows.map(|task| (task.collection.clone(), task.rows));
            context.progress.found(survey.collections, rows.collect());
            if context.is_over() {
                survey.tasks.retain(|task| !task.needs_window());
            }
            if survey.tasks.is_empty() || context.stop.is_cancelled() {
                break;
            }
            let ended = self.work(survey.tasks).await;
            for (name, ended) in &ended {
                match ended {
                    Ended::Failed => drop(failed.insert(name.clone())),
                    Ended::Done => *rebuilt.entry(name.clone()).or_default() += 1,
                    Ended::Gone | Ended::Elsewhere | Ended::Paused | Ended::Undone => {}
                }
            }
            if ended.iter().all(|(_, ended)| *ended == Ended::Elsewhere) {
                context
                    .progress
                    .message("another process rebuilds what is left");
                context.pause(ELSEWHERE).await.ok();
            }
        }
        self.conclude(&failed)
    }

    fn conclude(&self, failed: &BTreeSet<String>) -> anyhow::Result<bool> {
        let done = self.context.progress.count(ReindexPhase::Done);
        let failed = failed.len();
        tracing::info!(done, failed, "no further collection is rebuilt now");
        println!("{done} collections rebuilt, {failed} failed");
        if self.context.stop.is_cancelled() {
            anyhow::bail!("stopped before the end. The next run continues");
        }
        Ok(failed == 0)
    }

    /// Works on all tasks, some at the same time.
    async fn work(&self, tasks: Vec<Task>) -> Vec<(String, Ended)> {
        let most = usize::try_from(self.context.milvus.rebuild.max_parallel).unwrap_or(1);
        let slots = &Semaphore::new(most.max(1));
        self.context.progress.message("");
        let count = tasks.len().max(1);
        // A collection whose new index serves waits without a slot for what was in flight.
        let works = tasks.into_iter().map(|task| async move {
            let ended = Box::pin(self.one(&task, slots)).await;
            (task.collection, ended)
        });
        futures::stream::iter(works)
            .buffer_unordered(count)
            .collect()
            .await
    }

    /// Works on one collection, and reports how it ended.
    async fn one(&self, task: &Task, slots: &Semaphore) -> Ended {
        let name = &task.collection;
        let (context, progress) = (&self.context, &self.context.progress);
        let failure = match Box::pin(self.rebuild(task, slots)).await {
            Ok(Ended::Done) => {
                tracing::info!(collection = name, "rebuilt");
                progress.phase(name, ReindexPhase::Done, "");
                return Ended::Done;
            }
            Ok(ended) => {
                progress.forget(name);
                return ended;
            }
            Err(failure) => failure,
        };
        match failure.class {
            Class::Superseded => {
                progress.forget(name);
                return Ended::Elsewhere;
            }
            Class::Stopped => {
                if let Err(error) = context.rebuilds.release(name, &context.owner).await {
                    tracing::warn!(collection = name, %error, "rebuild not released");
                }
                progress.forget(name);
                return Ended::Paused;
            }
            _ => {}
        }
        self.report_failure(name, &failure.message);
        // What was computed is not thrown away because this process cannot go on.
        let ended = if context.reembedding.is_some() && failure.class == Class::Fatal {
            context.rebuilds.release(name, &context.owner).await
        } else {
            self.undo(name).await
        };
        if let Err(error) = ended {
            tracing::warn!(collection = name, %error, "the copy was not dropped");
        }
        Ended::Failed
    }

    fn report_failure(&self, name: &str, reason: &str) {
        tracing::error!(collection = name, reason, "rebuild failed");
        println!("{name}: {reason}");
        let progress = &self.context.progress;
        progress.phase(name, ReindexPhase::Failed, reason);
    }

    async fn rebuild(&self, task: &Task, slots: &Semaphore) -> Result<Ended, Failure> {
        let context = &self.context;
        let stopped = |_| Failure::stopped(Stage::Milvus);
        let slot = slots.acquire().await.map_err(stopped)?;
        if context.is_over() && task.needs_window() {
            return Ok(Ended::Paused);
        }
        let name = &task.collection;
        let begun = self.retrying(|| self.begin(task)).await?;
        let Some(rebuild) = begun else {
            return Ok(Ended::Elsewhere);
        };
        tracing::info!(collection = name, difference = task.difference, phase = ?rebuild.phase,
            "rebuilding");
        if rebuild.phase == Phase::InPlace {
            let replace = || async {
                let rebuild = self.take(name).await?;
                let replace = in_place::replace(context, &rebuild);
                context.owned(name, Box::pin(replace)).await
            };
            return self.retrying(replace).await;
        }
        let advance = |until_swapped| async move {
            let mut rebuild = self.take(name).await?;
            let advance = beside::advance(context, &mut rebuild, until_swapped);
            context.owned(name, Box::pin(advance)).await
        };
        if let Some(ended) = self.retrying(|| advance(true)).await? {
            return Ok(ended);
        }
        drop(slot);
        let ended = self.retrying(|| advance(false)).await?;
        Ok(ended.unwrap_or(Ended::Paused))
    }

    async fn retrying<T, Attempt>(&self, attempt: impl Fn() -> Attempt) -> Result<T, Failure>
    where
        Attempt: Future<Output = Result<T, Failure>>,
    {
        let (retry, stop) = (&self.context.retry, &self.context.stop);
        retry.run(Stage::Milvus, stop, |_| attempt()).await
    }

    async fn take(&self, name: &str) -> Result<Rebuild, Failure> {
        let context = &self.context;
        let taken = context.rebuilds.take(name, &context.owner).await?;
        taken.ok_or_else(|| Failure::superseded(Stage::Mongodb))
    }

    /// Takes over a rebuild that was begun, or begins one. `None`: it is another process's, or the
    /// collection is gone.
    async fn begin(&self, task: &Task) -> Result<Option<Rebuild>, Failure> {
        let (context, name) = (&self.context, &task.collection);
        if let Some(taken) = context.rebuilds.take(name, &context.owner).await? {
            if !context.continues(&taken) {
                context.rebuilds.release(name, &context.owner).await?;
                return Ok(None);
            }
            return self.unless_archived(taken).await;
        }
        if matches!(task.job, Job::Continue(_)) {
            return Ok(None);
        }
        let Some(found) = context.vectors.describe(name).await? else {
            return Ok(None);
        };
        let in_place = task.job == Job::Mend || self.method == Method::InPlace;
        if in_place {
            let tried = self
                .tried
                .get_or_try_init(|| in_place::try_index(context, name));
            tried.await?;
        }
        let phase = if in_place {
            Phase::InPlace
        } else {
            Phase::Filling
        };
        let rebuild = Rebuild {
            had_knowledge_base: context.has_knowledge_base(name).await?,
            model: context.model_digest().map(str::to_owned),
            ..Rebuild::new(name, phase, found.id)
        };
        match context.rebuilds.begin(rebuild, &context.owner).await? {
            Some(begun) => self.unless_archived(begun).await,
            None => Ok(None),
        }
    }

    /// Gives a rebuild up that has moved nothing yet, if an archive has the collection. A command
    /// that archives or restores it looks for a rebuild after it has written its record: one of the
    /// two sees the other.
    async fn unless_archived(&self, rebuild: Rebuild) -> Result<Option<Rebuild>, Failure> {
        let (context, name) = (&self.context, &rebuild.collection);
        if matches!(rebuild.phase, Phase::Swapping | Phase::Settling) {
            return Ok(Some(rebuild));
        }
        let Some(record) = context.archive_of(name).await? else {
            return Ok(Some(rebuild));
        };
        beside::undo(context, &rebuild).await?;
        let is_held = record.is_held(DateTime::now());
        if is_held || !context.vectors.has_collection(name).await? {
            return Ok(None);
        }
        Err(failed(format!(
            "knowledge base {} is archived, or was not restored to its end: run layra-worker \
             restore",
            record.knowledge_base
        )))
    }

    /// Drops an unfinished copy whose rebuild failed: the collection serves as before.
    async fn undo(&self, name: &str) -> Result<(), Failure> {
        let context = &self.context;
        let Some(rebuild) = context.rebuilds.take(name, &context.owner).await? else {
            return Ok(());
        };
        if rebuild.phase == Phase::Filling {
            beside::undo(context, &rebuild).await?;
        } else {
            context.rebuilds.release(name, &context.owner).await?;
        }
        Ok(())
    }
}
