//! The exports of a component.
//!
//! The bindings of the world are generated in the plugin's crate, from the WIT text that is embedded here, so that an
//! author needs no WIT file. They exist in wasm alone: a native test calls the plugin's type.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};

use crate::plugin::World;

/// The text of the plugin interface.
const WIT: &str = include_str!("../wit/plugin.wit");

/// The exports of the world, for a type of the enclosing module.
pub(crate) fn export(world: World, ident: &Ident) -> TokenStream {
    let module = format_ident!("__phronis_{}", ident);
    let world_name = world.name();
    let (imports, answers) = match world {
        World::Detector => (
            quote!(
                use exports::phronis::plugin::detecting;
            ),
            quote! {
                impl detecting::Guest for Component {
                    fn detect(batch: types::Batch) -> Result<types::Judgement, String> {
                        PLUGIN.with(|slot| component::with(slot, |plugin| phronis_sdk::Detector::detect(plugin, &batch)))
                    }
                }
            },
        ),
        World::Enricher => (
            quote!(
                use exports::phronis::plugin::enriching;
            ),
            quote! {
                impl enriching::Guest for Component {
                    fn adds(params: String) -> Result<Vec<types::Added>, String> {
                        component::adds::<Plugin>(&params)
                    }

                    fn enrich(batch: types::Batch) -> Result<types::Enrichment, String> {
                        PLUGIN.with(|slot| component::with(slot, |plugin| phronis_sdk::Enricher::enrich(plugin, &batch)))
                    }
                }
            },
        ),
    };
    quote! {
        #[cfg(target_arch = "wasm32")]
        #[allow(missing_docs, unreachable_pub, unsafe_code, clippy::all, reason = "generated code")]
        mod #module {
            ::phronis_sdk::__private::wit_bindgen::generate!({
                inline: #WIT,
                world: #world_name,
                runtime_path: "::phronis_sdk::__private::wit_bindgen::rt",
                with: {
                    "phronis:plugin/types@0.1.0": ::phronis_sdk::__private::types,
                    "phronis:plugin/log@0.1.0": ::phronis_sdk::__private::log,
                },
            });

            use ::phronis_sdk::__private::{component, types};
            use ::std::{cell::RefCell, string::String, thread_local, vec::Vec};

            use super::#ident as Plugin;
            use exports::phronis::plugin::lifecycle;
            #imports

            thread_local! {
                static PLUGIN: RefCell<Option<Plugin>> = const { RefCell::new(None) };
            }

            struct Component;

            impl lifecycle::Guest for Component {
                fn describe() -> types::Manifest {
                    component::describe::<Plugin>()
                }

                fn fields(params: String) -> Result<Vec<types::Field>, String> {
                    component::fields::<Plugin>(&params)
                }

                fn configure(params: String) -> Result<(), String> {
                    PLUGIN.with(|slot| component::configure(slot, &params))
                }
            }

            #answers

            export!(Component);
        }
    }
}
