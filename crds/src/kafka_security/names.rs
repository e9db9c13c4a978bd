//! Keys of other names. A Secret may have unrelated keys. But a key that resembles a connection
//! setting is refused: if a misnamed certificate were ignored, the connection would not be
//! encrypted, and the password would be sent in clear text.

use super::{
    CA, CERTIFICATE, KEY, KafkaSecurity, KafkaSecurityError, MECHANISM, PASSWORD, PROTOCOL,
    USERNAME,
};

/// Refuses a Secret with a key that resembles a connection setting but is not read.
///
/// A certificate of another name is a copy if the certificate that is read is given, too
/// (`is_given`). Strimzi and cert-manager create such copies: `ca.p12`, `tls-combined.pem`.
pub(super) fn check<'a>(
    keys: impl IntoIterator<Item = &'a str>,
    is_given: impl Fn(&'static str) -> bool,
) -> Result<(), KafkaSecurityError> {
    let misnamed = keys.into_iter().filter_map(|key| match resemblance(key)? {
        Resemblance::Setting(nearest) => Some((key, nearest)),
        Resemblance::File(nearest) => (!is_given(nearest)).then_some((key, nearest)),
    });
    // The first by name, so that operator and workers report the same key.
    match misnamed.min() {
        None => Ok(()),
        Some((key, nearest)) => Err(KafkaSecurityError::Misnamed {
            key: key.to_owned(),
            nearest,
        }),
    }
}

/// The key that a misnamed key was probably meant to be.
#[derive(Clone, Copy)]
enum Resemblance {
    Setting(&'static str),
    File(&'static str),
}

fn resemblance(key: &str) -> Option<Resemblance> {
    if KafkaSecurity::KEYS.contains(&key) {
        return None;
    }
    let name = key.to_ascii_lowercase().replace(['_', '-'], ".");
    if let Some(same) = KafkaSecurity::KEYS.into_iter().find(|it| *it == name) {
        return Some(Resemblance::Setting(same));
    }
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    let starts = |words: &[&str]| words.iter().any(|word| name.starts_with(word));
    let file = || {
        if starts(&["ca", "sslca"]) || has(&[".ca", "trust"]) {
            CA
        } else if has(&["key"]) {
            KEY
        } else {
            CERTIFICATE
        }
    };
    let found = if name == "protocol" || starts(&["security"]) {
        Resemblance::Setting(PROTOCOL)
    } else if name == "mechanism" || starts(&["sasl"]) {
        Resemblance::Setting(login(&name).unwrap_or(MECHANISM))
    } else if starts(&["ssl"]) {
        let is_file = has(&[".ca", "sslca", "trust", "key", "cert", "crt"]);
        Resemblance::Setting(if is_file { file() } else { PROTOCOL })
    } else if starts(&["user."]) {
        Resemblance::Setting(login(&name).unwrap_or_else(file))
    } else if ["ca", "tls"].contains(&name.as_str())
        || starts(&["ca.", "cacert", "tls.", "truststore", "keystore"])
    {
        Resemblance::File(file())
    } else {
        return None;
    };
    Some(found)
}

fn login(name: &str) -> Option<&'static str> {
    if name.contains("pass") {
        Some(PASSWORD)
    } else if name.contains("name") {
        Some(USERNAME)
    } else {
        None
    }
}
