use proptest::prelude::*;

use super::*;

const CERT: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----";
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----";
const EC_PRIVATE: &str = "-----BEGIN EC PARAMETERS-----\nAAAA\n-----END EC PARAMETERS-----\n\
                          -----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----";
const ENCRYPTED: &str =
    "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----";

fn read(secret: &[(&str, &str)]) -> Result<KafkaSecurity, KafkaSecurityError> {
    KafkaSecurity::from_secret(secret.iter().map(|(key, _)| *key), |key| {
        let entry = secret.iter().find(|(name, _)| *name == key);
        entry.map(|(_, value)| value.as_bytes())
    })
}

#[test]
fn settings_follow_from_the_keys() {
    let me = [
        ("sasl.mechanism", "PLAIN"),
        ("sasl.username", "me"),
        ("sasl.password", "secret"),
    ];
    let scram = [("sasl.mechanism", "SCRAM-SHA-512"), me[1], me[2]];
    let authority = [("ssl.ca.pem", CERT)];
    let certificate = [("ssl.certificate.pem", CERT), ("ssl.key.pem", PRIVATE)];
    let system = [("ssl.ca.location", "probe")];
    let user = [("username", "me"), ("password", "secret")];
    for (secret, protocol, settings) in [
        (
            vec![("security.protocol", "PLAINTEXT")],
            "PLAINTEXT",
            vec![],
        ),
        (user.to_vec(), "SASL_PLAINTEXT", me.to_vec()),
        (
            [&user[..], &[("ca.crt", CERT)]].concat(),
            "SASL_SSL",
            [&me[..], &authority].concat(),
        ),
        (
            [
                &user[..],
                &[("sasl.mechanism", "SCRAM-SHA-512"), ("ca.crt", CERT)],
            ]
            .concat(),
            "SASL_SSL",
            [&scram[..], &authority].concat(),
        ),
        (
            [&user[..], &[("security.protocol", "SASL_SSL")]].concat(),
            "SASL_SSL",
            [&me[..], &system].concat(),
        ),
        (vec![("ca.crt", CERT)], "SSL", authority.to_vec()),
        (vec![("security.protocol", "SSL")], "SSL", system.to_vec()),
        (
            vec![("ca.crt", CERT), ("tls.crt", CERT), ("tls.key", PRIVATE)],
            "SSL",
            [&authority[..], &certificate].concat(),
        ),
        (
            vec![("tls.crt", CERT), ("tls.key", PRIVATE)],
            "SSL",
            [&system[..], &certificate].concat(),
        ),
        (
            [
                &user[..],
                &[("ca.crt", CERT), ("tls.crt", CERT), ("tls.key", PRIVATE)],
            ]
            .concat(),
            "SASL_SSL",
            [&me[..], &authority, &certificate].concat(),
        ),
    ] {
        let security = read(&secret).unwrap();
        let expected = [&[("security.protocol", protocol)], &settings[..]].concat();
        assert_eq!(security.settings(), expected, "{secret:?}");
    }
}

#[test]
fn a_wrong_secret_is_refused_with_the_keys_name() {
    use KafkaSecurityError::{
        Missing, NoKeys, UnknownMechanism, UnknownProtocol, UnsupportedMechanism, Unused,
    };
    let missing = |key, needed_by| Missing { key, needed_by };
    let user = [("username", "me"), ("password", "secret")];
    let with_user = |key, value| vec![user[0], user[1], (key, value)];
    for (secret, error) in [
        (vec![], NoKeys),
        (vec![("user", "me"), ("username", " \n")], NoKeys),
        (vec![("security.protocol", "TLS")], UnknownProtocol),
        (with_user("security.protocol", "sasl_ssl"), UnknownProtocol),
        (with_user("sasl.mechanism", "SCRAM"), UnknownMechanism),
        (
            with_user("sasl.mechanism", "GSSAPI"),
            UnsupportedMechanism {
                mechanism: "GSSAPI",
            },
        ),
        (
            with_user("sasl.mechanism", "OAUTHBEARER"),
            UnsupportedMechanism {
                mechanism: "OAUTHBEARER",
            },
        ),
        (user[..1].to_vec(), missing("password", "username")),
        (user[1..].to_vec(), missing("username", "password")),
        (
            vec![user[0], ("password", "\n")],
            missing("password", "username"),
        ),
        (
            vec![("sasl.mechanism", "PLAIN")],
            missing("username", "sasl.mechanism"),
        ),
        (
            vec![("security.protocol", "SASL_SSL")],
            missing("username", "security.protocol"),
        ),
        (vec![("tls.crt", CERT)], missing("tls.key", "tls.crt")),
        (vec![("tls.key", PRIVATE)], missing("tls.crt", "tls.key")),
        (
            with_user("security.protocol", "PLAINTEXT"),
            Unused {
                key: "username",
                protocol: "PLAINTEXT",
                instead: "SASL_PLAINTEXT",
            },
        ),
        (
            vec![("security.protocol", "SSL"), ("password", "secret")],
            Unused {
                key: "password",
                protocol: "SSL",
                instead: "SASL_SSL",
            },
        ),
        (
            vec![("security.protocol", "PLAINTEXT"), ("ca.crt", CERT)],
            Unused {
                key: "ca.crt",
                protocol: "PLAINTEXT",
                instead: "SSL",
            },
        ),
        (
            vec![
                user[0],
                user[1],
                ("security.protocol", "PLAINTEXT"),
                ("tls.crt", CERT),
            ],
            Unused {
                key: "username",
                protocol: "PLAINTEXT",
                instead: "SASL_SSL",
            },
        ),
    ] {
        assert_eq!(read(&secret).unwrap_err(), error, "{secret:?}");
    }
}

#[test]
fn a_certificate_that_is_not_pem_is_refused_with_the_keys_name() {
    use KafkaSecurityError::{EncryptedKey, NotPem};
    for (secret, error) in [
        (
            vec![("ca.crt", "MIIB")],
            NotPem {
                key: "ca.crt",
                expected: "certificate",
            },
        ),
        (
            vec![("tls.crt", PRIVATE), ("tls.key", CERT)],
            NotPem {
                key: "tls.crt",
                expected: "certificate",
            },
        ),
        (
            vec![("tls.crt", CERT), ("tls.key", CERT)],
            NotPem {
                key: "tls.key",
                expected: "private key",
            },
        ),
        (
            vec![("tls.crt", CERT), ("tls.key", ENCRYPTED)],
            EncryptedKey,
        ),
    ] {
        assert_eq!(read(&secret).unwrap_err(), error, "{secret:?}");
    }
}

#[test]
fn a_message_contains_the_fix() {
    for (secret, message) in [
        (
            vec![("username", "me")],
            "its key `password` is missing or empty, but its key `username` requires it: add `password`",
        ),
        (
            vec![("username", "me"), ("password", "a\0b")],
            "its key `password` contains a NUL byte: remove it",
        ),
        (
            vec![("security.protocol", "PLAINTEXT"), ("ca.crt", CERT)],
            "its key `ca.crt` is not used with `security.protocol` PLAINTEXT: set \
             `security.protocol` to SSL, or remove `ca.crt`",
        ),
    ] {
        assert_eq!(read(&secret).unwrap_err().to_string(), message);
    }
}

#[test]
fn a_binary_value_is_refused_with_its_key() {
    for key in KafkaSecurity::KEYS {
        let read = |value: &'static [u8]| {
            KafkaSecurity::from_secret([key], |other| (other == key).then_some(value))
        };
        assert_eq!(read(b"\xff"), Err(KafkaSecurityError::NotText { key }));
        assert_eq!(read(b"me\0"), Err(KafkaSecurityError::HasNul { key }));
    }
}

#[test]
fn a_key_that_resembles_a_setting_is_refused() {
    let user = [("username", "me"), ("password", "secret")];
    for (key, nearest) in [
        ("security-protocol", "security.protocol"),
        ("SECURITY_PROTOCOL", "security.protocol"),
        ("protocol", "security.protocol"),
        ("sasl_mechanism", "sasl.mechanism"),
        ("sasl.mechanisms", "sasl.mechanism"),
        ("sasl.jaas.config", "sasl.mechanism"),
        ("mechanism", "sasl.mechanism"),
        ("sasl.username", "username"),
        ("saslPassword", "password"),
        ("Password", "password"),
        ("user.name", "username"),
        ("user.password", "password"),
        ("ssl", "security.protocol"),
        ("ssl.endpoint.identification.algorithm", "security.protocol"),
        ("ssl.ca.location", "ca.crt"),
        ("ssl.truststore.location", "ca.crt"),
        ("ssl.certificate.pem", "tls.crt"),
        ("ssl-key", "tls.key"),
        ("ca", "ca.crt"),
        ("ca.pem", "ca.crt"),
        ("CA.crt", "ca.crt"),
        ("ca-bundle.crt", "ca.crt"),
        ("caCert", "ca.crt"),
        ("truststore.jks", "ca.crt"),
        ("tls_ca.crt", "ca.crt"),
        ("tls.pem", "tls.crt"),
        ("tls-key.pem", "tls.key"),
        ("user.crt", "tls.crt"),
        ("user.p12", "tls.crt"),
        ("user.key", "tls.key"),
        ("User_Key", "tls.key"),
    ] {
        let error = KafkaSecurityError::Misnamed {
            key: key.to_owned(),
            nearest,
        };
        assert_eq!(read(&[user[0], user[1], (key, "x")]), Err(error));
    }
}

#[test]
fn the_certificate_of_a_strimzi_user_is_not_ignored() {
    let secret = [
        ("user.key", PRIVATE),
        ("user.crt", CERT),
        ("ca.crt", CERT),
        ("user.password", "secret"),
    ];
    assert_eq!(
        read(&secret).unwrap_err().to_string(),
        "its key `user.crt` resembles a connection setting but is not read: rename it to \
         `tls.crt`, or remove it"
    );
}

#[test]
fn unrelated_keys_are_ignored() {
    let others = ["note", "user", "kafka.bootstrap", "cat", "uri", "license"];
    let copies = ["ca.p12", "ca.password", "ca-2026-01-01T00-00-00.crt"];
    let client = ["tls-combined.pem", "keystore.p12", "truststore.p12"];
    let expected = [("ca.crt", CERT), ("tls.crt", CERT), ("tls.key", PRIVATE)];
    let mut secret = expected.to_vec();
    let more = [&others[..], &copies, &client].concat();
    secret.extend(more.into_iter().map(|key| (key, "x")));
    assert_eq!(read(&secret), read(&expected));
    // A copy of nothing is no copy.
    for key in [&copies[..], &client].concat() {
        let secret = [("username", "me"), ("password", "secret"), (key, "x")];
        let refused = read(&secret);
        assert!(
            matches!(refused, Err(KafkaSecurityError::Misnamed { .. })),
            "{key}: {refused:?}"
        );
    }
}

#[test]
fn a_refused_setting_is_named_without_its_value() {
    for (description, message) in [
        (
            "No such configuration property: \"ssl.key.pem\"",
            "`ssl.key.pem`: No such configuration property: \"ssl.key.pem\"",
        ),
        (
            "Unsupported value \"hunter2\" for configuration property \"ssl.key.pem\"",
            "`ssl.key.pem`: the Kafka client rejects the value",
        ),
        // As long as librdkafka has room.
        (
            "Invalid value for configuration property \"ssl.key.pem\": hunt",
            "`ssl.key.pem`: the Kafka client rejects the value",
        ),
    ] {
        assert_eq!(
            refused_setting("ssl.key.pem", description, "hunter2"),
            message
        );
    }
    assert_eq!(refused_setting("a", "is empty", ""), "`a`: is empty");
}

#[test]
fn private_keys_of_several_formats_are_accepted() {
    for key in [PRIVATE, EC_PRIVATE] {
        let chain = format!("{CERT}\n{CERT}\n");
        assert!(read(&[("tls.crt", &chain), ("tls.key", key)]).is_ok());
    }
}

#[test]
fn only_trailing_line_breaks_of_a_password_are_removed() {
    for (given, password) in [
        ("secret\n", "secret"),
        ("secret\r\n", "secret"),
        (" sec\nret ", " sec\nret "),
    ] {
        let security = read(&[("username", " me \n"), ("password", given)]).unwrap();
        let settings = security.settings();
        assert!(settings.contains(&("sasl.password", password)), "{given:?}");
        assert!(settings.contains(&("sasl.username", "me")));
    }
}

#[test]
fn no_value_appears_in_debug_output() {
    let secret = [
        ("username", "alice"),
        ("password", "hunter2"),
        ("ca.crt", CERT),
        ("tls.crt", CERT),
        ("tls.key", PRIVATE),
    ];
    let shown = format!("{:?}", read(&secret).unwrap());
    for word in ["alice", "hunter2", "AAAA"] {
        assert!(!shown.contains(word), "{shown}");
    }
}

fn any_value() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        3 => Just(None),
        1 => Just(Some(String::new())),
        2 => Just(Some("me".to_owned())),
        2 => Just(Some(CERT.to_owned())),
        2 => Just(Some(PRIVATE.to_owned())),
        1 => prop::sample::select(vec!["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL", "PLAIN"])
            .prop_map(|name| Some(name.to_owned())),
    ]
}

proptest! {
    #[test]
    fn no_given_key_is_unused(
        values in prop::array::uniform7(any_value()),
    ) {
        let secret: Vec<(&str, &str)> = KafkaSecurity::KEYS
            .iter()
            .zip(&values)
            .filter_map(|(key, value)| Some((*key, value.as_deref()?)))
            .collect();
        if let Ok(security) = read(&secret) {
            let settings = security.settings();
            for (key, value) in secret.into_iter().filter(|(_, value)| !value.is_empty()) {
                prop_assert!(
                    settings.iter().any(|(_, setting)| *setting == value),
                    "{key} is in no setting: {settings:?}"
                );
            }
            let has = |name| settings.iter().any(|(setting, _)| *setting == name);
            let protocol = security.protocol();
            prop_assert_eq!(has("sasl.password"), protocol.starts_with("SASL"));
            prop_assert_eq!(has("sasl.username"), protocol.starts_with("SASL"));
            prop_assert_eq!(has("ssl.certificate.pem"), has("ssl.key.pem"));
        }
    }

    #[test]
    fn every_other_spelling_of_a_key_is_refused(
        key in prop::sample::select(KafkaSecurity::KEYS.to_vec()),
        separator in prop::sample::select(vec!["-", "_", "."]),
        upper in any::<bool>(),
    ) {
        let spelling = key.replace('.', separator);
        let spelling = if upper { spelling.to_uppercase() } else { spelling };
        prop_assume!(spelling != key);
        let error = KafkaSecurityError::Misnamed { key: spelling.clone(), nearest: key };
        prop_assert_eq!(read(&[(spelling.as_str(), "x")]), Err(error));
    }
}
