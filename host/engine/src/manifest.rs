//! Checks what a plugin says of itself, its fields and its columns: names, sizes, a schema that is one.
//!
//! Everything that a guest says ends up in logs, metrics and file names, so nothing unbounded passes here.

use std::collections::HashSet;

use phronis_core::code::{FIELD_MISMATCH, PARAMS_REFUSED};
use phronis_core::plugin::{Added, Field, Kind, Manifest};
use serde_json::Value;

use crate::error::Refusal;
use crate::{text, wit};

/// Bytes of the JSON Schema of the parameters; the shipped plugins have under 2 KiB.
const SCHEMA_BYTES: usize = 64 << 10;

/// Columns that a plugin may read or add.
const MOST_COLUMNS: usize = 256;

/// Bytes of a path or a column's name.
const PATH_BYTES: usize = 256;

/// Checks a manifest.
pub(crate) fn check(said: wit::Manifest, world: Kind) -> Result<Manifest, String> {
    if !text::is_name(&said.name) {
        return Err(format!("the name `{}` is not 1 to 63 of a-z, 0-9 and -", text::for_people(&said.name, 80)));
    }
    if !is_plain(&said.version, 64) {
        return Err("the version is empty, longer than 64 bytes or holds control characters".to_owned());
    }
    if Kind::from(said.kind) != world {
        return Err("the manifest says another kind than the world that the component exports".to_owned());
    }
    if said.params_schema.len() > SCHEMA_BYTES {
        return Err(format!("the schema of the parameters has over {SCHEMA_BYTES} bytes"));
    }
    let params_schema: Value = serde_json::from_str(&said.params_schema)
        .map_err(|e| format!("the schema of the parameters is not JSON: {e}"))?;
    Ok(Manifest { name: said.name, version: said.version, kind: world, params_schema, stateful: said.stateful })
}

/// Checks the columns that a plugin reads.
pub(crate) fn fields(said: Vec<wit::Field>) -> Result<Vec<Field>, Refusal> {
    if said.len() > MOST_COLUMNS {
        let message = format!("the plugin reads {} columns, {MOST_COLUMNS} are allowed", said.len());
        return Err(Refusal::new(FIELD_MISMATCH, message));
    }
    let field = |f: wit::Field| {
        if is_plain(&f.path, PATH_BYTES) {
            return Ok(Field { path: f.path, of_type: f.of_type.into(), required: f.required });
        }
        Err(Refusal::new(
            FIELD_MISMATCH,
            format!("the plugin reads a field with the path `{}`", text::bounded(f.path, 80)),
        ))
    };
    said.into_iter().map(field).collect()
}

/// Checks the columns that an enricher adds.
pub(crate) fn adds(said: Vec<wit::Added>, kind: Kind) -> Result<Vec<Added>, Refusal> {
    let refuse = |message: String| Err(Refusal::new(PARAMS_REFUSED, message));
    if kind == Kind::Detector {
        return Ok(Vec::new());
    }
    if said.len() > MOST_COLUMNS {
        return refuse(format!("the plugin adds {} columns, {MOST_COLUMNS} are allowed", said.len()));
    }
    let mut names = HashSet::new();
    let mut adds = Vec::with_capacity(said.len());
    for wit::Added { name, of_type } in said {
        if !is_plain(&name, PATH_BYTES) || name.contains('.') || name.starts_with('$') {
            return refuse(format!("the plugin adds a column that cannot be named `{}`", text::bounded(name, 80)));
        }
        if !names.insert(name.clone()) {
            return refuse(format!("the plugin adds the column `{name}` twice"));
        }
        adds.push(Added { name, of_type: of_type.into() });
    }
    Ok(adds)
}

fn is_plain(text: &str, bytes: usize) -> bool {
    (1..=bytes).contains(&text.len()) && !text.chars().any(char::is_control)
}
