//! Runs the health script of Argo CD, in Lua 5.1 as Argo CD does.

use anyhow::{Context, Result};
use mlua::serde::SerializeOptions;
use mlua::{Lua, LuaSerdeExt};
use serde::Deserialize;
use serde_json::Value;

/// Folder with the script and its test data, in the layout of Argo CD's own scripts.
pub const FOLDER: &str = "argo-cd/ingest.layra.io/IngestionPipeline";

/// What the script makes of an object.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// `Healthy`, `Progressing`, `Degraded` or `Suspended`.
    pub status: String,
    /// What Argo CD shows beside it.
    pub message: String,
}

/// Runs the script on an object.
pub fn health(object: &Value) -> Result<Health> {
    let script = crate::path(FOLDER).join("health.lua");
    let script = std::fs::read_to_string(&script)
        .with_context(|| format!("reading {}", script.display()))?;
    let lua = Lua::new();
    // A field that is null is absent, as in the objects that Argo CD gets.
    let options = SerializeOptions::new()
        .serialize_none_to_null(false)
        .serialize_unit_to_null(false);
    lua.globals()
        .set("obj", lua.to_value_with(object, options)?)?;
    let result: mlua::Value = lua.load(script).set_name("health.lua").eval()?;
    Ok(lua.from_value(result)?)
}
