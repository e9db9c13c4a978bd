//! Quotas: who waits, who does not, and what is reported.

use layra_crds::KnowledgeBaseQuotas;

use super::*;

fn quotas(spec: QuotasSpec) -> Quotas {
    let quotas = Quotas::new(Some(spec), Arc::default(), Arc::new(Metrics::new()));
    quotas.set_dimensions(128);
    quotas
}

fn of_each_base(vectors: u64) -> QuotasSpec {
    QuotasSpec {
        per_knowledge_base: KnowledgeBaseQuotas {
            vectors: Some(vectors),
            bytes: None,
        },
        ..QuotasSpec::default()
    }
}

fn holding(vectors: u64) -> BaseUsage {
    BaseUsage {
        has_collection: true,
        vectors,
        list_bytes: 6000,
        is_list_estimated: false,
    }
}

#[tokio::test]
async fn tasks_wait_at_a_quota_of_the_pipeline_and_go_on_when_there_is_room() {
    let spec = QuotasSpec {
        bytes: Some(51_200),
        ..QuotasSpec::default()
    };
    let quotas = quotas(spec);
    let (cancel, stop) = (CancellationToken::new(), CancellationToken::new());
    assert_eq!(quotas.report(), None, "not counted yet");
    assert_eq!(quotas.wait_for_room(&cancel, &stop).await, Ok(()));
    let usage = |vectors| PipelineUsage {
        collections: 1,
        vectors,
    };
    quotas.record_pipeline(usage(79));
    assert_eq!(quotas.report(), Some(Vec::new()));
    quotas.record_pipeline(usage(80));
    let near = quotas.report().unwrap();
    assert_eq!((near.len(), near[0].percent()), (1, 80));
    assert!(!quotas.is_held());
    quotas.record_pipeline(usage(100));
    assert!(quotas.is_held());
    assert!(
        quotas
            .health
            .waiting_for()
            .contains(layra_crds::WAITS_FOR_QUOTA)
    );
    assert!(
        !quotas
            .health
            .problems()
            .iter()
            .any(|why| why.contains("quota")),
        "it is ready"
    );
    let waiting = quotas.waiting();
    let room = async {
        tokio::task::yield_now().await;
        assert_eq!(*waiting.borrow(), 1);
        quotas.record_pipeline(usage(20));
    };
    let (waited, ()) = tokio::join!(quotas.wait_for_room(&cancel, &stop), room);
    assert_eq!(waited, Ok(()));
    assert_eq!(*waiting.borrow(), 0);
    assert!(quotas.health.waiting_for().is_empty());

    quotas.record_pipeline(usage(100));
    stop.cancel();
    let stopped = quotas.wait_for_room(&cancel, &stop).await;
    assert_eq!(stopped, Err(Failure::stopped(Stage::Intake)));
}

#[test]
fn a_full_knowledge_base_does_not_hold_up_the_pipeline() {
    let quotas = quotas(of_each_base(1000));
    let now = Instant::now();
    assert_eq!(quotas.known_room("full", now), None, "not counted yet");
    let room = quotas.record_base("full", holding(1000), now);
    let full = room.full.unwrap();
    assert_eq!((full.kind, full.used), (QuotaKind::Vectors, 1000));
    assert_eq!(full.knowledge_base.as_deref(), Some("full"));
    let other = quotas.record_base("other", holding(10), now);
    assert_eq!(other, Room::default());
    assert!(!quotas.is_held());
    assert_eq!(quotas.report().unwrap(), [full]);
    assert_eq!(
        quotas.report_at(now + REPORTED),
        Some(Vec::new()),
        "an idle worker does not repeat it for ever"
    );
    quotas.record_base("full", holding(1000), now);
    assert!(quotas.known_room("full", now).unwrap().full.is_some());
    assert_eq!(
        quotas.known_room("full", now + FRESH),
        None,
        "counted again"
    );
}

#[test]
fn only_a_new_collection_needs_room_among_the_collections() {
    let spec = QuotasSpec {
        collections: Some(2),
        ..QuotasSpec::default()
    };
    let quotas = quotas(spec);
    quotas.record_pipeline(PipelineUsage {
        collections: 3,
        vectors: 0,
    });
    assert!(!quotas.is_held());
    let now = Instant::now();
    assert_eq!(quotas.record_base("old", holding(9), now).full, None);
    let new = quotas.record_base("new", BaseUsage::default(), now);
    assert_eq!(new.full.unwrap().kind, QuotaKind::Collections);
}

#[test]
fn the_limits_of_layra_are_reported_long_before() {
    let quotas = Quotas::new(None, Arc::default(), Arc::new(Metrics::new()));
    let now = Instant::now();
    let many = |files: u64| BaseUsage {
        list_bytes: files * 620,
        ..holding(5)
    };
    assert_eq!(quotas.record_base("kb", many(20_000), now), Room::default());
    let near = quotas.record_base("kb", many(22_000), now);
    assert!(near.is_near && near.full.is_none());
    let full = quotas.record_base("kb", many(27_000), now).full.unwrap();
    assert_eq!(full.kind, QuotaKind::Files);
    let estimated = BaseUsage {
        is_list_estimated: true,
        ..many(100_000)
    };
    let near = quotas.record_base("kb", estimated, now);
    assert!(near.is_near && near.full.is_none(), "it may be wrong");
    quotas.record_page(779);
    assert_eq!(quotas.report().unwrap().len(), 1);
    quotas.record_page(800);
    quotas.record_page(12);
    let report = quotas.report().unwrap();
    assert_eq!(
        (report[0].kind, report[0].used),
        (QuotaKind::PageVectors, 800)
    );
    assert_eq!(quotas.metrics.pages_cut.get(), 0);
    quotas.record_page(1001);
    assert_eq!(quotas.metrics.pages_cut.get(), 1);
    let text = quotas.metrics.render();
    let line = "ingestion_quota_used_ratio{quota=\"page_vectors\"} 1.001";
    assert!(text.contains(line), "{text}");
}
