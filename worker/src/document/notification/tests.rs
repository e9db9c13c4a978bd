use proptest::prelude::*;
use serde_json::json;

use super::*;

/// What MinIO sent, one message a line: a key with spaces and umlauts was written, overwritten and
/// removed; in a versioned bucket an object was written and removed. Recorded on 2026-11-27 with
/// the MinIO of the test-bed, a webhook as the target. A target of Kafka gets the same JSON.
const MINIO: &str = include_str!("minio.jsonl");
/// The example of Amazon's documentation:
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>
const AWS: &str = include_str!("aws.json");

fn changes(payload: &str) -> Vec<(String, String)> {
    let read = parse(payload.as_bytes()).unwrap().unwrap();
    let names = read.changes.into_iter();
    names.map(|change| (change.bucket, change.key)).collect()
}

fn pair(bucket: &str, key: &str) -> (String, String) {
    (bucket.to_owned(), key.to_owned())
}

fn record(name: &str, key: &str) -> Value {
    json!({ "eventName": name, "s3": { "bucket": { "name": "b" }, "object": { "key": key } } })
}

#[test]
fn minios_notifications_name_bucket_and_key() {
    let key = "contracts/Jahr 2026/Müller + Söhne.txt";
    let found: Vec<_> = MINIO.lines().flat_map(changes).collect();
    let (document, versioned) = (pair("docs", key), pair("vers", "a/b.txt"));
    assert_eq!(
        found,
        [
            document.clone(),
            document.clone(),
            document,
            versioned.clone(),
            versioned
        ]
    );
}

#[test]
fn amazons_notification_names_bucket_and_key() {
    assert_eq!(changes(AWS), [pair("mybucket", "HappyFace.jpg")]);
    let removed = AWS.replace("ObjectCreated:Put", "LifecycleExpiration:Delete");
    assert_eq!(changes(&removed), [pair("mybucket", "HappyFace.jpg")]);
    let spaces = AWS.replace("HappyFace.jpg", "red+flower%2Bpot.jpg");
    assert_eq!(changes(&spaces), [pair("mybucket", "red flower+pot.jpg")]);
}

#[test]
fn events_that_change_no_content_and_the_test_event_change_nothing() {
    for name in [
        "s3:ObjectAccessed:Get",
        "ObjectTagging:Put",
        "ObjectRestore:Post",
    ] {
        assert!(changes(&AWS.replace("ObjectCreated:Put", name)).is_empty());
    }
    let test = json!({
        "Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2014-10-13T15:57:02.089Z",
        "Bucket": "bucketname", "RequestId": "5582815E1AEA5ADF", "HostId": "8cLeGAmw098X5cv4Zkwcmo",
    });
    assert!(changes(&test.to_string()).is_empty());
}

#[test]
fn a_notification_of_several_objects_has_a_change_for_each() {
    let records = [
        record("ObjectCreated:Put", "a"),
        record("ObjectRemoved:Delete", "b"),
        record("ObjectRemoved:Delete", "a"),
    ];
    let message = json!({ "Records": records }).to_string();
    assert_eq!(changes(&message), [pair("b", "a"), pair("b", "b")]);
    for change in parse(message.as_bytes()).unwrap().unwrap().changes {
        let alone = parse(&change.to_message()).unwrap().unwrap();
        assert_eq!(alone.changes, [change]);
    }
}

#[test]
fn what_workers_send_themselves_is_no_notification() {
    for message in [json!({ "file_meta": {} }), json!({ "type": "delete_file" })] {
        assert_eq!(parse(message.to_string().as_bytes()), Ok(None));
    }
}

#[test]
fn a_message_of_another_kind_is_refused_with_the_field() {
    let bucket = || json!({ "name": "b" });
    for (message, field) in [
        (json!({}), "Records"),
        (json!({ "Records": 7 }), "Records"),
        (json!({ "Records": [7] }), "Records"),
        (json!({ "Records": [{}] }), "Records.eventName"),
        (
            json!({ "Records": [{ "eventName": "ObjectCreated:Put" }] }),
            "Records.s3",
        ),
        (
            json!({ "Records": [{ "eventName": "ObjectCreated:Put", "s3": { "bucket": bucket() } }] }),
            "Records.s3.object",
        ),
        (
            json!({ "Records": [record("ObjectCreated:Put", "a%zz")] }),
            "Records.s3.object.key",
        ),
        (
            json!({ "Records": [record("ObjectCreated:Put", "a%ff")] }),
            "Records.s3.object.key",
        ),
    ] {
        let error = parse(message.to_string().as_bytes()).unwrap_err();
        assert!(error.to_string().contains(&format!("`{field}`")), "{error}");
    }
    assert!(matches!(parse(b"\xff"), Err(TaskError::NotJson(_))));
    assert_eq!(parse(b"[]"), Err(TaskError::NotAnObject));
}

proptest! {
    /// As MinIO encodes a key, and as Amazon does, which leaves `/` as it is.
    #[test]
    fn every_key_is_read_as_it_was_written(key in "\\PC{1,40}", slashes in any::<bool>()) {
        let encoded: String = key
            .bytes()
            .map(|byte| match byte {
                b' ' => "+".to_owned(),
                b'/' if slashes => "/".to_owned(),
                byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
                byte => format!("%{byte:02X}"),
            })
            .collect();
        let message = json!({ "Records": [record("s3:ObjectCreated:Put", &encoded)] });
        prop_assert_eq!(changes(&message.to_string()), [pair("b", &key)]);
    }

    #[test]
    fn reading_never_panics(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&payload);
    }

    #[test]
    fn decoding_never_panics(encoded in "[%a-f0-9+/]{0,12}") {
        let _ = decode(&encoded);
    }
}
