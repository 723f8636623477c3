//! The types and the log of `wit/plugin.wit`, shared by all plugins.
//!
//! Only imports are generated here: the exports of a world are generated in the plugin's own crate (`component.rs`
//! of the macros), because a library that carried both worlds would promise exports that the plugin does not have.

#![allow(missing_docs, unreachable_pub, unsafe_code, clippy::all, reason = "generated code")]
#![allow(
    clippy::missing_safety_doc,
    clippy::cast_possible_truncation,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]

wit_bindgen::generate!({
    path: "wit",
    inline: "
        package phronis:sdk@0.1.0;
        world shared {
            import phronis:plugin/types@0.1.0;
            import phronis:plugin/log@0.1.0;
        }
    ",
    world: "phronis:sdk/shared@0.1.0",
    additional_derives: [PartialEq],
    generate_all,
    generate_unused_types: true,
});
