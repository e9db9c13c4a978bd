//! Requests in the servers' own protocols, a few bytes each: enough to see that one answers, and no
//! client library to compile. Nothing here reads more of an answer than that.

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::settings::NODE_IP;

/// Longest message that is read, in bytes.
const LONGEST: usize = 1 << 20;

/// The body of what the server at this port of the bridge answers to `GET path`; an error unless
/// the status is 200.
pub(super) async fn http_get(port: u16, path: &str) -> Result<String> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: {NODE_IP}\r\n\r\n");
    let mut stream = TcpStream::connect((NODE_IP, port)).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(
        status.split(' ').nth(1) == Some("200"),
        "{path}: {status} {body}"
    );
    Ok(body.to_owned())
}

/// Sends one line and reads one.
pub(super) async fn line(port: u16, line: &str) -> Result<String> {
    let mut stream = TcpStream::connect((NODE_IP, port)).await?;
    stream.write_all(format!("{line}\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n") && answer.len() < LONGEST {
        answer.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&answer).trim_end().to_owned())
}

/// Whether a length, which stands before each message, counts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// Kafka: four bytes, big end first, of what follows.
    Following,
    /// MongoDB: four bytes, little end first, of the whole message.
    Whole,
}

/// Sends one message and reads one, both without their length.
pub(super) async fn message(port: u16, length: Length, content: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect((NODE_IP, port)).await?;
    stream.write_all(&frame(length, content)?).await?;
    let size = match length {
        Length::Following => stream.read_u32().await? as usize,
        Length::Whole => (stream.read_u32_le().await? as usize).saturating_sub(4),
    };
    ensure!(size < LONGEST, "an answer of {size} bytes");
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
    fn a_length_stands_before_each_message() {
        assert_eq!(frame(Length::Following, b"ab").unwrap(), b"\0\0\0\x02ab");
        assert_eq!(frame(Length::Whole, b"ab").unwrap(), b"\x06\0\0\0ab");
    }
}
