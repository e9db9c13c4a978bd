//! A server of MongoDB's wire protocol on one file; no package registry carries mongod.

use std::process::Command;

use anyhow::{Result, ensure};

use super::wire::{self, Length};
use crate::settings::{NODE_IP, Settings};

pub(super) fn command(settings: &Settings) -> Command {
    let artifact = settings.cache.join("mongodb");
    let mut command = Command::new("java");
    command
        .args([
            "-Xmx256m",
            "-Xss512k",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-cp",
        ])
        .arg(format!("{0}/classes:{0}/lib/*", artifact.display()))
        .args([
            "MongoServerMain",
            NODE_IP,
            &settings.ports.mongodb.to_string(),
        ])
        .arg(settings.data("mongodb").join("store.mv"));
    command
}

/// The command `ping` is answered.
pub(super) async fn probe(settings: &Settings) -> Result<()> {
    let answer = wire::message(settings.ports.mongodb, Length::Whole, &ping()).await?;
    ensure!(says_ok(&answer), "MongoDB refuses a ping");
    Ok(())
}

/// `{ping: 1, $db: "admin"}` in the wire protocol's one kind of message, without its length.
fn ping() -> Vec<u8> {
    const MESSAGE: u32 = 2013;
    // BSON: the document's length, then fields. Types: 0x10 a number of 32 bits, 2 a text with its
    // length and a closing zero.
    let document = b"\x1e\0\0\0\x10ping\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\0";
    let mut message = Vec::new();
    // The request's id, that of what it answers, and the kind; then no flags and one document.
    for number in [1, 0, MESSAGE, 0] {
        message.extend(number.to_le_bytes());
    }
    message.push(0);
    message.extend(document);
    message
}

/// Whether `ok` is 1 in an answer, whichever type of number the server takes for it.
fn says_ok(answer: &[u8]) -> bool {
    let fields: [&[u8]; 2] = [b"\x01ok\0\0\0\0\0\0\0\xf0\x3f", b"\x10ok\0\x01\0\0\0"];
    let is_in = |field: &&[u8]| answer.windows(field.len()).any(|window| window == *field);
    fields.iter().any(is_in)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_is_a_document_of_its_own_length() {
        let ping = ping();
        let (_, document) = ping.split_at(17);
        let size = u32::from_le_bytes(document[..4].try_into().unwrap());
        assert_eq!(size as usize, document.len());
    }

    #[test]
    fn an_answer_is_good_when_ok_is_one() {
        assert!(says_ok(b"...\x01ok\0\0\0\0\0\0\0\xf0\x3f\0"));
        assert!(!says_ok(b"...\x01ok\0\0\0\0\0\0\0\0\0\0"));
    }
}
