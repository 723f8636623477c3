//! Words about agents on `phronis.control`: a record each, with the key that [`Key`] shows; the topic keeps the last of each.

use phronis_core::agent::{Key, Record};
use phronis_core::delivery::{Append, Delivery};
use phronis_core::partition::CONTROL_TOPIC;
use phronis_core::records::{Records, RecordsBuilder};

/// A word on its way to the log.
pub(super) fn delivery<'a>(said: impl Iterator<Item = &'a Record>, now_ms: i64) -> Delivery {
    let mut records = RecordsBuilder::default();
    for record in said {
        // Plain texts and numbers: writing them cannot fail.
        let value = serde_json::to_vec(record).unwrap_or_default();
        records.push(now_ms, Some(record.key().to_string().as_bytes()), Some(&value), &[]);
    }
    let append = Append { topic: CONTROL_TOPIC.into(), partition: 0, records: records.finish() };
    Delivery { appends: vec![append], commits: Vec::new() }
}

/// The words about agents among others. What nobody can read is left out and told: it says nothing about who is halted.
pub(super) fn said(records: &Records) -> impl Iterator<Item = Record> {
    (0..records.len()).filter_map(|row| {
        let key = Key::parse(str::from_utf8(records.body.key(row)?).ok()?)?;
        let value = records.body.value(row)?;
        match serde_json::from_slice::<Record>(value) {
            Ok(record) if record.key() == key => Some(record),
            Ok(_) => {
                tracing::warn!(%key, "a record about an agent has the key of another, left out");
                None
            }
            Err(error) => {
                tracing::warn!(%key, %error, "what is said about an agent cannot be read, left out");
                None
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use phronis_core::Time;
    use phronis_core::agent::{Scope, State};

    use super::*;

    #[test]
    fn what_is_said_is_heard_and_other_records_are_passed_by() {
        let word = Record {
            tenant: "acme".parse().unwrap(),
            scope: Scope::Agent("a/1".into()),
            state: State::Halted,
            version: 2,
            reason: "r".into(),
            actor: "a".into(),
            cause: None,
            cause_at: None,
            at: Time(1),
            expires_at: None,
            is_replicated: true,
        };
        let written = delivery(std::iter::once(&word), 5).appends.remove(0).records;
        let value = written.value(0).unwrap().to_vec();
        let mut body = RecordsBuilder::default();
        body.push(5, Some(b"hosts/a"), Some(b"{}"), &[]);
        body.push(5, written.key(0), Some(&value), &[]);
        body.push(5, Some(b"agents/acme/other"), Some(&value), &[]);
        body.push(5, written.key(0), Some(b"{"), &[]);
        body.push(5, written.key(0), None, &[]);
        let body = body.finish();
        let offsets = arrow_array::Int64Array::from_iter_values(0..5);
        let records = Records { topic: CONTROL_TOPIC.into(), partition: 0, offsets, body };
        assert_eq!(said(&records).collect::<Vec<_>>(), [word]);
    }
}
