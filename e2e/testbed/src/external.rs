//! Existing servers, named by environment variables. Nothing is started then.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::{Endpoints, S3Endpoint};

const VARIABLES: [&str; 8] = [
    "KUBECONFIG",
    "LAYRA_E2E_KAFKA",
    "LAYRA_E2E_MILVUS",
    "LAYRA_E2E_S3_ENDPOINT",
    "LAYRA_E2E_S3_ACCESS_KEY",
    "LAYRA_E2E_S3_SECRET_KEY",
    "LAYRA_E2E_MONGODB_URI",
    "LAYRA_E2E_REDIS_URI",
];

/// The kubeconfig and the endpoints, if all are set; an error if only some are. A `KUBECONFIG`
/// alone is ignored: it may well belong to another cluster.
pub(super) fn from_env() -> Result<Option<(PathBuf, Endpoints)>> {
    parse(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

fn parse(get: impl Fn(&str) -> Option<String>) -> Result<Option<(PathBuf, Endpoints)>> {
    let values = VARIABLES.map(&get);
    if values[1..].iter().all(Option::is_none) {
        return Ok(None);
    }
    let missing: Vec<&str> = VARIABLES
        .iter()
        .zip(&values)
        .filter_map(|(name, value)| value.is_none().then_some(*name))
        .collect();
    let [
        Some(kubeconfig),
        Some(kafka),
        Some(milvus),
        Some(endpoint),
        Some(access_key),
        Some(secret_key),
        Some(mongodb_uri),
        Some(redis_uri),
    ] = values
    else {
        bail!("to use existing servers, also set {}", missing.join(", "));
    };
    let s3 = S3Endpoint {
        endpoint,
        access_key,
        secret_key,
    };
    Ok(Some((
        kubeconfig.into(),
        Endpoints {
            kafka,
            milvus,
            s3,
            mongodb_uri,
            redis_uri,
        },
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_alone_is_ignored() {
        let given = parse(|name| (name == "KUBECONFIG").then(|| "/k".to_owned()));
        assert!(given.unwrap().is_none());
    }

    #[test]
    fn missing_variables_are_named() {
        let error = parse(|name| (name == "LAYRA_E2E_KAFKA").then(|| "k:9092".to_owned()))
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("KUBECONFIG") && error.contains("LAYRA_E2E_REDIS_URI"));
        assert!(!error.contains("LAYRA_E2E_KAFKA"));
    }

    #[test]
    fn all_variables_together_name_the_servers() {
        let (kubeconfig, endpoints) = parse(|name| Some(name.to_owned())).unwrap().unwrap();
        assert_eq!(kubeconfig, PathBuf::from("KUBECONFIG"));
        assert_eq!(endpoints.s3.secret_key, "LAYRA_E2E_S3_SECRET_KEY");
    }
}
