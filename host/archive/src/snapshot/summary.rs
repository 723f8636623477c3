//! Totals of a snapshot: those of the one before, and what was added and removed.

use std::collections::HashMap;

use iceberg::spec::Summary;

/// A total, what adds to it, what takes from it.
const TOTALS: [(&str, &str, &str); 6] = [
    ("total-data-files", "added-data-files", "deleted-data-files"),
    ("total-delete-files", "added-delete-files", "removed-delete-files"),
    ("total-records", "added-records", "deleted-records"),
    ("total-files-size", "added-files-size", "removed-files-size"),
    ("total-position-deletes", "added-position-deletes", "removed-position-deletes"),
    ("total-equality-deletes", "added-equality-deletes", "removed-equality-deletes"),
];

/// Adds totals to the summary of a snapshot. One that the snapshot before does not have is not guessed.
pub(super) fn add_totals(summary: &mut HashMap<String, String>, before: Option<&Summary>) {
    for (total, added, removed) in TOTALS {
        let number = |key: &str| summary.get(key).map_or(Some(0), |value| value.parse::<u64>().ok());
        let old: Option<u64> = match before {
            None => Some(0),
            Some(before) => before.additional_properties.get(total).and_then(|value| value.parse().ok()),
        };
        let (Some(old), Some(added), Some(removed)) = (old, number(added), number(removed)) else { continue };
        if let Some(new) = old.checked_add(added).and_then(|sum| sum.checked_sub(removed)) {
            summary.insert(total.to_owned(), new.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use iceberg::spec::Operation;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn totals_follow_those_before() {
        let mut first = map(&[("added-records", "10"), ("added-data-files", "2")]);
        add_totals(&mut first, None);
        assert_eq!(first["total-records"], "10");
        assert_eq!(first["total-equality-deletes"], "0");
        let before = Summary { operation: Operation::Append, additional_properties: first };
        let mut second = map(&[("added-data-files", "1"), ("deleted-data-files", "2")]);
        add_totals(&mut second, Some(&before));
        assert_eq!((second["total-records"].as_str(), second["total-data-files"].as_str()), ("10", "1"));
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        let before = Summary { operation: Operation::Append, additional_properties: HashMap::new() };
        let mut summary = map(&[("added-records", "10")]);
        add_totals(&mut summary, Some(&before));
        assert_eq!(summary.get("total-records"), None);
    }
}
