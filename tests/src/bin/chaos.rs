//! Breaks everything, again and again, and lets the checker say what was lost. Run by `make chaos`.
//!
//! Kills between all steps, one sweep on the embedded log with SQLite and the next on Kafka with PostgreSQL and S3;
//! `kill -9` under load on both logs, then each fault of `faults` in several rounds, then the large run with many keys.
//! `PHRONIS_KILLS`, `PHRONIS_ROUNDS`, `PHRONIS_EVENTS`, `PHRONIS_SWEEPS` change how much of it, `PHRONIS_ONLY` leaves out all
//! whose name does not have this in it; `PHRONIS_SEED` repeats a run.

use std::process::ExitCode;
use std::time::Instant;

use phronis_tests::checker::{Expect, check_folder, judged_by};
use phronis_tests::faults;
use phronis_tests::host::Room;
use phronis_tests::load::survive;
use phronis_tests::plugins::plugin;
use phronis_tests::postgres::Server;
use phronis_tests::s3;

/// The threshold that every run uses; simulated faults are clearly above it.
const HIGH: f64 = 90.0;

/// What was run, and what of it does not hold.
#[derive(Default)]
struct Tally {
    /// What names of runs must have in them.
    only: String,
    runs: u32,
    failed: Vec<String>,
}

fn main() -> ExitCode {
    let seed = number("PHRONIS_SEED").unwrap_or_else(rand::random);
    let kills = number("PHRONIS_KILLS").and_then(|kills| u32::try_from(kills).ok()).unwrap_or(20);
    let rounds = number("PHRONIS_ROUNDS").unwrap_or(5);
    let events = number("PHRONIS_EVENTS").unwrap_or(2_000_000);
    println!("{kills} kills on each log, {rounds} rounds of all faults, {events} events with many keys");
    println!("seed {seed} (PHRONIS_SEED={seed} runs it again)");
    let sweeps = number("PHRONIS_SWEEPS").unwrap_or(20);
    println!("{sweeps} kills at each step of letters, redrives, edits, halts, resets and the archive");
    let begun = Instant::now();
    let mut tally = Tally { only: std::env::var("PHRONIS_ONLY").unwrap_or_default(), ..Tally::default() };
    // All sweeps share them; without them, each says why it failed.
    let shared = (Server::shared(), s3::Server::shared());
    for sweep in 0..sweeps {
        for (place, scene, bases) in phronis_tests::sweep::PLACES {
            let turn = usize::try_from(sweep).unwrap_or_default() % bases.len().max(1);
            let Some(base) = bases.get(turn) else { continue };
            let what = format!("sweep {} {place} {base}", sweep + 1);
            tally.run(&what, || scene(*base, place, seed.wrapping_add(sweep)));
        }
    }
    drop(shared);
    if kills > 0 {
        tally.run(&format!("{kills} kills on the embedded log"), || embedded(seed, kills));
        tally.run(&format!("{kills} kills on Kafka"), || faults::kills(seed, kills, false));
        tally.run(&format!("{kills} kills on Kafka, exactly once"), || faults::kills(seed, kills, true));
    }
    for round in 0..rounds {
        for (name, fault) in faults::ALL {
            tally.run(&format!("round {} {name}", round + 1), || fault(seed.wrapping_add(round)));
        }
    }
    if events > 0 {
        tally.run("many keys", || faults::many_keys(seed, events));
    }
    tally.sum_up(begun)
}

impl Tally {
    fn run(&mut self, what: &str, run: impl FnOnce() -> anyhow::Result<String>) {
        if !what.contains(&self.only) {
            return;
        }
        let begun = Instant::now();
        let outcome = run();
        let seconds = begun.elapsed().as_secs();
        self.runs += 1;
        match outcome {
            Ok(told) => println!("holds   {what} ({seconds} s): {told}"),
            Err(error) => {
                println!("FAILED  {what} ({seconds} s): {error:#}");
                self.failed.push(what.to_owned());
            }
        }
    }

    fn sum_up(&self, begun: Instant) -> ExitCode {
        let Self { runs, failed, .. } = self;
        println!("{runs} runs in {} min, {} failed", begun.elapsed().as_secs() / 60, failed.len());
        if *runs == 0 {
            println!("verdict: FAILED: no run has `{}` in its name", self.only);
            return ExitCode::FAILURE;
        }
        if failed.is_empty() {
            println!("verdict: nothing lost, nothing out of order, nothing twice where once was asked");
            return ExitCode::SUCCESS;
        }
        println!("verdict: FAILED: {}", failed.join("; "));
        ExitCode::FAILURE
    }
}

/// Kills a host on the embedded log under load.
fn embedded(seed: u64, kills: u32) -> anyhow::Result<String> {
    let room = Room::new()?;
    room.install("default/sensors/threshold", &plugin("threshold")?, &format!("[params]\nhigh = {HIGH:.1}\n"))?;
    let survived = survive(&room, seed, kills)?;
    let expect = Expect { acknowledged: survived.acknowledged, ..judged_by("threshold", HIGH) };
    let report = check_folder(&room.log(), "sensors", expect)?.must_hold()?;
    anyhow::ensure!(
        report.received >= survived.answered,
        "{} were answered, the report is: {report}",
        survived.answered
    );
    let (sent, answered) = (survived.sent, survived.answered);
    Ok(format!("{sent} sent, {answered} answered, {} in, {} delivered", report.received, report.delivered))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
