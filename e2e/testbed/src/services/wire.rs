//! Minimal requests in the servers' own protocols, just enough to see whether a server answers.
//! This avoids compiling client libraries.

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::settings::NODE_IP;

/// Maximum size of a response, in bytes.
const MAX_RESPONSE: usize = 1 << 20;

/// Sends `GET path` to this port of the bridge and returns the body. Fails unless the status is
/// 200.
pub(super) async fn http_get(port: u16, path: &str) -> Result<String> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: {NODE_IP}\r\n\r\n");
    let mut stream = TcpStream::connect((NODE_IP, port)).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("not an HTTP response")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(
        status.split(' ').nth(1) == Some("200"),
        "{path}: {status} {body}"
    );
    Ok(body.to_owned())
}

/// Sends a line and reads one.
pub(super) async fn line(port: u16, line: &str) -> Result<String> {
    let mut stream = TcpStream::connect((NODE_IP, port)).await?;
    stream.write_all(format!("{line}\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n") && answer.len() < MAX_RESPONSE {
        answer.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&answer).trim_end().to_owned())
}

/// Encoding of the length that precedes each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// Kafka: four bytes, big-endian, without the length itself.
    Following,
    /// MongoDB: four bytes, little-endian, including the length itself.
    Whole,
}

/// Sends a message and reads one, both without their length.
pub(super) async fn message(port: u16, length: Length, content: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect((NODE_IP, port)).await?;
    stream.write_all(&frame(length, content)?).await?;
    let size = match length {
        Length::Following => stream.read_u32().await? as usize,
        Length::Whole => (stream.read_u32_le().await? as usize).saturating_sub(4),
    };
    ensure!(
        size < MAX_RESPONSE,
        "a response of {size} bytes is too long"
    );
    let mut answer = vec![0; size];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

fn frame(length: Length, content: &[u8]) -> Result<Vec<u8>> {
    let size = u32::try_from(content.len())?;
    let mut frame = match length {
        Length::Following => size.to_be_bytes(),
        Length::Whole => (size + 4).to_le_bytes(),
    }
    .to_vec();
    frame.extend_from_slice(content);
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_preceded_by_its_length() {
        assert_eq!(frame(Length::Following, b"ab").unwrap(), b"\0\0\0\x02ab");
        assert_eq!(frame(Length::Whole, b"ab").unwrap(), b"\x06\0\0\0ab");
    }
}
