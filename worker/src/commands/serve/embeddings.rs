//! Vectors as LAYRA's model server returns them, written while they are sent.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use half::f16;
use layra_embedding::MultiVector;
use serde::Deserialize;

use super::refusal::Refusal;

/// The query of a request for vectors.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Form {
    #[serde(default)]
    encoding: Encoding,
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Encoding {
    /// As lists of numbers, as LAYRA reads them.
    #[default]
    Float,
    /// As 16-bit floats, little-endian, row by row, in base64: a twelfth of the bytes.
    Base64F16,
}

pub(super) fn encoding(query: Result<Query<Form>, QueryRejection>) -> Result<Encoding, Refusal> {
    match query {
        Ok(Query(form)) => Ok(form.encoding),
        Err(_) => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "InvalidRequest",
            "the query may have encoding=float or encoding=base64_f16, and nothing else",
        )),
    }
}

/// `{"embeddings": [...]}` with an element for each text or image.
pub(super) fn respond(vectors: Vec<MultiVector>, encoding: Encoding) -> Response {
    let start = match encoding {
        Encoding::Float => "{\"embeddings\":[".to_owned(),
        Encoding::Base64F16 => {
            let dimensions = vectors.first().map_or(0, MultiVector::dimensions);
            format!("{{\"encoding\":\"base64_f16\",\"dimensions\":{dimensions},\"embeddings\":[")
        }
    };
    let elements = vectors.into_iter().enumerate().map(move |(number, one)| {
        let separator = if number == 0 { "" } else { "," };
        Bytes::from(format!("{separator}{}", element(&one, encoding)))
    });
    let parts = std::iter::once(Bytes::from(start))
        .chain(elements)
        .chain([Bytes::from_static(b"]}")]);
    let body = Body::from_stream(futures::stream::iter(parts.map(Ok::<_, Infallible>)));
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn element(vectors: &MultiVector, encoding: Encoding) -> String {
    match encoding {
        Encoding::Float => {
            let rows: Vec<&[f32]> = vectors.rows().collect();
            // Lists of numbers can always be written.
            serde_json::to_string(&rows).unwrap_or_default()
        }
        Encoding::Base64F16 => {
            let values = vectors.values().iter();
            let bytes = values.flat_map(|value| f16::from_f32(*value).to_le_bytes());
            format!("\"{}\"", BASE64_STANDARD.encode(bytes.collect::<Vec<u8>>()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn text(encoding: Encoding, vectors: Vec<MultiVector>) -> String {
        let body = respond(vectors, encoding).into_body();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn vectors_are_lists_of_lists_or_half_as_precise_numbers_in_base64() {
        let vectors = vec![
            MultiVector::new(2, vec![0.5, -1.0, 0.1, 0.25]),
            MultiVector::new(2, vec![1.0, 0.0]),
        ];
        assert_eq!(
            text(Encoding::Float, vectors.clone()).await,
            r#"{"embeddings":[[[0.5,-1.0],[0.1,0.25]],[[1.0,0.0]]]}"#
        );
        // 0x3c00 and 0x0000.
        let half = text(Encoding::Base64F16, vectors).await;
        let value: serde_json::Value = serde_json::from_str(&half).unwrap();
        assert_eq!(
            (&value["dimensions"], &value["encoding"]),
            (&2.into(), &"base64_f16".into())
        );
        assert_eq!(value["embeddings"][1], "ADwAAA==");
        assert_eq!(
            text(Encoding::Float, Vec::new()).await,
            r#"{"embeddings":[]}"#
        );
    }
}
