//! Finds the older pipelines that may need the same things as a pipeline, for `plan` to judge. Their
//! MongoDB is compared by the Secret's key, or else by the hosts in the connection strings.

use std::{collections::BTreeSet, sync::Arc};

use kube::ResourceExt;
use layra_crds::{IngestionPipeline, SecretKind};

use super::{
    Context,
    plan::{
        Sharer, age, confirmed_spec, has_short_name, may_conflict, rebuild_obstacle, same_source,
        shares_collections, spec_in_force,
    },
};
use crate::resources::JobKind;

/// An older pipeline, and what the operator found out about its databases.
#[derive(Clone, Debug)]
pub(crate) struct Rival {
    pub(crate) pipeline: Arc<IngestionPipeline>,
    /// Both have the same MongoDB, as far as the operator can tell; `None`: a Secret cannot be read.
    pub(crate) same_mongodb: Option<bool>,
}

/// The older pipelines of all watched namespaces that may be in conflict with this one, the oldest
/// first.
pub(super) async fn find(context: &Context, pipeline: &IngestionPipeline) -> Vec<Rival> {
    context.others_listed().await;
    let spec = spec_in_force(pipeline);
    let mut older = context.pipelines.filter(|other| {
        may_conflict(&confirmed_spec(other), &spec)
            && age(other) < age(pipeline)
            // It can have no workers.
            && has_short_name(other)
    });
    older.sort_by_key(|other| age(other));
    let mut rivals = Vec::new();
    for other in older {
        let same_mongodb = if same_source(&other.spec, &pipeline.spec) {
            same_mongodb(context, &other, pipeline).await
        } else {
            Some(false)
        };
        rivals.push(Rival {
            pipeline: other,
            same_mongodb,
        });
    }
    rivals
}

/// Why this pipeline replaces no collections that another one has, too.
pub(super) async fn obstacle_of(
    context: &Context,
    pipeline: &IngestionPipeline,
    kind: JobKind,
) -> Option<String> {
    if kind.is_only_reported(pipeline) {
        return None;
    }
    let mut others = context
        .pipelines
        .filter(|other| shares_collections(pipeline, other));
    others.sort_by_key(|other| age(other));
    let mut sharers = Vec::new();
    for other in others {
        let database = |pipeline: &IngestionPipeline| pipeline.spec.stores.mongodb.database.clone();
        let same_database = database(&other) == database(pipeline)
            && same_mongodb(context, &other, pipeline).await == Some(true);
        sharers.push(Sharer {
            pipeline: other,
            same_database,
        });
    }
    rebuild_obstacle(kind, pipeline, &sharers)
}

async fn same_mongodb(
    context: &Context,
    a: &IngestionPipeline,
    b: &IngestionPipeline,
) -> Option<bool> {
    let secret = |pipeline: &IngestionPipeline| {
        let reference = pipeline.spec.stores.mongodb.uri_secret_ref.clone();
        (pipeline.namespace(), reference)
    };
    if secret(a) == secret(b) {
        return Some(true);
    }
    let (a, b) = (hosts(context, a).await?, hosts(context, b).await?);
    Some(!a.is_disjoint(&b))
}

/// The hosts in a pipeline's connection string; `None` if its Secret cannot be read.
async fn hosts(context: &Context, pipeline: &IngestionPipeline) -> Option<BTreeSet<String>> {
    let namespace = pipeline.namespace().unwrap_or_default();
    let secrets = context
        .secrets
        .read(&context.client, &namespace, &pipeline.spec)
        .await;
    let mut secrets = secrets.iter();
    let secret = secrets.find(|secret| secret.state.kind == SecretKind::Mongodb);
    secret?.text("uri").map(mongodb_hosts)
}

/// `host:port` of every server in a MongoDB connection string, or the name that is resolved to them.
fn mongodb_hosts(uri: &str) -> BTreeSet<String> {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return BTreeSet::new();
    };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let hosts = authority.rsplit('@').next().unwrap_or_default();
    let with_port = |host: &str| {
        let host = host.trim().to_ascii_lowercase();
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| {
            !port.is_empty() && port.chars().all(|digit| digit.is_ascii_digit())
        });
        if scheme == "mongodb+srv" || has_port {
            host
        } else {
            format!("{host}:27017")
        }
    };
    let hosts = hosts.split(',').filter(|host| !host.trim().is_empty());
    hosts.map(with_port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(uri: &str) -> Vec<String> {
        mongodb_hosts(uri).into_iter().collect()
    }

    #[test]
    fn hosts_are_found_in_connection_strings() {
        assert_eq!(
            hosts("mongodb://layra:p%40ss@Mongo-0.rag:27018,mongo-1.rag/admin?replicaSet=rs"),
            ["mongo-0.rag:27018", "mongo-1.rag:27017"]
        );
        assert_eq!(hosts("mongodb://mongo"), ["mongo:27017"]);
        assert_eq!(hosts("mongodb://mongo?x=a@b"), ["mongo:27017"]);
        assert_eq!(
            hosts("mongodb+srv://me:x@db.example.com/"),
            ["db.example.com"]
        );
        assert_eq!(hosts("mongo:27017"), [""; 0]);
    }
}
