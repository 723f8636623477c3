//! Guests that misbehave, as real components: what the engine's tests and the end-to-end tests load.
//!
//! This file holds what the guests share; each guest is one file in `examples/` and uses nothing but the WIT contract,
//! so that a fault of the SDK can neither hide nor cause what is tested here.
//! The guests are hostile on purpose: never link one into anything that ships.

/// Parameters that every guest takes.
#[derive(Debug, Clone)]
pub struct Params {
    /// What the guest does, by name.
    pub behaviour: String,
    /// Only a row with this value triggers the behaviour; without it, every call does.
    pub mark: Option<f64>,
    /// What the honest part compares with.
    pub high: f64,
}

impl Params {
    /// Reads the parameters as the host passes them.
    pub fn parse(params: &str) -> Self {
        let json: serde_json::Value = serde_json::from_str(params).unwrap_or_default();
        Self {
            behaviour: json.get("behaviour").and_then(|v| v.as_str()).unwrap_or("honest").to_owned(),
            mark: json.get("mark").and_then(serde_json::Value::as_f64),
            high: json.get("high").and_then(serde_json::Value::as_f64).unwrap_or(90.0),
        }
    }
}

/// JSON Schema of [`Params`].
pub const PARAMS_SCHEMA: &str = r#"{
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "additionalProperties": false,
    "properties": {
        "behaviour": {"type": "string", "default": "honest"},
        "mark": {"type": ["number", "null"], "default": null},
        "high": {"type": "number", "default": 90.0, "maximum": 1000.0}
    }
}"#;

/// Never returns.
pub fn spin() -> ! {
    let mut n = 0u64;
    loop {
        n = std::hint::black_box(n.wrapping_add(1));
    }
}

/// Works for a while: long for a computer, short against a deadline of seconds.
pub fn work(rounds: u64) {
    let mut n = 0u64;
    for _ in 0..rounds {
        n = std::hint::black_box(n.wrapping_add(1));
    }
}

/// Takes memory until there is none.
pub fn grow() -> usize {
    let mut all = Vec::new();
    loop {
        all.push(std::hint::black_box(vec![1u8; 1 << 20]));
        if all.len() > 1 << 16 {
            return all.len();
        }
    }
}

/// Uses up the stack.
pub fn recurse(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    if depth == u64::MAX { 0 } else { recurse(depth + 1).wrapping_add(frame.iter().sum::<u64>()) }
}
