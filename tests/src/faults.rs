//! What breaks in production, each as a scenario on a real broker that ends with the checker's word.
//!
//! `make test` runs each once, `make chaos` again and again. A scenario gets a seed that decides all its chances,
//! and answers in a line what it found.

mod broker;
mod host;

use crate::checker::Report;

/// A scenario: its name, which is what must hold, and how it is run.
pub type Fault = (&'static str, fn(u64) -> anyhow::Result<String>);

/// All of them.
pub const ALL: &[Fault] = &[
    ("three_kills_under_load_lose_nothing", host::three_kills_lose_nothing),
    ("three_kills_under_load_double_nothing_where_once_is_asked", host::three_kills_double_nothing),
    ("a_killed_broker_is_waited_for", broker::a_killed_broker_is_waited_for),
];

/// Runs a scenario by its name.
///
/// # Errors
/// When something does not hold; with the seed that runs it again.
pub fn run(name: &str) -> anyhow::Result<()> {
    let seed = std::env::var("PHRONIS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed} (PHRONIS_SEED={seed} runs it again)");
    let (_, scenario) = ALL.iter().find(|(of, _)| *of == name).ok_or_else(|| anyhow::anyhow!("no scenario {name}"))?;
    let told = scenario(seed).map_err(|error| error.context(format!("seed {seed}")))?;
    println!("{name}: {told}");
    Ok(())
}

/// A report in one line.
fn line(report: &Report) -> String {
    let Report { received, delivered, repeated, alerts, repeated_alerts, .. } = report;
    format!(
        "{received} in, {delivered} delivered, {} letters, {} alerts; {repeated} records and {repeated_alerts} alerts came again",
        report.gate_letters + report.enrich_letters,
        alerts.len(),
    )
}
