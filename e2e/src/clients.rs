//! How the harness reaches the test-bed's Kubernetes, and what an S3 client alone cannot do.

use std::time::Duration;

use anyhow::{Result, bail};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use layra_testbed::{S3Endpoint, Testbed};
use object_store::path::Path;
use object_store::signer::Signer;

use crate::stores;

/// TLS needs one provider for the process; a second installation is no error. Everything that makes
/// a client calls this first.
pub(crate) fn install_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A Kubernetes client that may do everything.
pub async fn kubernetes(testbed: &Testbed) -> Result<kube::Client> {
    install_crypto();
    let kubeconfig = Kubeconfig::read_from(testbed.kubeconfig())?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// Makes a bucket; one that exists already is left as it is.
pub async fn create_bucket(server: &S3Endpoint, bucket: &str) -> Result<()> {
    let store = stores::bucket(server, bucket)?;
    // The client knows objects only; a signed PUT of the bucket itself makes it.
    let minute = Duration::from_mins(1);
    let url = store
        .signed_url("PUT".parse()?, &Path::default(), minute)
        .await?;
    let answer = reqwest::Client::new().put(url).send().await?;
    let status = answer.status();
    let body = answer.text().await?;
    if status.is_success() || body.contains("BucketAlreadyOwnedByYou") {
        return Ok(());
    }
    bail!("bucket {bucket} cannot be made: {status} {body}")
}
