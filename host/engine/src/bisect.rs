//! Finds the rows that make a call fail, with few calls.
//!
//! Pure: what a call is, its caller says. A range that failed is halved. If its left half passes, the right half is only
//! *suspected* and is halved at once without a call; a single row is called guilty only after it failed alone. So one
//! guilty row in 1 024 takes 11 to 20 calls, and rows that only fail together are not blamed.

use std::ops::Range;

use phronis_core::plugin::FailureKind;

use crate::instance::Failure;

/// What looking for guilty rows may cost, for one batch.
#[derive(Debug)]
pub(crate) struct Budget {
    calls: u32,
    deadlines: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self { calls: 32, deadlines: 10 }
    }
}

impl Budget {
    /// Whether nothing more may be run.
    pub(crate) fn is_spent(&self) -> bool {
        self.calls == 0 || self.deadlines == 0
    }

    /// Pays for one call that looks for guilty rows.
    pub(crate) fn pay(&mut self) {
        self.calls = self.calls.saturating_sub(1);
    }

    /// Notes a failure of any call; only deadlines cost.
    pub(crate) fn note(&mut self, failure: &Failure) {
        if failure.kind == FailureKind::Deadline {
            self.deadlines = self.deadlines.saturating_sub(1);
        }
    }
}

/// The failure of rows that were not run.
pub(crate) fn unrun() -> Failure {
    Failure {
        kind: FailureKind::Budget,
        message: "the event was not run: the budget for finding guilty events was used up".to_owned(),
    }
}

/// What is known of a range.
enum State {
    /// Nothing.
    Open,
    /// It failed.
    Failed(Failure),
    /// It is what is left of a range that failed.
    Suspect,
}

/// Looks for the guilty rows in a range that has just failed; gives outcomes in the order of the rows.
pub(crate) fn search<T>(
    range: Range<usize>,
    failure: Failure,
    budget: &mut Budget,
    mut call: impl FnMut(Range<usize>) -> Result<T, Failure>,
    mut outcome: impl FnMut(Range<usize>, Result<T, Failure>),
) {
    let mut todo = vec![(range, State::Failed(failure))];
    while let Some((range, state)) = todo.pop() {
        let (half, rest) = match state {
            State::Failed(failure) if range.len() <= 1 => {
                outcome(range, Err(failure));
                continue;
            }
            State::Failed(_) | State::Suspect if range.len() > 1 => {
                let middle = range.start + range.len() / 2;
                (range.start..middle, Some(middle..range.end))
            }
            _ => (range, None),
        };
        if budget.is_spent() {
            outcome(half, Err(unrun()));
            todo.extend(rest.map(|rest| (rest, State::Suspect)));
            continue;
        }
        budget.pay();
        match call(half.clone()) {
            Ok(answer) => {
                outcome(half, Ok(answer));
                todo.extend(rest.map(|rest| (rest, State::Suspect)));
            }
            Err(failure) => {
                budget.note(&failure);
                todo.extend(rest.map(|rest| (rest, State::Open)));
                todo.push((half, State::Failed(failure)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trap() -> Failure {
        Failure { kind: FailureKind::Trap, message: "trap".to_owned() }
    }

    /// Calls made, and for each row what came out of it.
    fn run(rows: usize, mut budget: Budget, fails: impl Fn(Range<usize>) -> bool) -> (u32, Vec<Option<FailureKind>>) {
        let (mut calls, mut outcomes) = (0, Vec::new());
        let call = |range: Range<usize>| {
            calls += 1;
            if fails(range) { Err(trap()) } else { Ok(()) }
        };
        search(0..rows, trap(), &mut budget, call, |range, outcome| {
            assert_eq!(outcomes.len(), range.start, "in order and without gaps");
            outcomes.extend(range.map(|_| outcome.as_ref().err().map(|f| f.kind)));
        });
        assert_eq!(outcomes.len(), rows);
        (calls, outcomes)
    }

    #[test]
    fn one_guilty_row_is_found_within_the_budget_wherever_it_is() {
        for guilty in 0..1024 {
            let (calls, outcomes) = run(1024, Budget::default(), |range| range.contains(&guilty));
            assert!(calls <= 20, "{calls}");
            let failed: Vec<_> = (0..1024).filter(|row| outcomes[*row].is_some()).collect();
            assert_eq!(failed, [guilty]);
            assert_eq!(outcomes[guilty], Some(FailureKind::Trap));
        }
    }

    #[test]
    fn any_set_of_guilty_rows_is_found_when_the_budget_allows() {
        for set in 1_u32..1 << 9 {
            let guilty = |row: usize| set >> row & 1 == 1;
            let budget = Budget { calls: 1000, deadlines: 1 };
            let (_, outcomes) = run(9, budget, |mut range| range.any(guilty));
            assert!((0..9).all(|row| outcomes[row].is_some() == guilty(row)), "{set:b}");
        }
    }

    #[test]
    fn rows_that_only_fail_together_are_not_blamed() {
        let (_, outcomes) = run(64, Budget::default(), |range| range.len() > 32);
        assert!(outcomes.iter().all(Option::is_none));
    }

    #[test]
    fn rows_beyond_the_budget_are_not_run_and_say_so() {
        let (calls, outcomes) = run(1024, Budget::default(), |_| true);
        assert_eq!(calls, 32);
        assert_eq!(outcomes[0], Some(FailureKind::Trap));
        assert_eq!(outcomes[1023], Some(FailureKind::Budget));
    }
}
