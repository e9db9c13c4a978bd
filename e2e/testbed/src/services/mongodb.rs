//! A server with MongoDB's wire protocol that stores everything in one file. No package registry
//! offers mongod.

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

/// Checks that the server answers the command `ping`.
pub(super) async fn probe(settings: &Settings) -> Result<()> {
    let answer = wire::message(settings.ports.mongodb, Length::Whole, &ping()).await?;
    ensure!(is_ok(&answer), "MongoDB rejects a ping");
    Ok(())
}

/// `{ping: 1, $db: "admin"}` as an `OP_MSG`, without its length.
fn ping() -> Vec<u8> {
    const OP_MSG: u32 = 2013;
    // BSON: the length of the document, then its fields. Type 0x10 is a 32-bit integer, type 2 a
    // string with its length and a final zero.
    let document = b"\x1e\0\0\0\x10ping\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\0";
    let mut message = Vec::new();
    // Request id, id of the request that it answers, and opcode; then no flags and one document.
    for number in [1, 0, OP_MSG, 0] {
        message.extend(number.to_le_bytes());
    }
    message.push(0);
    message.extend(document);
    message
}

/// Whether `ok` is 1 in a response, as a double or an integer.
fn is_ok(answer: &[u8]) -> bool {
    let fields: [&[u8]; 2] = [b"\x01ok\0\0\0\0\0\0\0\xf0\x3f", b"\x10ok\0\x01\0\0\0"];
    let is_in = |field: &&[u8]| answer.windows(field.len()).any(|window| window == *field);
    fields.iter().any(is_in)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_has_the_length_that_it_states() {
        let ping = ping();
        let (_, document) = ping.split_at(17);
        let size = u32::from_le_bytes(document[..4].try_into().unwrap());
        assert_eq!(size as usize, document.len());
    }

    #[test]
    fn a_response_is_ok_when_its_field_is_one() {
        assert!(is_ok(b"...\x01ok\0\0\0\0\0\0\0\xf0\x3f\0"));
        assert!(!is_ok(b"...\x01ok\0\0\0\0\0\0\0\0\0\0"));
    }
}
