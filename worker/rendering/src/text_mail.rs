//! The text of a mail: its heading, its words, and the names of what is attached. Runs in the
//! renderer.

use std::fmt::Write;

use mail_parser::{Address, MessageParser, MimeHeaders};

use super::{RenderError, text_html};

/// Attachments that are named; a mail may have any number.
const MAX_NAMES: usize = 100;

/// Whether a text is a mail: it starts with fields, and one says who sent it.
pub(super) fn is_mail(text: &str) -> bool {
    let text = text.trim_start_matches('\u{feff}');
    let mut fields = Vec::new();
    for (number, line) in text.lines().enumerate() {
        // As mailboxes are kept.
        if number == 0 && line.starts_with("From ") {
            continue;
        }
        if line.is_empty() {
            break;
        }
        if line.starts_with([' ', '\t']) && !fields.is_empty() {
            continue;
        }
        let Some((name, _)) = line.split_once(':') else {
            // The beginning may be cut in the middle of a line.
            break;
        };
        if name.is_empty()
            || !name
                .chars()
                .all(|letter| letter.is_ascii_alphanumeric() || letter == '-')
        {
            return false;
        }
        fields.push(name.to_ascii_lowercase());
    }
    let has = |names: &[&str]| fields.iter().any(|field| names.contains(&field.as_str()));
    has(&["from", "return-path", "received", "delivered-to"])
        && has(&[
            "mime-version",
            "message-id",
            "received",
            "date",
            "subject",
            "content-type",
        ])
}

/// The text of a mail.
pub(super) fn text(mail: &[u8]) -> Result<String, RenderError> {
    let damaged = || RenderError::Damaged("the mail cannot be read".to_owned());
    let message = MessageParser::default().parse(mail).ok_or_else(damaged)?;
    let mut text = String::new();
    let mut field = |name: &str, value: &str| {
        if !value.is_empty() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name}: {value}");
        }
    };
    field("From", &people(message.from()));
    field("To", &people(message.to()));
    field("Cc", &people(message.cc()));
    if let Some(date) = message.date() {
        field("Date", &date.to_rfc822());
    }
    field("Subject", message.subject().unwrap_or_default());
    for part in message.text_bodies() {
        let words = part.text_contents().unwrap_or_default();
        text.push('\n');
        if part.is_text_html() {
            text.push_str(&text_html::text(words));
        } else {
            text.push_str(words);
        }
        text.push('\n');
    }
    let names = message
        .attachments()
        .filter_map(MimeHeaders::attachment_name);
    for (number, name) in names.take(MAX_NAMES).enumerate() {
        if number == 0 {
            text.push('\n');
        }
        let _ = writeln!(text, "Attachment: {name}");
    }
    Ok(text)
}

fn people(addresses: Option<&Address<'_>>) -> String {
    let person = |person: &mail_parser::Addr<'_>| match (person.name(), person.address()) {
        (Some(name), Some(address)) => format!("{name} <{address}>"),
        (name, address) => name.or(address).unwrap_or_default().to_owned(),
    };
    let people = addresses.into_iter().flat_map(Address::iter).map(person);
    people.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIL: &str = "Return-Path: <ann@example.org>\r\nFrom: =?utf-8?q?Ann_K=C3=B6nig?= <ann@example.org>\r\n\
        To: ben@example.org,\r\n cem@example.org\r\nSubject: Offer\r\n\
        Date: Tue, 1 Jul 2025 10:00:00 +0200\r\nMIME-Version: 1.0\r\n\
        Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\
        Content-Type: text/html; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
        <p>Valid until <b>M=E4rz</b>.</p>\r\n--b\r\n\
        Content-Type: application/pdf; name=offer.pdf\r\n\
        Content-Disposition: attachment; filename=offer.pdf\r\n\
        Content-Transfer-Encoding: base64\r\n\r\nJVBERi0=\r\n--b--\r\n";

    #[test]
    fn a_mail_becomes_its_heading_its_words_and_the_names_of_its_attachments() {
        assert!(is_mail(MAIL));
        let text = text(MAIL.as_bytes()).unwrap();
        let expected = "From: Ann König <ann@example.org>\nTo: ben@example.org, cem@example.org\n\
            Date: Tue, 1 Jul 2025 10:00:00 +0200\nSubject: Offer\n\nValid until März.\n\n\
            Attachment: offer.pdf\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn notes_are_no_mail() {
        for text in [
            "From: here to there\n\ntext",
            "Note: buy bread\nDate: today\n",
            "From: is a word\nand Subject: another",
            "The offer: valid until May",
            "",
        ] {
            assert!(!is_mail(text), "{text}");
        }
    }
}
