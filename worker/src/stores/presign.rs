//! Creates links to objects, for a time or for a hundred years.
//!
//! LAYRA stores links for a hundred years, and only the old query signature (version 2) can be valid for that
//! long. It signs the path, not the host, so the link works behind any proxy that keeps the path.

use std::time::Duration;

use base64::Engine;
use hmac::{Hmac, Mac};
use layra_crds::ObjectStoreSpec;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha1::Sha1;

use crate::runtime::settings::{Secret, Secrets};

/// A hundred years.
const LIFETIME: Duration = Duration::from_hours(100 * 365 * 24);

/// Characters other than these are escaped.
const QUERY: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const PATH: AsciiSet = QUERY.remove(b'/');

/// Creates links to the objects of one bucket.
#[derive(Clone, Debug)]
pub(crate) struct Presigner {
    endpoint: String,
    bucket: String,
    access_key: Secret,
    secret_key: Secret,
}

impl Presigner {
    /// Links begin with the public endpoint of the store.
    pub(crate) fn new(spec: &ObjectStoreSpec, secrets: &Secrets, bucket: &str) -> Self {
        let endpoint = spec
            .public_endpoint
            .as_ref()
            .or(spec.endpoint.as_ref())
            .map_or_else(
                || format!("https://s3.{}.amazonaws.com", spec.region),
                Clone::clone,
            );
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            bucket: bucket.to_owned(),
            access_key: secrets.access_key.clone(),
            secret_key: secrets.secret_key.clone(),
        }
    }

    /// A link to an object, valid for a hundred years from `now`.
    pub(crate) fn link(&self, key: &str, now: jiff::Timestamp) -> String {
        self.link_for(key, now, LIFETIME)
    }

    /// A link to an object, valid for a time from `now`.
    pub(crate) fn link_for(&self, key: &str, now: jiff::Timestamp, lifetime: Duration) -> String {
        let seconds = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        let expires = now.as_second().saturating_add(seconds);
        let path = self.path(key);
        let signature = self.sign(&format!("GET\n\n\n{expires}\n{path}"));
        format!(
            "{}{path}?AWSAccessKeyId={}&Signature={}&Expires={expires}",
            self.endpoint,
            utf8_percent_encode(self.access_key.reveal(), &QUERY),
            utf8_percent_encode(&signature, &QUERY),
        )
    }

    /// The address of an object, without a signature.
    pub(crate) fn address(&self, key: &str) -> String {
        format!("{}{}", self.endpoint, self.path(key))
    }

    fn path(&self, key: &str) -> String {
        format!("/{}/{}", self.bucket, utf8_percent_encode(key, &PATH))
    }

    fn sign(&self, text: &str) -> String {
        let mut mac = Hmac::<Sha1>::new_from_slice(self.secret_key.reveal().as_bytes())
            .expect("HMAC takes keys of any length");
        mac.update(text.as_bytes());
        base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presigner() -> Presigner {
        Presigner {
            endpoint: "http://minio:9000".into(),
            bucket: "minio-file".into(),
            access_key: Secret::new("AKIAIOSFODNN7EXAMPLE"),
            secret_key: Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        }
    }

    #[test]
    fn the_signature_is_that_of_the_s3_documentations_example() {
        assert_eq!(
            presigner().sign("GET\n\n\n1175139620\n/johnsmith/photos/puppy.jpg"),
            "NpgCjnDzrM+WFzoENXmpNDUsSn8="
        );
    }

    /// boto3 1.40 created the expected link with the same keys and time.
    #[test]
    fn links_are_those_of_boto3() {
        let now = jiff::Timestamp::from_second(1_700_000_000).unwrap();
        assert_eq!(
            presigner().link("roger_a b+c~(1) é_0123.png", now),
            "http://minio:9000/minio-file/roger_a%20b%2Bc~%281%29%20%C3%A9_0123.png\
             ?AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&Signature=caW61icnP2Cx0aRQfFBxMM%2FDJak%3D\
             &Expires=4853600000"
        );
    }
}
