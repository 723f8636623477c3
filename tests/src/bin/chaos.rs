//! Kills a host under load, fifty times, and lets the checker say what was lost. Run by `make chaos`.
//!
//! `PHRONIS_KILLS` and `PHRONIS_SEED` change the number and repeat a run.

use std::process::ExitCode;
use std::time::Instant;

use phronis_tests::checker::{Expect, Verdict, check_folder};
use phronis_tests::host::Room;
use phronis_tests::load::survive;
use phronis_tests::plugins::plugin;
use serde_json::Value;

/// The threshold that every run uses; simulated faults are clearly above it.
const HIGH: f64 = 90.0;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the run could not be finished: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<bool> {
    let seed = number("PHRONIS_SEED").unwrap_or_else(rand::random);
    let kills = number("PHRONIS_KILLS").and_then(|kills| u32::try_from(kills).ok()).unwrap_or(50);
    println!("{kills} kills under load, seed {seed} (PHRONIS_SEED={seed} runs it again)");
    let room = Room::new()?;
    room.install("default/sensors/threshold", &plugin("threshold")?, &format!("[params]\nhigh = {HIGH:.1}\n"))?;
    let started = Instant::now();
    let survived = survive(&room, seed, kills)?;
    let seconds = started.elapsed().as_secs_f64();
    let (sent, answered) = (survived.sent, survived.answered);
    println!("{sent} events sent, {answered} answered as durable, {kills} kills in {seconds:.0} s");

    let expect = Expect {
        detectors: ["threshold".to_owned()].into(),
        acknowledged: survived.acknowledged,
        judge: Some(Box::new(|seen| {
            let alerts = seen.alerts.len() as u64;
            match seen.event.get("value").and_then(Value::as_f64).is_some_and(|value| value > HIGH) {
                true => Verdict { found: alerts.min(1), missed: 1 - alerts.min(1), wrong: alerts.saturating_sub(1) },
                false => Verdict { wrong: alerts, ..Verdict::default() },
            }
        })),
        ..Expect::default()
    };
    let report = check_folder(&room.log(), "sensors", expect)?;
    println!("{report}");
    let holds = report.holds() && report.received >= answered;
    println!("{}", if holds { "verdict: nothing lost, nothing twice" } else { "verdict: FAILED" });
    Ok(holds)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
