//! The life cycle of `wit/plugin.wit` on top of [`Plugin`]: JSON in, answers out.
//!
//! The generated exports of a plugin's crate call these; they hold no state of their own.

use std::cell::RefCell;

use serde_json::Value as Json;

use crate::bindings::phronis::plugin::types::{Added, Field, Manifest};
use crate::params::{Param, ParamError};
use crate::plugin::{Plugin, Role};

/// The manifest of a plugin.
pub fn describe<P: Plugin>() -> Manifest {
    let mut schema = P::Params::schema();
    if let Some(object) = schema.as_object_mut() {
        object.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
    }
    Manifest {
        name: P::NAME.to_owned(),
        version: P::VERSION.to_owned(),
        kind: P::Role::KIND,
        params_schema: schema.to_string(),
        stateful: false,
    }
}

/// The fields that a plugin reads under these parameters.
///
/// # Errors
/// A parameter does not do.
pub fn fields<P: Plugin>(params: &str) -> Result<Vec<Field>, String> {
    P::fields(&parse::<P>(params)?).map_err(|error| error.to_string())
}

/// The columns that a plugin adds under these parameters.
///
/// # Errors
/// A parameter does not do.
pub fn adds<P: Plugin>(params: &str) -> Result<Vec<Added>, String> {
    P::Role::adds(&parse::<P>(params)?).map_err(|error| error.to_string())
}

/// Puts a plugin made from `params` into `slot`; after an error the old one stays.
///
/// # Errors
/// A parameter does not do.
pub fn configure<P: Plugin>(slot: &RefCell<Option<P>>, params: &str) -> Result<(), String> {
    let plugin = P::configure(parse::<P>(params)?).map_err(|error| error.to_string())?;
    *slot.borrow_mut() = Some(plugin);
    Ok(())
}

/// Calls `run` with the configured plugin.
///
/// # Errors
/// `configure` was not called, or `run` says so.
pub fn with<P: Plugin, T>(
    slot: &RefCell<Option<P>>,
    run: impl FnOnce(&mut P) -> Result<T, String>,
) -> Result<T, String> {
    match slot.borrow_mut().as_mut() {
        Some(plugin) => run(plugin),
        None => Err("the plugin is not configured".to_owned()),
    }
}

fn parse<P: Plugin>(params: &str) -> Result<P::Params, String> {
    let json: Json = serde_json::from_str(params).map_err(|error| format!("the parameters are not JSON: {error}"))?;
    P::Params::parse(&json).map_err(|error: ParamError| error.to_string())
}
