//! Trouble: a broken version of the detector, and an agent that runs away. Both are contained, seen, and put right.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use phronis_tests::host::{Host, Listener, PATIENCE, Room};
use phronis_tests::plugins::{package, plugin, root};
use serde_json::Value;

use crate::feed::Feed;
use crate::say::{self, Say};
use crate::watch::Watch;

/// The detector that may halt agents.
pub(crate) const LIMIT: &str = "default/agents/threshold";

/// Calls a minute above which an agent is halted.
const CALLS: u64 = 500;

/// How long readings go on while the breaker is open.
const OPEN: Duration = Duration::from_secs(3);

/// What the broken version's scene measured.
#[derive(Debug)]
pub(crate) struct Broken {
    /// From the saved file to the open breaker.
    pub(crate) opened: Duration,
    /// Letters that waited for the fixed version.
    pub(crate) letters: u64,
    /// From the saved fix to the last letter that came back.
    pub(crate) returned: Duration,
}

/// Saves a broken version over the good one, then the good one again, while readings come in.
pub(crate) fn broken(
    say: &Say,
    host: &Host,
    room: &Room,
    good: &Path,
    feed: &Feed,
    watch: &mut Watch,
) -> anyhow::Result<Broken> {
    say.scene(
        "A broken version of the detector is saved over the good one: it crashes on every reading. Readings go on.",
    );
    let breaker = host.listen("?kind=breaker")?;
    let broken = package("phronis-demo-broken", "threshold-broken")?;
    room.install(crate::THRESHOLD, &broken, "")?;
    let saved = Instant::now();
    let (opened, crashes) = until_state(&breaker, "open")?;
    let opened = opened.saturating_duration_since(saved);
    say.fact("breaker", &format!("open {} after the save, after {crashes} crashes", say::time(opened)));
    watch.tell(say, feed, OPEN);
    let letters = waiting(host)?;
    say.fact(
        "meanwhile",
        &format!("readings are delivered, marked as not judged; {} letters wait", say::number(letters)),
    );

    say.scene("The good version is saved again. What was not judged comes back.");
    room.install(crate::THRESHOLD, good, "")?;
    let saved = Instant::now();
    let (closed, _) = until_state(&breaker, "closed")?;
    say.fact("breaker", &format!("closed {} after the save", say::time(closed.saturating_duration_since(saved))));
    host.until("all letters came back", |host| Ok(waiting(host)? == 0))?;
    let returned = saved.elapsed();
    say.fact("letters", &format!("all came back and were judged within {}", say::time(returned)));
    Ok(Broken { opened, letters, returned })
}

/// Hears of breakers until one is in a state: when, and how many crashes stand behind it.
fn until_state(breaker: &Listener, state: &str) -> anyhow::Result<(Instant, u64)> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until && !say::was_interrupted() {
        let Some(event) = breaker.within(Duration::from_millis(20)) else { continue };
        if event.data.get("state").and_then(Value::as_str) == Some(state) {
            let crashes = event.data.pointer("/trip/counts/trap").and_then(Value::as_u64).unwrap_or_default();
            return Ok((event.at, crashes));
        }
    }
    anyhow::bail!("the breaker is not {state} within {PATIENCE:?}")
}

/// Letters of the detector that will be tried again.
fn waiting(host: &Host) -> anyhow::Result<u64> {
    let answer = host.get("/v1/letter_classes?stream=sensors")?;
    ensure!(answer.status == 200, "the host answered {}: {}", answer.status, answer.text);
    let classes = answer.json.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    Ok(classes.iter().filter_map(|class| class.get("waiting").and_then(Value::as_u64)).sum())
}

/// What the agent's scene measured.
#[derive(Debug)]
pub(crate) struct Halted {
    /// Calls that ran before one was refused.
    pub(crate) calls: u64,
    /// From the halt to the refusal, by the host's clock.
    pub(crate) refused: Duration,
}

/// Puts the detector in place that judges agents by their calls.
pub(crate) fn prepare(room: &Room) -> anyhow::Result<()> {
    let settings = format!(
        "[params]\nfield = \"metadata.calls_in_minute\"\nhigh = {CALLS}\nseverity = \"critical\"\nhalt = true\n"
    );
    room.install(LIMIT, &plugin("threshold")?, &settings)
}

/// Lets an agent in another process run away, until its guard refuses a call.
pub(crate) fn runaway(say: &Say, host: &Host) -> anyhow::Result<Halted> {
    say.scene(&format!(
        "An agent runs away: a Python process whose tool is guarded. More than {CALLS} calls a minute halt it."
    ));
    let mut agent = agent(host)?;
    let mut told = String::new();
    let until = Instant::now() + PATIENCE;
    while agent.try_wait()?.is_none() {
        if Instant::now() > until || say::was_interrupted() {
            agent.kill()?;
            agent.wait()?;
            anyhow::bail!("the agent was not stopped within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    agent.stdout.take().context("what the agent says")?.read_to_string(&mut told)?;
    let told: Value = serde_json::from_str(told.trim()).with_context(|| format!("the agent said `{told}`"))?;
    let calls = told.get("calls").and_then(Value::as_u64).unwrap_or_default();
    let reason =
        told.get("reason").and_then(Value::as_str).with_context(|| format!("the agent was never stopped: {told}"))?;
    let millis = told.get("halt_to_refusal_ms").and_then(Value::as_f64).context("a measured time")?;
    let refused = Duration::from_secs_f64(millis.max(0.0) / 1000.0);
    say.fact("halted", &format!("after {} calls: {reason}", say::number(calls)));
    say.fact("refused", &format!("the next call, {} after the halt", say::time(refused)));
    Ok(Halted { calls, refused })
}

fn agent(host: &Host) -> anyhow::Result<Child> {
    Command::new("python3")
        .arg(root().join("examples/guarded-agent/agent.py"))
        .args(["--url", host.base(), "--agent", "runaway-1", "--patience", "30"])
        .env("PYTHONPATH", root().join("sdk/python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("starting the agent: python3 is needed")
}
