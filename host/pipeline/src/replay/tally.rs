//! Counts what two sides found, a day at a time. Pure.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use phronis_core::time::Time;

use super::report::{ByDay, Named, Sample, Sides};
use super::trial::Hit;

/// Alerts of each side that are shown in full.
const SAMPLES: usize = 10;

/// Keys that are shown.
const TOP: usize = 10;

/// Keys that are counted; events of more keys are counted together.
const MOST_KEYS: usize = 1_000_000;

/// What the keys past the bound are called.
const OTHERS: &str = "(other keys)";

/// Counts of both sides.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) all: Sides,
    pub(super) days: Vec<ByDay>,
    rules: BTreeMap<Option<Arc<str>>, (u64, u64)>,
    keys: BTreeMap<Option<Arc<str>>, (u64, u64)>,
    pub(super) only_new: Vec<Sample>,
    pub(super) only_old: Vec<Sample>,
}

impl Tally {
    /// Counts a day's alerts; both lists are put in order and freed of repeats.
    pub(super) fn day(
        &mut self,
        day: i64,
        events: u64,
        new: &mut Vec<Hit>,
        old: Option<&mut Vec<Hit>>,
        unmatched: u64,
    ) {
        let mut nothing = Vec::new();
        let is_compared = old.is_some();
        let old = old.unwrap_or(&mut nothing);
        for side in [&mut *new, &mut *old] {
            side.sort_by(order);
            side.dedup_by(|a, b| order(a, b) == Ordering::Equal);
        }
        let mut sides = Sides { new: new.len() as u64, old: old.len() as u64, unmatched, ..Sides::default() };
        new.iter().for_each(|hit| self.count(hit, |counts| counts.0 += 1));
        old.iter().for_each(|hit| self.count(hit, |counts| counts.1 += 1));
        let (mut ours, mut theirs) = (new.iter().peekable(), old.iter().peekable());
        loop {
            let which = match (ours.peek(), theirs.peek()) {
                (Some(ours), Some(theirs)) => order(ours, theirs),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            match which {
                Ordering::Equal => {
                    sides.both += 1;
                    ours.next();
                    theirs.next();
                }
                Ordering::Less => {
                    sides.only_new += 1;
                    keep(&mut self.only_new, ours.next().filter(|_| is_compared));
                }
                Ordering::Greater => {
                    sides.only_old += 1;
                    keep(&mut self.only_old, theirs.next());
                }
            }
        }
        let whole = &mut self.all;
        whole.new += sides.new;
        whole.old += sides.old;
        whole.both += sides.both;
        whole.only_new += sides.only_new;
        whole.only_old += sides.only_old;
        whole.unmatched += sides.unmatched;
        self.days.push(ByDay { day: date(day), events, alerts: sides });
    }

    fn count(&mut self, hit: &Hit, one: impl Fn(&mut (u64, u64))) {
        one(self.rules.entry(Some(Arc::clone(&hit.rule))).or_default());
        let is_known = self.keys.len() < MOST_KEYS || self.keys.contains_key(&hit.key);
        let key = if is_known { hit.key.clone() } else { Some(OTHERS.into()) };
        one(self.keys.entry(key).or_default());
    }

    /// By rule, in the order of their names.
    pub(super) fn rules(&self) -> Vec<Named> {
        self.rules.iter().map(|(name, counts)| named(name, *counts)).collect()
    }

    /// The keys with most alerts; of equals, those whose names come first.
    pub(super) fn top_keys(&self) -> Vec<Named> {
        let mut all: Vec<_> = self.keys.iter().collect();
        all.sort_by_key(|(_, (new, old))| std::cmp::Reverse((*new).max(*old)));
        all.into_iter().take(TOP).map(|(name, counts)| named(name, *counts)).collect()
    }
}

fn named(name: &Option<Arc<str>>, (new, old): (u64, u64)) -> Named {
    Named { name: name.as_deref().map(str::to_owned), new, old }
}

/// One alert is one rule about one event.
fn order(a: &Hit, b: &Hit) -> Ordering {
    (a.partition, a.offset, &a.rule).cmp(&(b.partition, b.offset, &b.rule))
}

fn keep(samples: &mut Vec<Sample>, hit: Option<&Hit>) {
    let Some(hit) = hit.filter(|_| samples.len() < SAMPLES) else { return };
    samples.push(Sample {
        at: Time(hit.at).to_string(),
        partition: hit.partition,
        offset: hit.offset,
        key: hit.key.as_deref().map(str::to_owned),
        rule: hit.rule.to_string(),
        severity: hit.severity.to_string(),
        message: hit.message.clone(),
    });
}

/// `2026-11-22` of days since 1970.
fn date(day: i64) -> String {
    let text = Time(day.saturating_mul(86_400_000_000)).to_string();
    text.split('T').next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use phronis_core::plugin::Severity;

    use super::*;

    fn hit(offset: i64, rule: &str, key: Option<&str>) -> Hit {
        Hit {
            partition: 0,
            offset,
            at: 0,
            rule: rule.into(),
            severity: Severity::Warning,
            key: key.map(Into::into),
            message: String::new(),
        }
    }

    #[test]
    fn alerts_are_the_same_when_rule_and_event_are() {
        let mut tally = Tally::default();
        let mut new = vec![hit(2, "a", Some("k")), hit(1, "a", None), hit(1, "b", None), hit(1, "a", None)];
        let mut old = vec![hit(1, "a", None), hit(3, "a", Some("k")), hit(2, "b", Some("k"))];
        tally.day(20_779, 5, &mut new, Some(&mut old), 1);
        tally.day(20_780, 1, &mut vec![hit(9, "a", Some("k"))], Some(&mut Vec::new()), 0);
        let expected = Sides { new: 4, old: 3, both: 1, only_new: 3, only_old: 2, unmatched: 1 };
        assert_eq!(tally.all, expected);
        assert_eq!(tally.days.iter().map(|day| day.day.as_str()).collect::<Vec<_>>(), ["2026-11-22", "2026-11-23"]);
        let rules: Vec<_> = tally.rules().into_iter().map(|rule| (rule.name.unwrap(), rule.new, rule.old)).collect();
        assert_eq!(rules, [("a".to_owned(), 3, 2), ("b".to_owned(), 1, 1)]);
        let keys: Vec<_> = tally.top_keys().into_iter().map(|key| (key.name, key.new, key.old)).collect();
        assert_eq!(keys, [(None, 2, 1), (Some("k".to_owned()), 2, 2)]);
        let old: Vec<_> = tally.only_old.iter().map(|sample| (sample.offset, sample.rule.as_str())).collect();
        assert_eq!(old, [(2, "b"), (3, "a")]);
    }
}
