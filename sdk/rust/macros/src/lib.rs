//! The derives and attributes of `phronis-sdk`, which documents and re-exports them.
//!
//! What is wrong is reported where it stands in the author's file: types are checked by traits whose errors point at
//! the field, everything else by `syn::Error` with the span of the offending token.

use proc_macro::TokenStream;
use syn::{DeriveInput, ItemFn, parse_macro_input};

mod added;
mod attribute;
mod component;
mod event;
mod params;
mod plugin;

/// Reads a struct from the columns of a batch.
///
/// `#[field(path = "metadata.temp")]` reads another path than the field's name, `#[field(path = "$key")]` a system
/// column, `#[field(path_param = "field")]` the path that the parameter `field` holds.
#[proc_macro_derive(Event, attributes(field))]
pub fn derive_event(item: TokenStream) -> TokenStream {
    answer(event::expand(&parse_macro_input!(item as DeriveInput)))
}

/// Describes and parses parameters: a struct with named fields, or an enum of unit variants as the type of a field.
///
/// `#[param(default = 90.0, min = 0, max = 100, doc = "°C", name = "high-limit")]`; `default` alone is
/// `Default::default()`. `#[params(validate = check)]` on the struct names a `fn(&Self) -> Result<(), ParamError>`.
#[proc_macro_derive(Params, attributes(param, params))]
pub fn derive_params(item: TokenStream) -> TokenStream {
    answer(params::expand(&parse_macro_input!(item as DeriveInput)))
}

/// Names the columns that an enricher adds.
///
/// `#[column(name = "value_c")]` gives another name than the field's, `#[column(name_param = "output")]` the name that
/// the parameter `output` holds.
#[proc_macro_derive(Added, attributes(column))]
pub fn derive_added(item: TokenStream) -> TokenStream {
    answer(added::expand(&parse_macro_input!(item as DeriveInput)))
}

/// Makes a detector of a function: `fn judge(event: E, params: &P, alerts: &mut Alerts)`.
///
/// `params` may be left out; the function returns nothing or `Result<(), String>`. A type with the function's name
/// stands for the plugin in tests. `name` is needed, `version` is the crate's if it is not given.
#[proc_macro_attribute]
pub fn detector(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as ItemFn);
    answer(plugin::expand(plugin::World::Detector, arguments.into(), &function))
}

/// Makes an enricher of a function: `fn enrich(event: E, params: &P) -> Result<A, Reject>`.
///
/// `params` may be left out; the function returns a struct with `#[derive(Added)]`, or a `Result` of it and `String` or
/// `Reject`. A type with the function's name stands for the plugin in tests.
#[proc_macro_attribute]
pub fn enricher(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as ItemFn);
    answer(plugin::expand(plugin::World::Enricher, arguments.into(), &function))
}

/// Exports a type that implements `Detector` as the component.
#[proc_macro]
pub fn export_detector(item: TokenStream) -> TokenStream {
    component::export(plugin::World::Detector, &parse_macro_input!(item as syn::Ident)).into()
}

/// Exports a type that implements `Enricher` as the component.
#[proc_macro]
pub fn export_enricher(item: TokenStream) -> TokenStream {
    component::export(plugin::World::Enricher, &parse_macro_input!(item as syn::Ident)).into()
}

fn answer(tokens: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    tokens.unwrap_or_else(|error| error.to_compile_error()).into()
}
