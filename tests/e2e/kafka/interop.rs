//! Programs of others: what they write is judged, and what hosts write they can read.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use phronis_tests::checker::letters_on_kafka;
use phronis_tests::fleet::{Fleet, Options};
use phronis_tests::kafka::{Broker, Isolation, NewRecord, produce, read_all};

use crate::reading;

#[test]
fn keys_land_where_other_clients_put_them() -> anyhow::Result<()> {
    let fleet = Fleet::shared("keys", Options { partitions: 7, ..Options::default() })?;
    let (bootstrap, raw) = (Broker::shared()?.bootstrap(), fleet.topics()?.raw);
    let mut node = fleet.start("a")?;
    let keys: Vec<String> = (0..40).map(|n| format!("sensor {n}")).chain(["ä €".to_owned()]).collect();
    let mut ours = BTreeMap::new();
    for key in &keys {
        let answer = node.host()?.post(fleet.stream(), reading(key, 1, 20.0))?;
        let (partition, ..) = *answer.ranges().first().with_context(|| answer.text.clone())?;
        ours.insert(key.clone().into_bytes(), partition);
    }
    produce(&bootstrap, &raw, keys.iter().map(|key| (key, reading(key, 2, 20.0))))?;
    if kcat_is_there()? {
        let lines: String = keys.iter().map(|key| format!("{key}\t{}", reading(key, 3, 20.0))).collect();
        kcat(&["-P", "-b", &bootstrap, "-t", &raw, "-K", "\t", "-X", "partitioner=murmur2_random"], &lines)?;
    }
    fleet.drained(&[&node])?;
    node.stop()?;
    let records = read_all(&bootstrap, &raw, Isolation::Committed)?;
    ensure!(records.len() >= 2 * keys.len());
    for record in records {
        let key = record.key.clone().context("a key")?;
        assert_eq!(ours.get(&key), Some(&record.partition), "{record:?}");
    }
    Ok(())
}

#[test]
fn headers_and_timestamps_of_others_are_kept_and_letters_are_read_with_kcat() -> anyhow::Result<()> {
    let fleet = Fleet::shared("interop", Options::default())?;
    let (bootstrap, topics) = (Broker::shared()?.bootstrap(), fleet.topics()?);
    let mut node = fleet.start("a")?;
    // Within retention, and not now.
    let at = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())? - 3_600_000;
    let event = |key: &str, value: &str, headers: &[(&str, &str)]| NewRecord {
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect(),
        timestamp: Some(at),
        ..NewRecord::from((key, value))
    };
    let cloud = [
        ("ce_specversion", "1.0"),
        ("ce_id", "42"),
        ("ce_source", "/press/7"),
        ("ce_type", "reading"),
        ("content-type", "application/json"),
    ];
    let records = [
        event("S1", &reading("S1", 1, 20.0), &[("traceparent", "00-ab-cd-01"), ("traceparent", "again")]),
        event("S2", &reading("S2", 1, 20.0), &cloud),
        event("S3", "this is no JSON", &[("traceparent", "00-ef-01-01")]),
        // Kafka Connect with schemas, and a schema registry: no contract reads these.
        event("S4", &format!("{{\"schema\":null,\"payload\":{}}}", reading("S4", 1, 20.0)), &[]),
        event("S5", &format!("\0\0\0\0\u{1}{}", reading("S5", 1, 20.0)), &[]),
    ];
    produce(&bootstrap, &topics.raw, records.clone())?;
    fleet.drained(&[&node])?;
    node.stop()?;

    let processed = read_all(&bootstrap, &topics.processed, Isolation::Committed)?;
    assert_eq!(processed.len(), 2, "{processed:?}");
    for record in &processed {
        assert_eq!(record.timestamp, at, "{record:?}");
        let sent = records.iter().find(|sent| sent.key == record.key).context("its origin")?;
        let own: Vec<_> = record.headers.iter().filter(|(name, _)| !name.starts_with("phronis-")).cloned().collect();
        assert_eq!(own, sent.headers, "{record:?}");
    }
    let letters = letters_on_kafka(&bootstrap, fleet.stream())?;
    let mut codes: Vec<_> = letters.iter().map(|letter| letter.code.as_str()).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["PH1001", "PH1001", "PH1003"]);
    if kcat_is_there()? {
        let args = ["-C", "-q", "-b", &bootstrap, "-t", &topics.dlq, "-e", "-o", "beginning", "-f", "%k|%h|%s\n"];
        let told = kcat(&args, "")?;
        for word in ["S3|", "phronis-code=PH1001", "phronis-origin-offset=", "|this is no JSON"] {
            assert!(told.contains(word), "{word} is not in {told}");
        }
    }
    Ok(())
}

/// kcat is looked at where it is installed, and must be where `CI` is true; the same things are seen by the tests' own client
/// everywhere.
fn kcat_is_there() -> anyhow::Result<bool> {
    let is_there = Command::new("kcat").arg("-V").output().is_ok_and(|output| output.status.success());
    let is_needed = std::env::var("CI").is_ok_and(|value| value == "true");
    ensure!(is_there || !is_needed, "kcat is missing: run scripts/bootstrap.sh");
    Ok(is_there)
}

fn kcat(args: &[&str], input: &str) -> anyhow::Result<String> {
    let mut command = Command::new("kcat");
    let mut child = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("stdin")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "kcat {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
