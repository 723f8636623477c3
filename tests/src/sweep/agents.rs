//! Agents are halted and reset, and the host is killed on the way: who is halted stays so, and a reset is known everywhere.

use anyhow::ensure;
use serde_json::json;

use super::stage::{Base, Stage, dies, order};
use crate::host::Host;
use crate::plugins::plugin;

const LIMIT: &str = "[params]\nfield = \"metadata.calls_in_minute\"\nhigh = 500\nhalt = true\n";

/// An alert halts an agent, and the host is killed on the way.
pub(super) fn halt(base: Base, place: &str, seed: u64) -> anyhow::Result<String> {
    let stage = Stage::new(base, "agents", "plugins.threshold.may_halt = true")?;
    let id = stage.plugin("threshold");
    stage.room.install(&id, &plugin("threshold")?, LIMIT)?;
    let agent = agent(&stage, seed);
    let call = json!({ "agent_id": agent, "status": "active", "metadata": { "calls_in_minute": 501 } }).to_string();
    dies(&stage.room, place, |host| {
        host.plugin_is(&id, "active")?;
        // The answer may come after the end.
        host.until("the call is taken", |host| {
            Ok(host.is_gone() || host.post(&stage.stream, call.clone().into_bytes())?.is_taken())
        })
    })?;
    let host = Host::start(&stage.room)?;
    host.until("the agent is halted", |host| Ok(state(host, &agent)? == "halted"))?;
    let file = stage.room.data().join("agents.halted");
    host.until("its own file says so", |_| Ok(std::fs::read_to_string(&file)?.contains(&agent)))?;
    host.kill()?;
    drop(host);
    let host = Host::start(&stage.room)?;
    ensure!(state(&host, &agent)? == "halted", "it is halted from the first answer on");
    Ok(format!("{agent} is halted"))
}

/// An agent is reset, and the host is killed once the store has it: after the next start, every host knows.
pub(super) fn reset(base: Base, place: &str, seed: u64) -> anyhow::Result<String> {
    let stage = Stage::new(base, "agents", "")?;
    let other = stage.neighbour()?;
    let neighbour = other.as_ref().map(Host::start).transpose()?;
    let agent = agent(&stage, seed);
    let host = Host::start(&stage.room)?;
    order(&host, &format!("/v1/agents/{agent}/halt"), &json!({ "reason": "looks wrong" }))?;
    for host in neighbour.iter().chain([&host]) {
        host.until("the agent is halted", |host| Ok(state(host, &agent)? == "halted"))?;
    }
    host.stop()?;
    dies(&stage.room, place, |host| {
        order(host, &format!("/v1/agents/{agent}/reset"), &json!({ "reason": "was fine" }))
    })?;
    let host = Host::start(&stage.room)?;
    for host in neighbour.iter().chain([&host]) {
        host.until("the agent may act again", |host| Ok(state(host, &agent)? == "running"))?;
    }
    Ok(format!("{agent} is reset"))
}

/// A name that no other scene has: hosts on one broker hear of each other's agents.
fn agent(stage: &Stage, seed: u64) -> String {
    format!("runaway-{seed}-{}", stage.number)
}

fn state(host: &Host, agent: &str) -> anyhow::Result<String> {
    Ok(host.get(&format!("/v1/agents/{agent}"))?.str("/state").to_owned())
}
