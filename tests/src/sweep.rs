//! Kills a host between each two steps that are not one, and lets it start again: parked, retried, redriven, discarded,
//! edited, kept in order, halted, reset, archived.
//!
//! A place is where `PHRONIS_FAIL_AT` kills; what is left must be whole, whatever the place, and whatever the host stands on.

mod agents;
mod archive;
mod letters;
mod order;
mod stage;

use anyhow::{Context as _, ensure};

pub use stage::Base;

/// What is under way when the host is killed.
type Scene = fn(Base, &str, u64) -> anyhow::Result<String>;

const ANYWHERE: &[Base] = &[Base::Local, Base::Remote];

/// Only a file can be made older than it is.
const LOCAL: &[Base] = &[Base::Local];

/// Each place, what leads there, and what the host may stand on.
pub const PLACES: &[(&str, Scene, &[Base])] = &[
    ("letters-due", letters::returned, ANYWHERE),
    ("letters-moved", letters::returned, ANYWHERE),
    ("letters-judged", letters::returned, ANYWHERE),
    ("letters-answered", letters::returned, ANYWHERE),
    ("last-letters-due", letters::exhausted, ANYWHERE),
    ("last-letters-moved", letters::exhausted, ANYWHERE),
    ("last-letters-judged", letters::exhausted, ANYWHERE),
    ("last-letters-answered", letters::exhausted, ANYWHERE),
    ("redrive-stepped", letters::redrive, ANYWHERE),
    ("redrive-noted", letters::redrive, ANYWHERE),
    ("discard-written", letters::discard, ANYWHERE),
    ("edit-posted", letters::edit, ANYWHERE),
    ("order-due", order::scene, ANYWHERE),
    ("order-moved", order::scene, ANYWHERE),
    ("halt-begun", agents::halt, ANYWHERE),
    ("halt-stored", agents::halt, ANYWHERE),
    ("halt-told", agents::halt, ANYWHERE),
    ("reset-stored", agents::reset, ANYWHERE),
    ("archive-file-written", archive::scene, ANYWHERE),
    ("archive-files-written", archive::scene, ANYWHERE),
    ("archive-manifest-written", archive::scene, ANYWHERE),
    ("archive-list-written", archive::scene, ANYWHERE),
    ("archive-metadata-written", archive::scene, ANYWHERE),
    ("archive-swapped", archive::scene, ANYWHERE),
    ("archive-committed", archive::scene, ANYWHERE),
    ("archive-expired", archive::upkeep, ANYWHERE),
    ("archive-orphans-found", archive::upkeep, LOCAL),
    ("upkeep-archive-file-written", archive::upkeep, ANYWHERE),
    ("upkeep-archive-files-written", archive::upkeep, ANYWHERE),
    ("upkeep-archive-manifest-written", archive::upkeep, ANYWHERE),
    ("upkeep-archive-list-written", archive::upkeep, ANYWHERE),
    ("upkeep-archive-metadata-written", archive::upkeep, ANYWHERE),
    ("upkeep-archive-swapped", archive::upkeep, ANYWHERE),
    ("upkeep-archive-committed", archive::upkeep, ANYWHERE),
];

/// Kills at one place, with a seed of the environment's or a random one.
///
/// # Errors
/// When something does not hold; with the seed that runs it again.
pub fn run(base: Base, place: &str) -> anyhow::Result<()> {
    let seed = std::env::var("PHRONIS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed} (PHRONIS_SEED={seed} runs it again)");
    let (_, scene, bases) = PLACES.iter().find(|(name, ..)| *name == place).context("a place")?;
    ensure!(bases.contains(&base), "{place} is not swept {base}");
    println!("{}", scene(base, place, seed).with_context(|| format!("killed at {place} {base}, seed {seed}"))?);
    Ok(())
}
