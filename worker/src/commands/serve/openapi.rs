//! The description of the search for programs, in the form of `OpenAPI` 3.1. Its schemas are those of
//! the types that requests are read into and answers are written from.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::api::KnowledgeBases;
use super::refusal::Problem;
use super::search::{Answer, Search};

/// The description.
pub(super) fn document() -> Value {
    let settings = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut schemas = SchemaGenerator::new(settings);
    let search = schemas.subschema_for::<Search>();
    let answer = schemas.subschema_for::<Answer>();
    let bases = schemas.subschema_for::<KnowledgeBases>();
    let problem = schemas.subschema_for::<Problem>();
    let refusal = |description: &str| {
        json!({
            "description": description,
            "content": { "application/problem+json": { "schema": problem } },
        })
    };
    let later = json!({
        "description": "Not now: send the request again after the time in Retry-After.",
        "headers": { "Retry-After": { "schema": { "type": "integer" } } },
        "content": { "application/problem+json": { "schema": problem } },
    });
    let mut often = later.clone();
    often["description"] = "The token asks too often: see Retry-After.".into();
    json!({
        "openapi": "3.1.0",
        "info": { "title": "LAYRA search", "version": env!("CARGO_PKG_VERSION") },
        "security": [{ "token": [] }],
        "paths": { "/v1/knowledge_bases": { "get": {
            "summary": "The knowledge bases that the token is for",
            "responses": {
                "200": {
                    "description": "The knowledge bases",
                    "content": { "application/json": { "schema": bases } },
                },
                "401": refusal("The token is missing or unknown."),
                "429": often,
                "503": later,
            },
        } }, "/v1/search": { "post": {
            "summary": "The pages that answer a question, best first",
            "requestBody": {
                "required": true,
                "content": { "application/json": { "schema": search } },
            },
            "responses": {
                "200": {
                    "description": "The pages",
                    "content": { "application/json": { "schema": answer } },
                },
                "401": refusal("The token is missing or unknown."),
                "404": refusal("No such knowledge base, or the token is not for it."),
                "408": refusal("The body did not arrive in time."),
                "409": refusal(
                    "The knowledge base is archived, or its vectors are of another model.",
                ),
                "413": refusal("The body is too large."),
                "422": refusal("The body is not JSON, a field is wrong, or the image is."),
                "429": often,
                "500": refusal("A fault of the server or of a store."),
                "503": later,
            },
        } } },
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas.take_definitions(true),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The addresses of all references in a value.
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value {
                        Value::String(address) if name == "$ref" => found.push(address.clone()),
                        value => references(value, found),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_of_the_description_leads_somewhere() {
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 5, "{found:?}");
        for address in found {
            let place = address.strip_prefix('#').unwrap();
            assert!(document.pointer(place).is_some(), "{address}");
        }
    }
}
