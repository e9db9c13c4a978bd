//! How the client of the object store is built.

use std::sync::Arc;
use std::time::Duration;

use layra_crds::ObjectStoreSpec;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{Certificate, ClientOptions, RetryConfig};

use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::settings::Secrets;

/// The server has stopped answering without closing the connection.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);

pub(super) fn client(
    spec: &ObjectStoreSpec,
    secrets: &Secrets,
    bucket: &str,
    longest: Option<Duration>,
) -> Result<Arc<AmazonS3>, Failure> {
    let mut options = client_options(longest);
    if let Some(file) = &secrets.authorities.object_store {
        options = trusting(options, file)?;
    }
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(&spec.region)
        .with_access_key_id(secrets.access_key.reveal())
        .with_secret_access_key(secrets.secret_key.reveal())
        .with_allow_http(true)
        .with_client_options(options)
        // `Retry` retries, and reports it.
        .with_retry(RetryConfig {
            max_retries: 1,
            ..RetryConfig::default()
        });
    if let Some(endpoint) = &spec.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    let client = builder
        .build()
        .map_err(|error| Failure::fatal(Stage::Objects, Reason::InvalidObjectStore, error))?;
    Ok(Arc::new(client))
}

pub(super) fn client_options(longest: Option<Duration>) -> ClientOptions {
    let options = ClientOptions::new()
        .with_allow_http(true)
        .with_connect_timeout(Duration::from_secs(5))
        .with_read_timeout(LONGEST_SILENCE);
    match longest {
        Some(longest) => options.with_timeout(longest),
        None => options.with_timeout_disabled(),
    }
}

/// Trusts the certificates in this file, too.
fn trusting(options: ClientOptions, file: &std::path::Path) -> Result<ClientOptions, Failure> {
    let invalid = |error: &dyn std::fmt::Display| {
        let message = format!("{} has no certificates: {error}", file.display());
        Failure::fatal(Stage::Objects, Reason::InvalidObjectStore, message)
    };
    let bundle = std::fs::read(file).map_err(|error| invalid(&error))?;
    let certificates = Certificate::from_pem_bundle(&bundle).map_err(|error| invalid(&error))?;
    if certificates.is_empty() {
        return Err(invalid(&"there is no PEM block"));
    }
    Ok(certificates
        .into_iter()
        .fold(options, ClientOptions::with_root_certificate))
}
