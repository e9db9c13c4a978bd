//! The values of a Secret, validated: every given value is used, and pairs are complete.

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{
    CA, CERTIFICATE, ClientCertificate, KEY, KafkaSecurityError, Login, MECHANISM, Mechanism,
    PASSWORD, PROTOCOL, Tls, USERNAME, names, protocol_name,
};
use crate::secret_text;

/// The nonempty values of a Secret.
pub(super) struct Given {
    protocol: Option<String>,
    mechanism: Option<String>,
    username: Option<String>,
    password: Option<String>,
    authorities: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

impl Given {
    pub(super) fn read<'k, 'v>(
        keys: impl IntoIterator<Item = &'k str>,
        value: impl Fn(&'static str) -> Option<&'v [u8]>,
    ) -> Result<Self, KafkaSecurityError> {
        let bytes = |key| match value(key).unwrap_or_default() {
            value if value.contains(&0) => Err(KafkaSecurityError::HasNul { key }),
            value => Ok(value),
        };
        let text = |key| {
            secret_text(bytes(key)?)
                .map(|text| text.map(ToOwned::to_owned))
                .map_err(|_| KafkaSecurityError::NotText { key })
        };
        let password = std::str::from_utf8(bytes(PASSWORD)?)
            .map_err(|_| KafkaSecurityError::NotText { key: PASSWORD })?
            .trim_end_matches(['\r', '\n']);
        let given = Self {
            protocol: text(PROTOCOL)?,
            mechanism: text(MECHANISM)?,
            username: text(USERNAME)?,
            password: Some(password.to_owned()).filter(|password| !password.is_empty()),
            authorities: text(CA)?,
            certificate: text(CERTIFICATE)?,
            key: text(KEY)?,
        };
        names::check(keys, |key| matches!(text(key), Ok(Some(_))))?;
        let is_empty =
            given.protocol.is_none() && given.of_login().is_none() && given.of_tls().is_none();
        if is_empty {
            return Err(KafkaSecurityError::NoKeys);
        }
        Ok(given)
    }

    /// The first given key that only authentication uses.
    fn of_login(&self) -> Option<&'static str> {
        first_given(&[
            (USERNAME, &self.username),
            (PASSWORD, &self.password),
            (MECHANISM, &self.mechanism),
        ])
    }

    /// The first given key that only TLS uses.
    fn of_tls(&self) -> Option<&'static str> {
        first_given(&[
            (CA, &self.authorities),
            (CERTIFICATE, &self.certificate),
            (KEY, &self.key),
        ])
    }

    /// Whether the connection uses TLS, and whether it authenticates.
    pub(super) fn protocol(&self) -> Result<(bool, bool), KafkaSecurityError> {
        let Some(name) = self.protocol.as_deref() else {
            return Ok((self.of_tls().is_some(), self.of_login().is_some()));
        };
        let (has_tls, has_login) = [(false, false), (true, false), (false, true), (true, true)]
            .into_iter()
            .find(|(has_tls, has_login)| protocol_name(*has_tls, *has_login) == name)
            .ok_or(KafkaSecurityError::UnknownProtocol)?;
        let unused_login = self.of_login().filter(|_| !has_login);
        let unused_tls = self.of_tls().filter(|_| !has_tls);
        match unused_login.or(unused_tls) {
            None => Ok((has_tls, has_login)),
            Some(key) => Err(KafkaSecurityError::Unused {
                key,
                protocol: protocol_name(has_tls, has_login),
                instead: protocol_name(
                    has_tls || unused_tls.is_some(),
                    has_login || unused_login.is_some(),
                ),
            }),
        }
    }

    pub(super) fn login(&self) -> Result<Login, KafkaSecurityError> {
        let needed_by = self.of_login().unwrap_or(PROTOCOL);
        Ok(Login {
            mechanism: match &self.mechanism {
                Some(name) => Mechanism::from_name(name)?,
                None => Mechanism::Plain,
            },
            username: required(USERNAME, self.username.as_ref(), needed_by)?,
            password: required(PASSWORD, self.password.as_ref(), needed_by)?,
        })
    }

    pub(super) fn tls(&self) -> Result<Tls, KafkaSecurityError> {
        if let Some(pem) = &self.authorities {
            check_certificates(CA, pem)?;
        }
        let client = match (&self.certificate, &self.key) {
            (None, None) => None,
            (certificate, key) => {
                let chain = required(CERTIFICATE, certificate.as_ref(), KEY)?;
                let key = required(KEY, key.as_ref(), CERTIFICATE)?;
                check_certificates(CERTIFICATE, &chain)?;
                check_key(&key)?;
                Some(ClientCertificate { chain, key })
            }
        };
        Ok(Tls {
            authorities: self.authorities.clone(),
            client,
        })
    }
}

fn first_given(values: &[(&'static str, &Option<String>)]) -> Option<&'static str> {
    let given = values.iter().find(|(_, value)| value.is_some());
    given.map(|(key, _)| *key)
}

fn required(
    key: &'static str,
    value: Option<&String>,
    needed_by: &'static str,
) -> Result<String, KafkaSecurityError> {
    value
        .cloned()
        .ok_or(KafkaSecurityError::Missing { key, needed_by })
}

fn check_certificates(key: &'static str, pem: &str) -> Result<(), KafkaSecurityError> {
    let count = CertificateDer::pem_slice_iter(pem.as_bytes())
        .try_fold(0, |count, certificate| certificate.map(|_| count + 1));
    match count {
        Ok(1..) => Ok(()),
        Ok(_) | Err(_) => Err(KafkaSecurityError::NotPem {
            key,
            expected: "certificate",
        }),
    }
}

fn check_key(pem: &str) -> Result<(), KafkaSecurityError> {
    if pem.contains("ENCRYPTED") {
        return Err(KafkaSecurityError::EncryptedKey);
    }
    match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
        Ok(_) => Ok(()),
        Err(_) => Err(KafkaSecurityError::NotPem {
            key: KEY,
            expected: "private key",
        }),
    }
}
