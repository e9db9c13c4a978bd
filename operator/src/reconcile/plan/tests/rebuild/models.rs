//! Collections of another model: what is known of them, and the Job that embeds them again.

use layra_crds::{ModelReference, OnModelChange, OtherModels};

use super::*;

const NEW: &str = "sha256:new";

/// Three collections, two of another model. The indexes are those of the spec.
fn changed(policy: OnModelChange) -> Case {
    let mut case = Case::new(OnIndexDrift::Report);
    case.drifted(0);
    case.pipeline.spec.stores.milvus.on_model_change = policy;
    loads(&mut case, NEW);
    told(&mut case, Some(2));
    case.configure();
    case
}

/// The pipeline's pods load this checkpoint.
fn loads(case: &mut Case, checksum: &str) {
    let status = case.pipeline.status.get_or_insert_default();
    status.model_reference = Some(ModelReference {
        uri: case.pipeline.spec.embedding.model.uri.clone(),
        adapter_uri: None,
        checksum: checksum.to_owned(),
        revision: None,
        adapter_revision: None,
        request: None,
    });
}

/// What workers say, of the new model and of the one before. `None`: there are no workers.
fn told(case: &mut Case, others: Option<u64>) {
    let of = |checksum: &str, collections: u64| OtherModels {
        checksum: checksum.to_owned(),
        pool_factor: 1,
        collections,
        first: report(usize::try_from(collections).unwrap(), 0).examples,
    };
    let workers = others.map(|others| vec![of("sha256:old", 0), of(NEW, others)]);
    case.world.reports.other_models = workers.unwrap_or_default();
}

/// Starts the Job that the plan asks for.
fn started(mut case: Case) -> Case {
    let Some(JobAction::Start(job)) = case.step().reembed_action else {
        panic!("no Job is started");
    };
    assert_eq!(job.metadata.name.as_deref(), Some("contracts-reembed"));
    let job = case.running(&job);
    case.world.reembed_job = Some(job);
    case
}

fn ends(case: &mut Case, phase: impl FnOnce(Timestamp) -> JobPhase) {
    let at = case.now;
    case.world.reembed_job.as_mut().unwrap().phase = phase(at);
}

fn models(plan: &Plan) -> &layra_crds::IndexStatus {
    plan.status.models.as_ref().unwrap()
}

fn message(plan: &Plan) -> &str {
    &condition(plan, VECTOR_STORE_READY).message
}

#[test]
fn by_default_collections_of_another_model_are_named_with_what_to_do() {
    let mut case = changed(OnModelChange::Refuse);
    let plan = case.step();
    assert_eq!(
        (plan.reembed_action.is_none(), reason(&plan)),
        (true, "ModelMismatch")
    );
    assert_eq!(condition(&plan, VECTOR_STORE_READY).status, "True");
    let words = "The vectors of 2 of 3 collections are of another model. For example colqwen0:";
    assert!(message(&plan).starts_with(words), "{}", message(&plan));
    for remedy in ["ReembedBeside", "`kubectl layra run contracts -- reembed`"] {
        assert!(message(&plan).contains(remedy), "{}", message(&plan));
    }
    assert_eq!((models(&plan).collections, models(&plan).drifted), (3, 2));
    assert_eq!(
        models(&plan).model.as_deref(),
        Some("sha256:new, poolFactor 1")
    );
    assert_eq!(plan.status.other_model_collections.len(), 2);
    assert_eq!(events(&plan), [Reason::ModelMismatch]);
    assert_eq!(case.step().events, []);
    told(&mut case, None);
    assert_eq!(reason(&case.step()), "ModelMismatch", "without workers");
}

#[test]
fn another_model_starts_a_job_and_the_pipeline_stays_ready() {
    let mut case = started(changed(OnModelChange::ReembedBeside));
    let job = case.world.reembed_job.as_mut().unwrap();
    job.progress = Some(progress(&[("colqwen0", ReindexPhase::Copying)]));
    let plan = case.step();
    assert!(plan.is_ready() && plan.reembed_action.is_none());
    assert_eq!(reason(&plan), "Reembedding");
    assert!(
        message(&plan).contains("has embedded 0 of 2 collections again"),
        "{}",
        message(&plan)
    );
    assert_eq!(
        (models(&plan).rebuilding, models(&plan).eta_seconds),
        (1, Some(90))
    );
    assert_eq!(
        events(&plan),
        [Reason::RebuildStarted, Reason::CollectionRebuildStarted]
    );
    case.later(60);
    told(&mut case, Some(0));
    ends(&mut case, |at| JobPhase::Succeeded { at });
    let plan = case.step();
    assert_eq!(reason(&plan), "IndexesMatch");
    assert_eq!((models(&plan).drifted, models(&plan).done), (0, 2));
    assert_eq!(plan.status.other_model_collections, []);
    assert_eq!(
        events(&plan),
        [Reason::CollectionRebuilt, Reason::RebuildFinished]
    );
    case.later(3600);
    assert_eq!(case.step().reembed_action, None);
}

#[test]
fn a_job_that_failed_is_followed_by_another() {
    let mut case = started(changed(OnModelChange::ReembedBeside));
    case.step();
    ends(&mut case, |at| JobPhase::Failed {
        at,
        words: "the model is missing".into(),
    });
    let plan = case.step();
    assert_eq!(
        (plan.reembed_action.is_none(), reason(&plan)),
        (true, "ReembeddingFailed")
    );
    let ending = ": the model is missing.";
    assert!(message(&plan).ends_with(ending), "{}", message(&plan));
    case.later(15);
    let plan = case.step();
    assert!(matches!(plan.reembed_action, Some(JobAction::Stop { .. })));
    case.world.reembed_job = None;
    started(case);
}

#[test]
fn a_job_for_a_model_that_was_edited_again_is_replaced() {
    let mut case = started(changed(OnModelChange::ReembedBeside));
    case.step();
    case.pipeline.spec.embedding.pool_factor = 3;
    case.configure();
    let plan = case.step();
    assert!(matches!(plan.reembed_action, Some(JobAction::Stop { .. })));
}

#[test]
fn what_was_begun_is_finished_also_when_other_models_are_refused_again() {
    let mut case = started(changed(OnModelChange::ReembedBeside));
    case.step();
    case.pipeline.spec.stores.milvus.on_model_change = OnModelChange::Refuse;
    case.configure();
    let plan = case.step();
    assert!(matches!(plan.reembed_action, Some(JobAction::Stop { .. })));
    case.world.reembed_job = None;
    let mut case = started(case);
    assert!(case.world.reembed_job.as_ref().unwrap().only_finishes);
    assert_eq!(reason(&case.step()), "Reembedding");
    ends(&mut case, |at| JobPhase::Succeeded { at });
    let plan = case.step();
    assert_eq!(reason(&plan), "ModelMismatch");
    assert_eq!(models(&plan).drifted, 2, "it has begun nothing");
}

#[test]
fn without_workers_the_job_looks_which_collections_are_of_another_model() {
    let mut case = changed(OnModelChange::Refuse);
    told(&mut case, None);
    let unknown = case.step();
    assert_eq!(
        (unknown.reembed_action.is_none(), reason(&unknown)),
        (true, "IndexesMatch")
    );
    assert_eq!(unknown.status.models, None);
    case.pipeline.spec.stores.milvus.on_model_change = OnModelChange::ReembedBeside;
    case.configure();
    let with_worker = World {
        pods: vec![fixtures::pod(
            serde_json::json!({"metadata": {"name": "a"}}),
        )],
        ..case.world.clone()
    };
    let plan = plan(&case.pipeline, &with_worker, None, IMAGE, case.now).unwrap();
    assert_eq!(plan.reembed_action, None, "the worker will say it");

    let mut case = started(case);
    let plan = case.step();
    assert!(
        message(&plan).contains("looks for collections of another model"),
        "{}",
        message(&plan)
    );
    let job = case.world.reembed_job.as_mut().unwrap();
    job.progress = Some(progress(&[("colqwen0", ReindexPhase::Copying)]));
    assert_eq!(models(&case.step()).drifted, 2);
    ends(&mut case, |at| JobPhase::Succeeded { at });
    let plan = case.step();
    assert_eq!((models(&plan).drifted, models(&plan).done), (0, 2));
    case.world.reembed_job = None;
    case.later(3600);
    assert_eq!(case.step().reembed_action, None, "it is known now");
    loads(&mut case, "sha256:later");
    case.configure();
    assert!(
        matches!(case.step().reembed_action, Some(JobAction::Start(_))),
        "they were compared with another one"
    );
}

#[test]
fn the_two_jobs_take_turns_and_other_models_come_first() {
    let mut case = changed(OnModelChange::ReembedBeside);
    case.drifted(3);
    case.pipeline.spec.stores.milvus.on_index_drift = OnIndexDrift::RebuildBeside;
    case.configure();
    let plan = case.step();
    assert_eq!(plan.job_action, None);
    let mut first = started(case);
    let plan = first.step();
    assert_eq!(
        (plan.job_action.is_none(), reason(&plan)),
        (true, "Reembedding")
    );
    let words = "Job contracts-reindex starts when Job contracts-reembed has ended.";
    assert!(message(&plan).ends_with(words), "{}", message(&plan));
    told(&mut first, Some(0));
    ends(&mut first, |at| JobPhase::Succeeded { at });
    let mut second = first.started();
    told(&mut second, Some(1));
    let plan = second.step();
    assert_eq!(plan.reembed_action, None, "the other one runs");
    let words = "Job contracts-reembed starts when Job contracts-reindex has ended.";
    assert!(message(&plan).contains(words), "{}", message(&plan));
}

#[test]
fn another_pipeline_with_the_same_collections_keeps_them_from_being_embedded_again() {
    let mut case = changed(OnModelChange::ReembedBeside);
    case.world.reembed_obstacle = Some("Pipeline a/b has the same.".into());
    let plan = case.step();
    assert_eq!(
        (plan.reembed_action.is_none(), reason(&plan)),
        (true, "RebuildHeld")
    );
}
