//! An enricher that doubles `value`, or breaks the contract as its parameter says.

use std::cell::RefCell;

use phronis_guests::{PARAMS_SCHEMA, Params};

wit_bindgen::generate!({ path: "../../wit", world: "enricher" });

use exports::phronis::plugin::enriching::Guest as Enriching;
use exports::phronis::plugin::lifecycle::Guest as Lifecycle;
use phronis::plugin::types::{
    Added, Batch, Column, Drop, Enrichment, Field, FieldType, Kind, Manifest, NumberLists, RowFailure, TextLists,
    Texts, Values,
};

struct Enricher;
export!(Enricher);

thread_local! {
    static PARAMS: RefCell<Option<Params>> = const { RefCell::new(None) };
}

impl Lifecycle for Enricher {
    fn describe() -> Manifest {
        Manifest {
            name: "guest-enricher".to_owned(),
            version: "1.2.3".to_owned(),
            kind: Kind::Enricher,
            params_schema: PARAMS_SCHEMA.to_owned(),
            stateful: false,
        }
    }

    fn fields(_: String) -> Result<Vec<Field>, String> {
        Ok(vec![Field { path: "value".to_owned(), of_type: FieldType::Number, required: true }])
    }

    fn configure(params: String) -> Result<(), String> {
        PARAMS.with_borrow_mut(|p| *p = Some(Params::parse(&params)));
        Ok(())
    }
}

impl Enriching for Enricher {
    fn adds(params: String) -> Result<Vec<Added>, String> {
        let added = |name: &str, of_type| Added { name: name.to_owned(), of_type };
        Ok(match Params::parse(&params).behaviour.as_str() {
            "all-types" => vec![
                added("flag", FieldType::Boolean),
                added("count", FieldType::Integer),
                added("double", FieldType::Number),
                added("label", FieldType::Text),
                added("at", FieldType::Timestamp),
                added("bytes", FieldType::Binary),
                added("tags", FieldType::Texts),
                added("levels", FieldType::Numbers),
            ],
            "no-name" => vec![added("", FieldType::Number)],
            _ => vec![added("double", FieldType::Number), added("label", FieldType::Text)],
        })
    }

    fn enrich(batch: Batch) -> Result<Enrichment, String> {
        let params = PARAMS.with_borrow(Clone::clone).expect("configure came first");
        let Some(Values::Number(values)) = batch.columns.first().map(|c| &c.values) else {
            return Err("no values".to_owned());
        };
        let bad = params.mark.is_none_or(|mark| values.contains(&mark));
        let mut answer = honest(values);
        match params.behaviour.as_str() {
            _ if !bad => {}
            "trap" => panic!("marked row"),
            "all-types" => answer.columns = all_types(values),
            "short-column" => answer.columns[0].values = Values::Number(vec![]),
            "long-column" => answer.columns[0].values = Values::Number(vec![0.0; values.len() + 1]),
            "wrong-type" => answer.columns[0].values = Values::Integer(vec![0; values.len()]),
            "missing-column" => _ = answer.columns.pop(),
            "short-validity" => answer.columns[0].validity = Some(vec![]),
            "falling-offsets" => change(&mut answer, |text| text.offsets[1] = u32::MAX),
            "short-data" => change(&mut answer, |text| _ = text.data.pop()),
            "first-offset" => change(&mut answer, |text| text.offsets[0] = 1),
            "not-utf8" => change(&mut answer, |text| text.data.fill(0xff)),
            "split-character" => change(&mut answer, |text| *text = texts(values.iter().map(|_| "é"))),
            "drop-out-of-range" => {
                answer.drops.push(Drop { row: batch.rows, reason: "gone".to_owned() });
            }
            "drop-negative" => {
                let negative = (0u32..).zip(values).filter(|(_, v)| **v < 0.0);
                answer.drops = negative.map(|(row, v)| Drop { row, reason: format!("{v} is negative") }).collect();
            }
            "fail-negative" => {
                let negative = (0u32..).zip(values).filter(|(_, v)| **v < 0.0);
                let failure = |(row, _)| RowFailure { row, message: "negative".to_owned() };
                answer.failures = negative.map(failure).collect();
            }
            _ => {}
        }
        if bad && params.behaviour == "split-character" {
            change(&mut answer, |text| text.offsets[1] = 1);
        }
        Ok(answer)
    }
}

fn honest(values: &[f64]) -> Enrichment {
    let double = Values::Number(values.iter().map(|v| v * 2.0).collect());
    let labels: Vec<String> = values.iter().map(|v| format!("v{v}")).collect();
    let label = Values::Text(texts(labels.iter().map(String::as_str)));
    let column = |values| Column { validity: None, values };
    Enrichment { columns: vec![column(double), column(label)], drops: vec![], failures: vec![] }
}

/// Every type; every row whose number is odd is null.
fn all_types(values: &[f64]) -> Vec<Column> {
    let rows = values.len();
    let mut valid = vec![0u8; rows.div_ceil(8)];
    (0..rows).step_by(2).for_each(|row| valid[row / 8] |= 1 << (row % 8));
    let whole = || values.iter().map(|v| *v as i64).collect::<Vec<_>>();
    let labels: Vec<String> = values.iter().map(|v| format!("v{v}")).collect();
    let text = || texts(labels.iter().map(String::as_str));
    let each = || (0..=rows as u32).collect::<Vec<_>>();
    [
        Values::Boolean(valid.clone()),
        Values::Integer(whole()),
        Values::Number(values.to_vec()),
        Values::Text(text()),
        Values::Timestamp(whole()),
        Values::Binary(text()),
        Values::Texts(TextLists { offsets: each(), items: text() }),
        Values::Numbers(NumberLists { offsets: each(), items: values.to_vec() }),
    ]
    .map(|values| Column { validity: Some(valid.clone()), values })
    .to_vec()
}

fn change(answer: &mut Enrichment, how: impl Fn(&mut Texts)) {
    for column in &mut answer.columns {
        if let Values::Text(text) = &mut column.values {
            how(text);
        }
    }
}

fn texts<'a>(rows: impl Iterator<Item = &'a str>) -> Texts {
    let (mut offsets, mut data) = (vec![0], Vec::new());
    for row in rows {
        data.extend_from_slice(row.as_bytes());
        offsets.push(data.len() as u32);
    }
    Texts { offsets, data }
}
