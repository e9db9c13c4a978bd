//! The reasons of conditions and events. They are part of the API: alerts and scripts match them,
//! and `docs/conditions.md` or `docs/events.md` lists every one (a test checks that).

/// What kstatus (Flux) makes of a reason while the pipeline is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The operator or Kubernetes is still working towards the spec.
    InProgress,
    /// The spec cannot be reached until it is edited.
    Stalled,
}

/// Defines [`Reason`]. The word of a variant is its name, so that neither can be forgotten.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Why a condition has its status, or why an event was published.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Reason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Reason {
            /// Every reason.
            pub(crate) const ALL: &[Self] = &[$(Self::$name,)+];

            /// The word in conditions and events.
            pub(crate) const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }
        }
    };
}

reasons! {
    // Kafka, in TopicReady and Scaling.

    /// All topics exist with the partitions of the spec.
    TopicsExist,
    /// A topic is being created. Nothing to do.
    TopicCreating,
    /// Partitions are being added. Nothing to do.
    PartitionsIncreasing,
    /// The topic has more partitions than the spec, and Kafka cannot remove any: raise
    /// `source.kafka.partitions`.
    PartitionsDecreaseRefused,
    /// Kafka has fewer brokers than `source.kafka.replicationFactor`: lower it or add brokers.
    ReplicationFactorTooHigh,
    /// Kafka refused to create or extend a topic. The message has Kafka's reason; the operator
    /// retries every half minute.
    TopicChangeFailed,
    /// An existing topic has `cleanup.policy=compact`, which deletes tasks with equal keys: set
    /// `cleanup.policy=delete` on the topic.
    TopicCompacted,
    /// An existing topic keeps records for less than a week: raise its `retention.ms`.
    RetentionShort,
    /// An existing topic has another replication factor than the spec: reassign its partitions or
    /// change `source.kafka.replicationFactor`.
    ReplicationFactorDiffers,
    /// `source.kafka.manageTopics` is false and a topic does not exist: have its owner create it.
    TopicMissing,
    /// `source.kafka.manageTopics` is false and a topic has more or fewer partitions than the spec:
    /// have its owner add some, or change `source.kafka.partitions`.
    PartitionsDiffer,
    /// An existing topic with several replicas acknowledges a record that one broker has: raise its
    /// `min.insync.replicas`.
    MinInsyncReplicasLow,
    /// No broker answers: check `source.kafka.bootstrapServers` and the cluster.
    KafkaUnreachable,
    /// Kafka answered with an error. The message has it.
    KafkaRefused,
    /// Kafka does not allow the operator's user to do what it must: grant the user the operation
    /// that the message names.
    KafkaUnauthorized,
    /// The Kafka client rejects what the Secret holds, for example a key that does not match the
    /// certificate.
    KafkaSettingsInvalid,
    /// The Kafka Secret is incomplete or has keys that would be ignored: fix the key that the
    /// message names.
    KafkaSecretInvalid,

    // Milvus, in VectorStoreReady.

    /// Every collection has the index of the spec.
    IndexesMatch,
    /// Some collections have another index than the spec. Searches work;
    /// `status.driftedCollections` lists the differences.
    IndexDrift,
    /// Collections have another index than the spec, and wait for the window
    /// `stores.milvus.rebuild.window`. Nothing to do.
    RebuildWaiting,
    /// Collections are being rebuilt with the index of the spec. Nothing to do.
    Rebuilding,
    /// The Job that rebuilds collections failed. The message has its words; the operator tries again.
    RebuildFailed,
    /// A schedule or time zone in `stores.milvus.rebuild.window` is invalid: fix it. Until then nothing
    /// is rebuilt.
    RebuildWindowInvalid,
    /// Collections have another index or model than the spec, and are not rebuilt, because another
    /// pipeline has the same collections. The message names it and what to change.
    RebuildHeld,
    /// The vectors of some collections are of another model than the spec's. Their documents wait and
    /// searches are refused: embed them again, with `stores.milvus.onModelChange` or
    /// `layra-worker reembed`, or set the model back.
    ModelMismatch,
    /// Collections of another model are being embedded again. Nothing to do.
    Reembedding,
    /// The Job that embeds collections again failed. The message has its words; the operator tries
    /// again.
    ReembeddingFailed,
    /// The collections are being checked for the first time. Nothing to do.
    MilvusChecking,
    /// Milvus does not respond: check `stores.milvus.uri` and the server.
    MilvusUnreachable,
    /// Milvus rejected the token: fix the Secret.
    MilvusUnauthenticated,

    /// A quota of `stores.milvus.quotas` is reached, and no worker starts a document: delete
    /// documents or raise it. Also in Scaling.
    QuotaReached,
    /// Knowledge bases are at their quota, or at LAYRA's limit of files. Their documents wait, and
    /// others go on: delete documents or raise the quota.
    KnowledgeBaseFull,
    /// At least 80 % of a quota, or of a limit of LAYRA, are used.
    QuotaNear,

    // The workers, in WorkersAvailable.

    /// At least one worker is ready.
    WorkersReady,
    /// There is no work, so no worker runs.
    ScaledToZero,
    /// No worker is ready yet. Nothing to do.
    WorkersStarting,
    /// Workers are being replaced by others with the current configuration. Nothing to do.
    RolloutInProgress,
    /// Workers did not become ready in three times their usual start-up time, or the Deployment gave
    /// up on a rollout. The events and the log of the pods have the cause.
    ProgressDeadlineExceeded,
    /// No worker is ready, because they wait for a server that the message names: check that it is
    /// up.
    WorkersWaiting,
    /// The API server refuses an object of the pipeline. The message has its words: correct the
    /// field that they name, or the pipeline's name.
    ApplyRefused,
    /// An object of the pipeline cannot be applied, for example because of a quota, a missing right
    /// or an admission webhook that does not answer. The operator retries.
    ApplyFailed,
    /// An object with the name of one of the pipeline's objects belongs to something else: delete or
    /// rename it, or give the pipeline another name.
    NameTaken,
    /// The pipeline's name is too long for the names of the workers' objects: create it under a
    /// shorter one.
    NameTooLong,
    /// Ready workers keep the image of an earlier version of the operator
    /// (`worker.rollout.onUpgrade: WhenReplaced`): set `AtOnce` to replace them now.
    UpgradeHeld,
    /// Another writer changes what the operator applies. If a webhook does it (True), the operator
    /// accepts it. If another client changes it back (False), stop that client.
    ChangedByOthers,
    /// An older pipeline uses what this one needs for itself. The message names it and the fields to
    /// change.
    Conflict,
    /// A change cuts the pipeline off from the documents that it has processed. The message has the
    /// annotation that confirms it.
    ChangeNotConfirmed,
    /// MongoDB lacks indexes that workers or LAYRA need: create those that the message names, or set
    /// `stores.mongodb.manageIndexes`.
    IndexMissing,
    /// Workers with the same configuration have loaded different checkpoints: pin a revision.
    ModelDiffers,
    /// The pod template is refused: correct the field of `spec.worker` that the message names.
    TemplateRefused,
    /// New workers refuse their configuration, and the rollout stops. The message names the field and
    /// what to do.
    ConfigurationInvalid,
    /// A worker exited with an error. The message has its last output.
    WorkersCrashing,
    /// The kubelet cannot start the container. The message has the kubelet's reason.
    WorkersCannotStart,
    /// The image cannot be pulled: check `worker.image` and its pull secrets.
    ImagePullFailed,
    /// Workers are pending because no GPU is free: add GPU nodes or lower `scaling.maxReplicas`.
    WaitingForGPU,
    /// Workers are pending for another reason. The message has the scheduler's reason.
    Unschedulable,
    /// A Secret that the spec names does not exist: create it.
    SecretNotFound,
    /// A Secret lacks a key, or the key is empty: add it.
    SecretKeyMissing,
    /// A Secret cannot be read, or a value is not text: fix the Secret or the operator's role.
    SecretUnreadable,

    // The pods that answer questions, in QueryReady.

    /// Questions are answered.
    QueryReplicasReady,
    /// No replica is ready yet. Nothing to do.
    QueryStarting,
    /// No replica gets ready. The message has the cause.
    QueryUnavailable,

    // The autoscaler, in Scaling.

    /// The number of workers follows the backlog.
    FollowingBacklog,
    /// `scaling.mode` is `Recommend`: decisions are shown and not carried out.
    RecommendOnly,
    /// `scaling.mode` is `Manual`: `scaling.replicas` sets the number of workers.
    Manual,
    /// The backlog needs more workers than `scaling.maxReplicas`: raise it, or accept a longer
    /// drain.
    AtMaxReplicas,
    /// The backlog needs more workers than there are partitions: add partitions, or accept a longer
    /// drain.
    AtPartitions,
    /// Every worker waits for a server, so the number of workers does not follow the backlog: bring
    /// the server back.
    StoresAway,
    /// Ready workers could not be asked for a minute: let the operator reach their port 9090.
    WorkersNotMeasured,
    /// No node has come for pending workers, so only a few are requested at a time: add nodes.
    PendingWorkers,
    /// The last scale-up did not raise the throughput: look for another bottleneck.
    IneffectiveScaleUp,
    /// A partition with a backlog makes no progress: check the worker's log and the message at the
    /// committed offset.
    PartitionStuck,
    /// A schedule or time zone in `scaling.floors` is invalid: fix it. Until then
    /// `scaling.minReplicas` applies.
    InvalidSchedule,
    /// The offsets of some partitions cannot be read, for example because they have no leader. The
    /// others count, and no worker is stopped: check the brokers.
    PartitionsUnread,
    /// A topic was recreated or truncated. The number of workers is held until the next reading.
    TopicRecreated,
    /// The committed offset is past the end of the partition. One worker starts, which makes the
    /// consumer group reset to the start of the log.
    CommittedAheadOfEnd,
    /// The consumer group is rebalancing. The number of workers is held meanwhile.
    GroupRebalancing,
    /// The clock was set back. The number of workers is held until the next reading.
    ClockStep,

    // The pipeline as a whole.

    /// Topics, Milvus and workers are ready.
    PipelineReady,
    /// `spec.paused` is true: nothing is changed.
    Paused,

    // Events only.

    /// Kafka deleted records before they were processed: raise the topic's retention and send the
    /// documents again.
    RecordsLost,
    /// `worker.gpu` is set, but the model computes on the CPU: remove it.
    GpuUnused,
    /// The rebuild of collections has begun.
    RebuildStarted,
    /// The rebuild of collections was stopped, because its settings or its window ask for it.
    RebuildStopped,
    /// Every collection has the index of the spec, after a rebuild.
    RebuildFinished,
    /// The rebuild of a collection has begun.
    CollectionRebuildStarted,
    /// A collection serves with the index of the spec.
    CollectionRebuilt,
    /// The rebuild of a collection failed. The message has the cause; the collection serves with its
    /// old index.
    CollectionRebuildFailed,
    /// A visual model computes on the CPU with the default memory limit of a worker: set
    /// `worker.resources`.
    MemoryLimitLow,
    /// `embedding.maxVisualTokens` allows pages with more vectors than LAYRA reads: lower it, or raise
    /// `poolFactor`.
    PagesCutByLayra,
    /// Unused collections will be released, archived or deleted. The message says which, and when.
    RetentionNoticed,
    /// What retention would do without `dryRun`.
    RetentionDryRun,
    /// Unused collections were released from Milvus' memory.
    CollectionsReleased,
    /// Unused collections were archived.
    CollectionsArchived,
    /// Unused collections were deleted.
    CollectionsDeleted,
    /// A run of retention failed, or could not handle a collection. The message has the cause; the
    /// next run tries again.
    RetentionFailed,
    /// A topic was created.
    TopicCreated,
    /// Partitions were added to a topic.
    PartitionsIncreased,
    /// Workers were added.
    ScaledUp,
    /// Workers were removed.
    ScaledDown,
    /// The number of workers would change if `scaling.mode` were `Auto`.
    ScalingRecommended,
    /// Workers are being replaced because their pod template changed.
    RolloutStarted,
    /// The kubelet or a controller ended a worker, for example because the node was short of memory
    /// or disk. Another one replaces it.
    WorkerEvicted,
    /// New workers have loaded another checkpoint than those before, and there are vectors of the
    /// earlier one.
    ModelChanged,
}

impl Reason {
    /// The reason with this word, `None` for one of another version of the operator.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.as_str() == word)
    }

    /// What kstatus makes of it; `None` for a problem that may go away without an edit, and for
    /// everything that is no problem.
    pub(crate) fn progress(self) -> Option<Progress> {
        match self {
            Self::TopicCreating
            | Self::PartitionsIncreasing
            | Self::MilvusChecking
            | Self::RolloutInProgress
            | Self::WorkersStarting
            | Self::QueryStarting => Some(Progress::InProgress),
            Self::PartitionsDecreaseRefused
            | Self::TemplateRefused
            | Self::ApplyRefused
            | Self::NameTaken
            | Self::NameTooLong
            | Self::Conflict
            | Self::ChangeNotConfirmed => Some(Progress::Stalled),
            _ => None,
        }
    }

    /// A setting of a topic that may lose tasks. The pipeline works with it.
    pub(crate) fn is_topic_setting(self) -> bool {
        matches!(
            self,
            Self::TopicCompacted
                | Self::RetentionShort
                | Self::ReplicationFactorDiffers
                | Self::MinInsyncReplicasLow
        )
    }

    /// A condition with this reason needs attention even while it is True: some workers have a
    /// problem and the others work, searches work with another index, or a topic may lose tasks.
    pub(crate) fn warns_while_true(self) -> bool {
        self.is_topic_setting()
            || matches!(
                self,
                Self::PartitionsDiffer
                    | Self::WaitingForGPU
                    | Self::Unschedulable
                    | Self::ImagePullFailed
                    | Self::ConfigurationInvalid
                    | Self::WorkersCrashing
                    | Self::WorkersCannotStart
                    | Self::IndexDrift
                    | Self::RebuildFailed
                    | Self::RebuildWindowInvalid
                    | Self::RebuildHeld
                    | Self::ModelMismatch
                    | Self::ReembeddingFailed
                    | Self::ModelDiffers
                    | Self::KnowledgeBaseFull
                    | Self::QuotaNear
                    | Self::IndexMissing
            )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_book_lists_every_reason() {
        let guide = concat!(
            include_str!("../../../docs/conditions.md"),
            include_str!("../../../docs/events.md")
        );
        let missing: Vec<&str> = Reason::ALL
            .iter()
            .map(|reason| reason.as_str())
            .filter(|word| !guide.contains(&format!("`{word}`")))
            .collect();
        assert_eq!(missing, [""; 0]);
    }

    #[test]
    fn every_word_is_read_back() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_word(reason.as_str()), Some(*reason));
        }
        assert_eq!(Reason::from_word("FromTheFuture"), None);
    }

    #[test]
    fn only_an_edit_resolves_a_stalled_reason() {
        let with = |progress| {
            let reasons = Reason::ALL.iter().copied();
            reasons
                .filter(|reason| reason.progress() == Some(progress))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            with(Progress::Stalled),
            [
                Reason::PartitionsDecreaseRefused,
                Reason::ApplyRefused,
                Reason::NameTaken,
                Reason::NameTooLong,
                Reason::Conflict,
                Reason::ChangeNotConfirmed,
                Reason::TemplateRefused,
            ]
        );
        assert_eq!(
            with(Progress::InProgress),
            [
                Reason::TopicCreating,
                Reason::PartitionsIncreasing,
                Reason::MilvusChecking,
                Reason::WorkersStarting,
                Reason::RolloutInProgress,
                Reason::QueryStarting,
            ]
        );
    }
}
