//! The bill of materials in the format `CycloneDX` 1.5.

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Crate, Part};

pub(super) fn write(crates: &[Crate], parts: &[Part]) -> Result<String> {
    let (root, others) = crates
        .split_first()
        .ok_or_else(|| anyhow::anyhow!("no crate"))?;
    let mut program = component(root);
    program["type"] = json!("application");
    let components = others.iter().map(component);
    let components: Vec<Value> = components.chain(parts.iter().map(part)).collect();
    let dependencies = crates.iter().map(|of| {
        let needs = of
            .dependencies
            .iter()
            .map(|&other| reference(&crates[other]));
        json!({"ref": reference(of), "dependsOn": needs.collect::<Vec<_>>()})
    });
    let mut bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": program,
            "tools": {"components": [{
                "type": "application",
                "name": env!("CARGO_PKG_NAME"),
                "version": env!("CARGO_PKG_VERSION"),
            }]},
        },
        "components": components,
        "dependencies": dependencies.collect::<Vec<_>>(),
    });
    // From the content: the same parts have the same number.
    bill["serialNumber"] = json!(serial_number(&bill.to_string()));
    Ok(serde_json::to_string_pretty(&bill)? + "\n")
}

fn reference(of: &Crate) -> String {
    let origin = if of.is_published { "pkg:cargo/" } else { "" };
    format!("{origin}{}@{}", of.name, of.version)
}

fn component(of: &Crate) -> Value {
    let scope = if of.is_for_build {
        "excluded"
    } else {
        "required"
    };
    let mut component = json!({
        "type": "library",
        "bom-ref": reference(of),
        "name": of.name,
        "version": of.version,
        "scope": scope,
        "licenses": [licence(of)],
    });
    if of.is_published {
        component["purl"] = json!(reference(of));
    }
    if let Some(checksum) = &of.checksum {
        component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
    }
    component
}

fn part(of: &Part) -> Value {
    let reference = format!(
        "{}@{}",
        of.origin,
        of.version.replace('+', "%2B").replace(':', "%3A")
    );
    json!({
        "type": "library",
        "bom-ref": reference,
        "purl": reference,
        "name": of.name,
        "version": of.version,
        "scope": if of.is_optional { "optional" } else { "required" },
    })
}

fn licence(of: &Crate) -> Value {
    match &of.licence {
        // Older crates separate alternatives with a slash.
        Some(expression) => json!({"expression": expression.replace('/', " OR ")}),
        None => json!({"license": {"name": "as the crate's licence file says"}}),
    }
}

/// A UUID (version 8) made from a hash.
fn serial_number(content: &str) -> String {
    let hex = format!("{:x}", Sha256::digest(content));
    let [start, second, third, fourth, end] =
        [0..8, 8..12, 13..16, 17..20, 20..32].map(|digits| &hex[digits]);
    format!("urn:uuid:{start}-{second}-8{third}-8{fourth}-{end}")
}
