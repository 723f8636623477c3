//! Events wait behind letters of an enricher; these are given up, and the host is killed while the others go on.

use anyhow::ensure;
use serde_json::json;

use super::stage::{Base, Stage, dies};
use crate::checker::Expect;
use crate::host::Host;
use crate::load::Producer;
use crate::plugins::guest;

pub(super) fn scene(base: Base, place: &str, seed: u64) -> anyhow::Result<String> {
    let stage = Stage::new(base, "sensors", "ordered = true\nretry = { base = \"1h\", cap = \"2h\" }")?;
    let (id, settings) = (stage.plugin("moody"), "[params]\nbehaviour = \"fail-negative\"\n[breaker]\nrows = 0\n");
    stage.room.install(&id, &guest("enricher")?, settings)?;
    let host = Host::start(&stage.room)?;
    host.plugin_is(&id, "active")?;
    // Of each third sensor, the first reading stays behind, and all others with it.
    let value = |key: u64, seq: u64| if seq == 0 && key.wrapping_add(seed).is_multiple_of(3) { -1.0 } else { 20.0 };
    for seq in 0..20 {
        let line =
            |key| json!({ "sensor_id": format!("S{key}"), "seq": seq, "value": value(key, seq) }).to_string() + "\n";
        ensure!(host.post(&stage.stream, (0..30).map(line).collect::<String>())?.is_taken());
    }
    host.until("events wait behind others", |host| Ok(stage.letters(host, "waiting")? == 200))?;
    host.stop()?;
    dies(&stage.room, place, |host| {
        host.until("letters are given up", |host| Ok(host.is_gone() || stage.give_up(host, "enrich/", "waiting")?))
    })?;
    let rests = |host: &Host, _: &mut Producer| {
        stage.give_up(host, "enrich/", "waiting")?;
        Ok(stage.letters(host, "count")? >= 200 && stage.letters(host, "waiting")? == 0)
    };
    let host = Host::start(&stage.room)?;
    stage.ends(
        host,
        &mut Producer::of(seed, &stage.stream),
        rests,
        |_| Expect::default(),
        |report| (report.delivered, report.order_letters) == (590, 0),
    )
}
