//! What an event costs in core, on one thread: the gate, and the splice that writes it out again.
//!
//! Method: batches of 1 024 events of about 75 bytes, all different; best and median of 40 rounds of 200 batches.
//! Counted at the end of the chain: events of the gate, bytes written. `cargo bench -p phronis-core`.

#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use arrow_array::{ArrayRef, Float64Array, StringArray};
use phronis_core::plugin::{Added, FieldType};
use phronis_core::processed::Writer;
use phronis_core::records::{Records, RecordsBuilder};
use phronis_core::{Contract, Decoder};

const BATCH: u32 = 1024;
const BATCHES: u32 = 200;
const ROUNDS: usize = 40;

const CONTRACT: &str = "
apiVersion: v3.1.0
kind: DataContract
id: bench
version: 1.0.0
schema:
- name: readings
  customProperties: [{property: phronis.key, value: sensor_id}, {property: phronis.eventTime, value: ts}]
  properties:
  - {name: sensor_id, logicalType: string, required: true, logicalTypeOptions: {minLength: 1, maxLength: 64}}
  - {name: value, logicalType: number, required: true, logicalTypeOptions: {minimum: -1000, maximum: 1000}}
  - {name: unit, logicalType: string, customProperties: [{property: phronis.enum, value: [C, F, bar]}]}
  - {name: ts, logicalType: timestamp}
  - {name: seq, logicalType: integer, logicalTypeOptions: {minimum: 0}}
";

fn main() {
    let contract = Arc::new(Contract::parse(CONTRACT, "bench.yaml").unwrap());
    let plain = batch(|i| {
        let (value, cents) = (i % 90, i % 100);
        format!(
            r#"{{"sensor_id":"S{:04}","value":{value}.{cents:02},"unit":"C","ts":{},"seq":{i}}}"#,
            i % 1000,
            1_732_276_800_123_u64 + u64::from(i)
        )
    });
    let times = batch(|i| {
        format!(
            r#"{{"sensor_id":"S{:04}","value":{}.5,"unit":"C","ts":"2024-11-22T12:{:02}:{:02}.123Z","seq":{i}}}"#,
            i % 1000,
            i % 90,
            i / 60 % 60,
            i % 60
        )
    });
    let undeclared = batch(|i| {
        format!(
            r#"{{"site":"north","sensor_id":"S{:04}","value":{}.5,"tags":["a","b"],"unit":"C","seq":{i}}}"#,
            i % 1000,
            i % 90
        )
    });
    for (name, records) in
        [("gate", &plain), ("gate, RFC 3339 times", &times), ("gate, two undeclared fields", &undeclared)]
    {
        let mut decoder = Decoder::new(Arc::clone(&contract));
        measure(name, records, || {
            let checked = decoder.check(records.clone());
            assert_eq!(checked.events.len(), BATCH as usize);
            black_box(&checked.events.columns);
        });
    }
    let text: ArrayRef = Arc::new(StringArray::from(vec!["warning"; BATCH as usize]));
    let number: ArrayRef = Arc::new(Float64Array::from_iter_values((0..BATCH).map(|i| f64::from(i) / 8.0)));
    let added = [("severity", FieldType::Text), ("value_c", FieldType::Number)];
    let added = added.map(|(name, of_type)| Added { name: name.into(), of_type });
    let writer = Writer::new(Arc::clone(&contract), &added).unwrap();
    let columns = [text, number];
    let mut out = Vec::new();
    for (name, records, has_undeclared) in
        [("splice, two columns", &plain, false), ("splice, undeclared looked through", &undeclared, true)]
    {
        measure(name, records, || {
            out.clear();
            let batch = writer.batch(&columns).unwrap();
            for row in 0..records.len() {
                batch.write(&mut out, records.body.value(row).unwrap(), has_undeclared, row);
            }
            black_box(&out);
        });
    }
}

fn batch(event: impl Fn(u32) -> String) -> Records {
    let mut builder = RecordsBuilder::with_capacity(BATCH as usize, 100 * BATCH as usize);
    for i in 0..BATCH {
        builder.push(1_732_276_800_123, None, Some(event(i).as_bytes()), &[]);
    }
    let body = builder.finish();
    Records { topic: "bench".into(), partition: 0, offsets: (0..i64::from(BATCH)).collect::<Vec<_>>().into(), body }
}

fn measure(name: &str, records: &Records, mut run: impl FnMut()) {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            (0..BATCHES).for_each(|_| run());
            start.elapsed().as_secs_f64() * 1e9 / f64::from(BATCH * BATCHES)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    let bytes = records.body.bytes() as f64 / f64::from(BATCH);
    let (best, median) = (rounds.first().unwrap(), rounds.get(ROUNDS / 2).unwrap());
    println!("{name:36} {best:7.1} ns best {median:7.1} ns median, {:5.2} M events/s, {bytes:.0} bytes", 1e3 / median);
}
