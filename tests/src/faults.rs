//! What breaks in production, each as a scenario on a real broker that ends with the checker's word.
//!
//! `make test` runs each once, `make chaos` again and again. A scenario gets a seed that decides all its chances,
//! and answers in a line what it found.

mod broker;
mod host;
mod network;
mod scale;
mod topic;

use serde_json::Value;

use crate::checker::Report;
use crate::fleet::{Fleet, Node, Options};

pub use host::kills;
pub use scale::many_keys;

/// A scenario: its name, which is what must hold, and how it is run.
pub type Fault = (&'static str, fn(u64) -> anyhow::Result<String>);

/// All of them.
pub const ALL: &[Fault] = &[
    ("three_kills_under_load_lose_nothing", |seed| kills(seed, 3, false)),
    ("three_kills_under_load_double_nothing_where_once_is_asked", |seed| kills(seed, 3, true)),
    ("a_host_that_sleeps_over_its_session_loses_nothing", |seed| host::sleep(seed, false)),
    ("a_host_that_sleeps_over_its_session_doubles_nothing_where_once_is_asked", |seed| host::sleep(seed, true)),
    ("three_hosts_come_and_go_under_load", |seed| host::come_and_go(seed, false)),
    ("three_hosts_come_and_go_where_once_is_asked", |seed| host::come_and_go(seed, true)),
    ("a_killed_broker_is_waited_for", broker::is_killed),
    ("a_broker_that_comes_late_is_waited_for", broker::comes_late),
    ("a_host_ends_while_its_broker_is_frozen", broker::is_frozen),
    ("a_full_broker_is_back_pressure_and_not_loss", broker::is_full),
    ("a_deleted_topic_is_told_and_waited_for", topic::is_deleted),
    ("a_deleted_topic_of_events_is_told_and_what_comes_after_is_judged", topic::raw_is_deleted),
    ("deleted_live_settings_stay_in_force", topic::settings_are_deleted),
    ("a_deleted_control_topic_is_told_and_said_again", topic::control_is_deleted),
    ("new_partitions_of_raw_wait_for_theirs_in_the_outputs", topic::grows),
    ("an_offset_that_is_gone_stops_its_partition_and_no_other", topic::forgets),
    ("an_event_that_is_too_large_becomes_a_letter", topic::refuses_large_events),
    ("topics_that_take_less_than_a_batch_get_smaller_ones", topic::takes_small_batches),
    ("a_bad_network_loses_nothing", network::is_bad),
    ("many_keys_stay_in_order_over_rebalances", |seed| many_keys(seed, 200_000)),
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

fn options(exactly_once: bool) -> Options {
    Options { exactly_once, ..Options::default() }
}

/// A report in one line.
fn line(report: &Report) -> String {
    let Report { received, delivered, repeated, alerts, repeated_alerts, .. } = report;
    format!(
        "{received} in, {delivered} delivered, {} letters, {} alerts; {repeated} records and {repeated_alerts} alerts came again",
        report.gate_letters + report.enrich_letters + report.deliver_letters,
        alerts.len(),
    )
}

/// Waits until the host is not ready and says all of these words about its stream, both ways.
fn is_told(node: &Node, fleet: &Fleet, words: &[&str]) -> anyhow::Result<()> {
    let has_all = |text: &str| words.iter().all(|word| text.contains(word));
    node.host()?.until(&format!("it says {words:?}"), |host| {
        let ready = host.get("/readyz")?;
        let stream = host.stream(fleet.stream())?;
        let detail = stream.get("detail").and_then(Value::as_str).unwrap_or_default();
        anyhow::ensure!(ready.status == 503 && has_all(&ready.text) && has_all(detail), "{} {stream}", ready.text);
        Ok(true)
    })
}

/// Waits until the metrics of the host say that its stream is behind, in records and in seconds.
fn is_late(node: &Node, fleet: &Fleet) -> anyhow::Result<()> {
    node.host()?.until("the metrics say how late it is", |host| {
        let metrics = host.get("/metrics")?.text;
        let most = |name: &str| {
            let of_stream = metrics.lines().filter(|line| line.starts_with(name) && line.contains(fleet.stream()));
            of_stream.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).fold(0.0, f64::max)
        };
        let (records, seconds) = (most("phronis_stream_lag_records{"), most("phronis_stream_lag_seconds{"));
        anyhow::ensure!(records > 0.0 && seconds > 0.0, "{records} records, {seconds} s");
        Ok(true)
    })
}

/// Waits until the host is ready.
fn is_ready(node: &Node) -> anyhow::Result<()> {
    node.host()?.until("it is ready", |host| {
        let ready = host.get("/readyz")?;
        anyhow::ensure!(ready.status == 200, "{}", ready.text);
        Ok(true)
    })
}
