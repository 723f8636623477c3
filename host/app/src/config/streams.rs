//! `[streams]`: the named flows of events, each with its contract, topics and plugins.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use phronis_core::contract::Contract;
use phronis_core::letter::backoff::Policy;
use phronis_core::letter::order;
use phronis_core::partition::{CONFIG_TOPIC, CONTROL_TOPIC, Topics};
use phronis_core::{Name, StreamId, code};
use phronis_pipeline::stream::LetterRates;

use super::http::unknown_tenant;
use super::problem::{Origin, Problem};
use super::reader::{Reader, Section};
use super::tenants::Tenant;
use super::topics::{self, Owner};
use super::units::Bytes;
use super::value::{Bound, words};

/// The built-in streams of the default tenant, with their contracts.
pub const BUILT_IN: [(&str, &str); 2] = [
    ("sensors", include_str!("../../contracts/sensors.yaml")),
    ("agents", include_str!("../../contracts/agents.yaml")),
];

/// A stream.
#[derive(Debug, Clone)]
pub struct Stream {
    /// What an event is.
    pub contract: Arc<Contract>,
    /// The file of the contract; `None` for a built-in one.
    pub contract_file: Option<PathBuf>,
    /// The names of its topics.
    pub topics: Topics,
    /// Partitions of each of them.
    pub partitions: i32,
    /// Threads that judge it, at most one a partition.
    pub workers: i32,
    /// Whether a reader of committed records sees every outcome once; the embedded log sees to that anyway.
    pub exactly_once: bool,
    /// Most records of one batch.
    pub batch_records: usize,
    /// Most bytes of one batch.
    pub batch_bytes: Bytes,
    /// What to do while a plugin has no good version.
    pub on_missing: OnMissing,
    /// What to do with events of halted agents.
    pub on_halted: OnHalted,
    /// What may be deleted of raw, processed and alerts.
    pub retention: Retention,
    /// What may be deleted of the letters; nothing unless someone says so.
    pub letters_retention: Retention,
    /// When letters are tried again.
    pub retry: Policy,
    /// How many letters come back at once.
    pub letter_rates: LetterRates,
    /// Whether later events of a key wait behind one that was not delivered, and how many may.
    pub ordered: Option<order::Bounds>,
    /// Plugins for which something is said.
    pub plugins: BTreeMap<Name, Plugin>,
}

/// What only the host may say about a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plugin {
    /// Whether its alerts may halt agents.
    pub may_halt: bool,
}

/// What a topic may delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Records older than this; `None` keeps them for ever.
    pub age: Option<Duration>,
    /// The oldest records while a partition holds more than this; `None` is no bound.
    pub bytes: Option<Bytes>,
}

words! {
    /// What a stream does while one of its plugins never had a good version.
    pub OnMissing, "\"bypass\" or \"hold\"",
    /// Delivers events unjudged by it, marked so.
    Bypass = "bypass",
    /// Waits.
    Hold = "hold",
}

words! {
    /// What a stream does with events whose agent is halted.
    pub OnHalted, "\"pass\", \"mark\" or \"drop\"",
    /// Judges and delivers them like any other.
    Pass = "pass",
    /// Judges and delivers them, marked so.
    Mark = "mark",
    /// Makes letters of them.
    Drop = "drop",
}

/// Reads all streams; problems with the contract's own line are the contract's.
pub(super) fn read(
    reader: &mut Reader,
    root: &mut Section<'_>,
    tenants: &BTreeMap<Name, Tenant>,
) -> BTreeMap<StreamId, Stream> {
    let mut streams = BTreeMap::new();
    let mut taken: BTreeMap<String, Owner> = BTreeMap::new();
    for global in [CONFIG_TOPIC, CONTROL_TOPIC] {
        let owner = Owner { who: "the host itself".to_owned(), path: String::new(), origin: Origin::Default };
        taken.insert(global.to_owned(), owner);
    }
    for (name, mut section) in root.named(reader, "streams") {
        let id = match name.parse::<StreamId>() {
            Ok(id) => id,
            Err(error) => {
                reader.problems.push(Problem::new(section.origin(), section.path(), error.to_string()));
                continue;
            }
        };
        if !tenants.contains_key(&id.tenant) {
            let problem = Problem::new(section.origin(), section.path(), "");
            reader.problems.push(unknown_tenant(problem, &id.tenant, tenants));
        }
        if let Some(stream) = read_stream(reader, &mut section, &id, &mut taken) {
            streams.insert(id, stream);
        }
        section.finish(reader);
    }
    streams
}

fn read_stream(
    reader: &mut Reader,
    section: &mut Section<'_>,
    id: &StreamId,
    taken: &mut BTreeMap<String, Owner>,
) -> Option<Stream> {
    let contract = read_contract(reader, section, id);
    let partitions = section.or(reader, "partitions", 4_u32);
    /// Kafka clusters stay healthy below some thousands of partitions a broker; a typo should not make more.
    const MOST_PARTITIONS: u32 = 1024;
    if partitions > MOST_PARTITIONS {
        reader
            .problems
            .push(section.problem("partitions", format!("{partitions} is above the {MOST_PARTITIONS} allowed")));
    }
    let workers = section.or(reader, "workers", 1_u32);
    if workers > partitions {
        let message = format!("{workers} workers for {partitions} partitions: a partition has one worker");
        reader.problems.push(section.problem("workers", message));
    }
    let exactly_once = section.or(reader, "exactly_once", false);
    let batch_records = section.or(reader, "batch_records", 8192_u32);
    let batch_bytes = section.or(reader, "batch_bytes", Bytes(4 << 20));
    if batch_bytes.0 == 0 {
        reader.problems.push(section.problem("batch_bytes", "expected more than 0B"));
    }
    let on_missing = section.or(reader, "on_missing", OnMissing::Bypass);
    let on_halted = section.or(reader, "on_halted", OnHalted::Pass);
    let is_ordered = section.or(reader, "ordered", false);
    let week = Retention { age: Some(Duration::from_secs(7 * 86_400)), bytes: None };
    let retention = read_retention(reader, section, "retention", week);
    let letters_retention = read_retention(reader, section, "letters_retention", Retention::default());
    let retry = read_retry(reader, section);
    let letter_rates = read_rates(reader, section);
    let most = read_order_bounds(reader, section);
    let topics = topics::read(reader, section, id, taken);
    let plugins = read_plugins(reader, section);
    let (contract, contract_file) = contract?;
    Some(Stream {
        contract,
        contract_file,
        topics,
        partitions: i32::try_from(partitions).ok()?,
        workers: i32::try_from(workers).ok()?,
        exactly_once,
        batch_records: usize::try_from(batch_records).ok()?,
        batch_bytes,
        on_missing,
        on_halted,
        retention,
        letters_retention,
        retry,
        letter_rates,
        ordered: is_ordered.then_some(most),
        plugins,
    })
}

/// The contract and its file; `None` for a built-in one. Problems inside of a contract stand at its own line.
fn read_contract(
    reader: &mut Reader,
    section: &mut Section<'_>,
    id: &StreamId,
) -> Option<(Arc<Contract>, Option<PathBuf>)> {
    let (text, file) = match section.file(reader, "contract") {
        Some(path) => match std::fs::read_to_string(&path) {
            Ok(text) => (text, Some(path)),
            Err(error) => {
                let message = format!("cannot read the contract {}: {error}", path.display());
                reader.problems.push(section.problem("contract", message).code(code::CONTRACT_INVALID));
                return None;
            }
        },
        None => {
            let built_in = BUILT_IN.iter().find(|(name, _)| *name == id.to_string());
            let Some((_, text)) = built_in else {
                let help =
                    "contract = \"<file>.yaml\", an ODCS document; only `sensors` and `agents` have a built-in one";
                let problem = Problem::new(section.origin(), section.path_of("contract"), "is missing");
                reader.problems.push(problem.help(help));
                return None;
            };
            section.derived(reader, "contract", "# built in".to_owned());
            ((*text).to_owned(), None)
        }
    };
    let name = file.as_ref().map_or_else(|| format!("built-in/{id}.yaml"), |path| path.display().to_string());
    match Contract::parse(&text, &name) {
        Ok(contract) => Some((Arc::new(contract), file)),
        Err(error) => {
            let line = usize::try_from(error.line).unwrap_or(0);
            let origin = Origin::File { path: PathBuf::from(name).into(), line };
            let help = format!("the contract of stream {id}, named at {}", section.origin_of("contract"));
            let problem = Problem::new(&origin, error.path, error.problem);
            reader.problems.push(problem.code(code::CONTRACT_INVALID).help(help));
            None
        }
    }
}

fn read_retention(reader: &mut Reader, section: &mut Section<'_>, key: &'static str, base: Retention) -> Retention {
    let mut section = section.section(reader, key);
    let age = section.or(reader, "age", Bound(base.age)).0;
    let bytes = section.or(reader, "bytes", Bound(base.bytes)).0;
    section.finish(reader);
    Retention { age, bytes }
}

/// How letters come back: `retry = { base, cap, attempts }`.
fn read_retry(reader: &mut Reader, section: &mut Section<'_>) -> Policy {
    let usual = Policy::default();
    let mut section = section.section(reader, "retry");
    let base = section.or(reader, "base", usual.base);
    let cap = section.or(reader, "cap", usual.cap);
    let attempts = section.or(reader, "attempts", usual.attempts);
    if base.is_zero() {
        reader.problems.push(section.problem("base", "expected more than 0s"));
    }
    if cap < base {
        reader
            .problems
            .push(section.problem("cap", "is below `base`: the longest wait cannot be shorter than the first"));
    }
    section.finish(reader);
    Policy { base, cap, attempts }
}

/// How many letters come back a second: `letters_rate = { due, redrive }`.
fn read_rates(reader: &mut Reader, section: &mut Section<'_>) -> LetterRates {
    let usual = LetterRates::default();
    let mut section = section.section(reader, "letters_rate");
    let due = section.or(reader, "due", usual.due);
    let redrive = section.or(reader, "redrive", usual.redrive);
    for (key, rate) in [("due", due), ("redrive", redrive)] {
        if rate == 0 {
            reader.problems.push(section.problem(key, "expected more than 0 letters a second"));
        }
    }
    section.finish(reader);
    LetterRates { due, redrive }
}

/// What may wait for the order of its key: `ordered_most = { letters, bytes }`.
fn read_order_bounds(reader: &mut Reader, section: &mut Section<'_>) -> order::Bounds {
    let usual = order::Bounds::default();
    let mut section = section.section(reader, "ordered_most");
    let letters = section.or(reader, "letters", u32::try_from(usual.letters).unwrap_or(u32::MAX));
    let bytes = section.or(reader, "bytes", Bytes(usual.bytes));
    if letters == 0 {
        reader.problems.push(section.problem("letters", "expected more than 0"));
    }
    section.finish(reader);
    order::Bounds { letters: u64::from(letters), bytes: bytes.0 }
}

fn read_plugins(reader: &mut Reader, section: &mut Section<'_>) -> BTreeMap<Name, Plugin> {
    let mut plugins = BTreeMap::new();
    for (name, mut section) in section.named(reader, "plugins") {
        let may_halt = section.or(reader, "may_halt", false);
        match name.parse::<Name>() {
            Ok(name) => {
                plugins.insert(name, Plugin { may_halt });
            }
            Err(error) => reader.problems.push(Problem::new(section.origin(), section.path(), error.to_string())),
        }
        section.finish(reader);
    }
    plugins
}
