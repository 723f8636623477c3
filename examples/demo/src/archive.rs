//! The last chapter: what the run left in the archive, asked with the commands that a person types while no host runs.
//!
//! What they print is shown as it is. What they say is held against the topics, which somebody else has read and counted.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use phronis_tests::checker::Report;
use phronis_tests::host::{Room, run};
use serde_json::Value;

use crate::judge::{Backtest, Truth};
use crate::say::{self, Say};

/// What every host of the demo is told: a commit every ten seconds leaves a few states to go back to.
pub(crate) const CONFIG: &str = "[archive]\nenabled = true\ncommit_every = \"10s\"\n";

/// The limit that is tried, in °C: between the two that were in force.
pub(crate) const TRIED: f64 = 80.0;

const EVENTS: &str = "default_sensors_events";

/// What the archive said.
#[derive(Debug)]
pub(crate) struct Archived {
    /// Alerts of each sensor.
    alerts: BTreeMap<String, u64>,
    /// Letters of the gate.
    letters: u64,
    /// The events as they are, as they were before the burst, and as they were first.
    states: [State; 3],
    backtest: Backtest,
}

/// The events of one snapshot: rows and greatest offset of each partition.
type State = BTreeMap<i32, (u64, i64)>;

/// Tells the chapter; the state to go back to is the one before the burst.
pub(crate) fn tell(say: &Say, room: &Room, before_burst: &str) -> anyhow::Result<Archived> {
    say.scene("The archive: all of it is in Iceberg tables now. The host is stopped; these commands read the files.");
    typed(say, room, &["archive", "tables"], &[])?;
    let sql = "SELECT phronis_key AS sensor, count(*) AS alerts, max(phronis_event_time) AS last\n     \
               FROM default_sensors_alerts WHERE plugin = 'threshold' GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5";
    say.line("");
    typed(say, room, &["archive", "query"], &[sql])?;

    say.scene("Back in time: each commit is a state that can still be asked, by its id or by a time.");
    typed(say, room, &["archive", "snapshots"], &[EVENTS])?;
    let first = first_snapshot(room)?;
    let before = format!("FOR TIMESTAMP AS OF '{before_burst}'");
    let first = format!("FOR VERSION AS OF {first}");
    let sql = format!(
        "SELECT 'now' AS state, count(*) AS events FROM {EVENTS}\n     \
         UNION ALL SELECT 'before the burst', count(*) FROM {EVENTS}\n       {before}\n     \
         UNION ALL SELECT 'first commit', count(*) FROM {EVENTS}\n       {first}\n     \
         ORDER BY 2 DESC"
    );
    say.line("");
    typed(say, room, &["archive", "query"], &[&sql])?;

    let (high, lower) = (crate::HIGH, crate::LOWER);
    say.scene(&format!(
        "A backtest: {TRIED:.0} °C all along, against what was found with {high:.0}, then {lower:.0} °C."
    ));
    let params = format!(r#"{{"field": "value_normal", "high": {TRIED:.0}}}"#);
    let plugin = format!("plugins/{}.wasm", crate::THRESHOLD);
    let replay = [&plugin, "--stream", "sensors", "--since", "1h", "--params", &params, "--against", "threshold"];
    typed(say, room, &["replay"], &replay)?;
    let told = phronis(room, &[&["replay"], &replay[..], &["-o", "json"]].concat())?;
    let told: Value = serde_json::from_str(&told)?;
    let backtest = Backtest::of(told.pointer("/result/alerts").context("the replay names no alerts")?)?;
    explain(say, backtest);

    let states = [state(room, "")?, state(room, &before)?, state(room, &first)?];
    Ok(Archived { alerts: alerts(room)?, letters: letters(room)?, states, backtest })
}

/// The report of a replay in words of this story.
fn explain(say: &Say, backtest: Backtest) {
    let Backtest { both, only_new, only_old } = backtest;
    let (high, lower, both) = (crate::HIGH, crate::LOWER, say::number(both));
    say.line("");
    say.fact("both", &format!("{both} readings would have had their alert all the same"));
    say.fact(
        "only new",
        &format!("{} between {TRIED:.0} and {high:.0} °C, from before the limit was lowered", say::number(only_new)),
    );
    say.fact(
        "only old",
        &format!("{} between {lower:.0} and {TRIED:.0} °C would have been left alone", say::number(only_old)),
    );
}

/// Shows a command as it is typed, runs it, and shows what it prints.
fn typed(say: &Say, room: &Room, command: &[&str], rest: &[&str]) -> anyhow::Result<()> {
    say.command(&[&["phronis"], command, &["-c", "phronis.toml"], rest].concat());
    say.output(&phronis(room, &[command, rest].concat())?);
    Ok(())
}

/// What a command prints.
fn phronis(room: &Room, words: &[&str]) -> anyhow::Result<String> {
    let (code, told, said) = run(room.command(words)?)?;
    ensure!(code == Some(0), "`phronis {}` ended with {code:?}: {told}{said}", words.join(" "));
    Ok(told)
}

/// The rows of an answer.
fn rows(room: &Room, sql: &str) -> anyhow::Result<Vec<Value>> {
    let told = phronis(room, &["archive", "query", sql, "-o", "jsonl"])?;
    told.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn number(row: &Value, name: &str) -> anyhow::Result<i64> {
    row.get(name).and_then(Value::as_i64).with_context(|| format!("`{name}` is no number in {row}"))
}

fn count(row: &Value) -> anyhow::Result<u64> {
    Ok(u64::try_from(number(row, "n")?)?)
}

/// The oldest snapshot of the events that there is.
fn first_snapshot(room: &Room) -> anyhow::Result<String> {
    let told: Value = serde_json::from_str(&phronis(room, &["archive", "snapshots", EVENTS, "-o", "json"])?)?;
    let all = told.get("items").unwrap_or(&told).as_array().context("a list of snapshots")?;
    let oldest = all.last().and_then(|oldest| oldest.get("id")?.as_str());
    Ok(oldest.context("nothing was archived")?.to_owned())
}

fn state(room: &Room, then: &str) -> anyhow::Result<State> {
    let what = "phronis_partition AS p, count(*) AS n, max(phronis_offset) AS last";
    let all = rows(room, &format!("SELECT {what} FROM {EVENTS} {then} GROUP BY 1"))?;
    all.iter().map(|row| Ok((i32::try_from(number(row, "p")?)?, (count(row)?, number(row, "last")?)))).collect()
}

fn alerts(room: &Room) -> anyhow::Result<BTreeMap<String, u64>> {
    let sql =
        "SELECT phronis_key AS sensor, count(*) AS n FROM default_sensors_alerts WHERE phronis_offset >= 0 GROUP BY 1";
    let sensor = |row: &Value| row.get("sensor").and_then(Value::as_str).unwrap_or_default().to_owned();
    rows(room, sql)?.iter().map(|row| Ok((sensor(row), count(row)?))).collect()
}

fn letters(room: &Room) -> anyhow::Result<u64> {
    let sql = "SELECT count(*) AS n FROM default_sensors_letters WHERE kind = 'letter' AND stage = 'gate'";
    rows(room, sql)?.first().map_or(Ok(0), count)
}

fn sum(state: &State) -> u64 {
    state.values().map(|(rows, _)| rows).sum()
}

impl Archived {
    /// What the archive says, in numbers.
    pub(crate) fn facts(&self) -> [(&'static str, String); 2] {
        let [now, then, _] = self.states.each_ref().map(|state| say::number(sum(state)));
        let (alerts, letters) = (say::number(self.alerts.values().sum()), say::number(self.letters));
        let Backtest { both, only_new, only_old } = self.backtest;
        let [both, only_new, only_old] = [both, only_new, only_old].map(say::number);
        let archive = format!(
            "{now} events, {alerts} alerts, {letters} letters: those of the topics, once; {then} events before the burst"
        );
        let backtest = format!("{both} both, {only_new} only new, {only_old} only old: as counted in the topics");
        [("archive", archive), ("backtest", backtest)]
    }

    /// What differs from the topics, as others have read them.
    pub(crate) fn wrong(&self, report: &Report, truth: &Truth) -> Vec<String> {
        let mut wrong = Vec::new();
        let [now, then, first] = &self.states;
        if sum(now) != report.delivered {
            wrong.push(format!("{} events are archived, {} delivered", sum(now), report.delivered));
        }
        for (partition, (rows, last)) in self.states.iter().flatten() {
            let delivered = truth.delivered(*partition, *last);
            if *rows != delivered {
                wrong.push(format!("partition {partition} to {last}: {rows} are archived, {delivered} delivered"));
            }
        }
        if !(sum(first) > 0 && sum(first) <= sum(then) && sum(then) < sum(now)) {
            wrong.push(format!("the states have {}, {} and {} events", sum(first), sum(then), sum(now)));
        }
        let mut alerts: BTreeMap<String, u64> = BTreeMap::new();
        for alert in &report.alerts {
            let sensor = alert.json.get("key").and_then(Value::as_str).unwrap_or_default();
            *alerts.entry(sensor.to_owned()).or_default() += 1;
        }
        if alerts != self.alerts {
            wrong.push(format!("archived alerts by sensor: {:?}, in the topic: {alerts:?}", self.alerts));
        }
        if self.letters != report.gate_letters {
            wrong.push(format!("{} letters of the gate are archived, not {}", self.letters, report.gate_letters));
        }
        if self.backtest != truth.backtest() {
            wrong.push(format!("the replay says {:?}, the topics {:?}", self.backtest, truth.backtest()));
        }
        wrong
    }
}
