//! A pipeline's history from its creation through many troubles, each status of which kstatus (Argo
//! CD, Flux) must read correctly.

use std::collections::BTreeSet;

use super::*;
use crate::reconcile::world::{Refusal, RefusalCause};

/// What kstatus computes from a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kstatus {
    InProgress,
    Failed,
    Current,
}

/// A pipeline that is reconciled again and again.
struct History {
    pipeline: IngestionPipeline,
    world: World,
    second: i64,
}

impl History {
    fn new() -> Self {
        Self {
            pipeline: fixtures::pipeline(),
            world: new_world(0),
            second: 0,
        }
    }

    fn edit(&mut self, edit: impl FnOnce(&mut layra_crds::IngestionPipelineSpec)) {
        edit(&mut self.pipeline.spec);
        let generation = self.pipeline.metadata.generation.unwrap();
        self.pipeline.metadata.generation = Some(generation + 1);
    }

    /// One reconcile, whose status is judged.
    fn observe(&mut self) -> (Kstatus, Plan) {
        self.second += 3;
        let at = now() + SignedDuration::from_secs(self.second);
        let plan = plan(&self.pipeline, &self.world, None, IMAGE, at).unwrap();
        let before = self.pipeline.status.clone().unwrap_or_default();
        judge(&self.pipeline, &before, &plan);
        self.pipeline.status = Some(plan.status.clone());
        let again = super::plan(&self.pipeline, &self.world, None, IMAGE, at).unwrap();
        assert_eq!(again.status, plan.status, "the status does not flip");
        assert_eq!(
            again.events.iter().filter(|e| e.of_condition).count(),
            0,
            "{:?}",
            again.events
        );
        (kstatus(&plan.status), plan)
    }

    /// Carries the plan out, with this number of ready workers.
    fn apply(&mut self, ready: i32) -> Kstatus {
        let (_, plan) = self.observe();
        after(&mut self.pipeline, &mut self.world, plan, ready);
        self.observe().0
    }
}

fn kstatus(status: &IngestionPipelineStatus) -> Kstatus {
    let is_true = |type_| {
        conditions::find(&status.conditions, type_).is_some_and(|found| found.status == "True")
    };
    if is_true(RECONCILING) {
        Kstatus::InProgress
    } else if is_true(STALLED) {
        Kstatus::Failed
    } else if is_true(READY) {
        Kstatus::Current
    } else {
        Kstatus::InProgress
    }
}

fn judge(pipeline: &IngestionPipeline, before: &IngestionPipelineStatus, plan: &Plan) {
    let status = &plan.status;
    let generation = pipeline.metadata.generation;
    assert_eq!(status.observed_generation, generation);
    let types: BTreeSet<&str> = status.conditions.iter().map(|c| c.type_.as_str()).collect();
    assert_eq!(types.len(), status.conditions.len(), "one of each type");
    for condition in &status.conditions {
        assert_eq!(condition.observed_generation, generation, "{condition:?}");
        assert!(!condition.message.is_empty(), "{condition:?}");
        let old = conditions::find(&before.conditions, &condition.type_);
        if let Some(old) = old {
            let moved = old.last_transition_time != condition.last_transition_time;
            assert_eq!(moved, old.status != condition.status, "{condition:?}");
        }
    }
    let ready = condition(plan, READY);
    let transient: Vec<&Condition> = [RECONCILING, STALLED]
        .into_iter()
        .filter_map(|type_| conditions::find(&status.conditions, type_))
        .collect();
    assert!(transient.len() < 2, "either of the two");
    for condition in transient {
        assert_eq!(
            (condition.status.as_str(), ready.status.as_str()),
            ("True", "False")
        );
        assert_eq!(condition.reason, ready.reason);
    }
    if ready.status == "True" {
        for type_ in [TOPIC_READY, VECTOR_STORE_READY, WORKERS_AVAILABLE] {
            let part = condition(plan, type_);
            assert!(
                part.status == "True" || part.reason == "WorkersStarting",
                "{part:?}"
            );
        }
    }
}

#[test]
fn kstatus_reads_every_state_of_a_pipeline_correctly() {
    let mut history = History::new();
    history.world.indexes = Err(Problem::new(Reason::MilvusChecking, "being checked"));
    history.world.topics = Ok(Topics {
        brokers: 1,
        tasks: TopicState::Absent,
        ranges: TopicState::Absent,
        dead_letters: TopicState::Absent,
    });
    assert_eq!(history.observe().0, Kstatus::InProgress);
    history.world.topics = new_world(0).topics;
    assert_eq!(
        history.apply(0),
        Kstatus::InProgress,
        "Milvus is not checked"
    );
    history.world.indexes = Ok(IndexReport::default());
    assert_eq!(history.observe().0, Kstatus::Current);

    // Work arrives, and the workers start.
    history.world.backlog = Ok(backlog(500));
    assert_eq!(history.apply(0), Kstatus::Current);
    assert_eq!(history.apply(3), Kstatus::Current);

    // An edit rolls the workers.
    history.edit(|spec| spec.embedding.batch_pages = 4);
    assert_eq!(history.observe().0, Kstatus::InProgress);
    assert_eq!(history.apply(3), Kstatus::Current);

    // The API server refuses the next one.
    history.edit(|spec| spec.embedding.batch_pages = 5);
    let (state, plan) = history.observe();
    assert_eq!(state, Kstatus::InProgress);
    history.world.past_writes.refusals = vec![Refusal {
        kind: Kind::ConfigMap,
        hash: plan.manifests[0].write.hash.clone(),
        generation: history.pipeline.metadata.generation,
        at: now() + SignedDuration::from_secs(history.second),
        attempts: 1,
        cause: RefusalCause::Refused("no".into()),
    }];
    assert_eq!(history.observe().0, Kstatus::Failed);
    history.edit(|spec| spec.embedding.batch_pages = 4);
    history.world.past_writes.refusals.clear();
    assert_eq!(history.observe().0, Kstatus::Current);

    // Servers go away and come back.
    history.world.indexes = Err(Problem::new(Reason::MilvusUnreachable, "no response"));
    assert_eq!(history.observe().0, Kstatus::InProgress);
    history.world.indexes = Ok(IndexReport::default());
    assert_eq!(history.observe().0, Kstatus::Current);
    history.world.backlog = Err(Problem::new(Reason::KafkaUnreachable, "no response"));
    assert_eq!(history.observe().0, Kstatus::Current, "the workers go on");
    history.world.backlog = Ok(backlog(500));

    // Fewer partitions cannot be had.
    history.edit(|spec| spec.source.kafka.partitions = 5);
    assert_eq!(history.apply(3), Kstatus::Failed);
    history.edit(|spec| spec.source.kafka.partitions = 10);
    assert_eq!(history.apply(3), Kstatus::Current);
    history.edit(|spec| spec.paused = true);
    assert_eq!(history.observe().0, Kstatus::Current);
}
