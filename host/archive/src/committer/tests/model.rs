//! Anything in any order: reads, flushes, commits, crashes between any two steps, two committers, storage and catalog that fail.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use proptest::prelude::*;

use super::*;

/// Every place between two steps of a commit.
const PLACES: [&str; 6] = [
    "archive-file-written",
    "archive-files-written",
    "archive-manifest-written",
    "archive-metadata-written",
    "archive-swapped",
    "archive-committed",
];

const PARTITIONS: usize = 2;

thread_local! {
    /// Where the process ends, once.
    static END: Cell<Option<&'static str>> = const { Cell::new(None) };
}

fn hook(place: &'static str) {
    if END.get() == Some(place) {
        END.set(None);
        std::panic::resume_unwind(Box::new("the process ends here"));
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// Records come to a partition of the source.
    Grow {
        partition: usize,
        kinds: Vec<u8>,
    },
    /// A committer reads some of them.
    Read {
        who: usize,
        partition: usize,
        count: usize,
    },
    Flush {
        who: usize,
    },
    Commit {
        who: usize,
    },
    Discard {
        who: usize,
    },
    /// A process ends between two steps.
    Crash {
        who: usize,
    },
    /// The next time that a process gets there, it ends.
    End {
        place: usize,
    },
    Swap {
        fate: u8,
    },
    Catalog {
        is_away: bool,
    },
    Storage {
        every: u64,
    },
    Heal,
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0_usize..2;
    let partition = || 0..PARTITIONS;
    prop_oneof![
        4 => (partition(), prop::collection::vec(any::<u8>(), 1..12)).prop_map(|(partition, kinds)| Step::Grow { partition, kinds }),
        6 => (who(), partition(), 1_usize..9).prop_map(|(who, partition, count)| Step::Read { who, partition, count }),
        1 => who().prop_map(|who| Step::Flush { who }),
        4 => who().prop_map(|who| Step::Commit { who }),
        1 => who().prop_map(|who| Step::Discard { who }),
        1 => who().prop_map(|who| Step::Crash { who }),
        2 => (0..PLACES.len()).prop_map(|place| Step::End { place }),
        1 => (0_u8..3).prop_map(|fate| Step::Swap { fate }),
        1 => any::<bool>().prop_map(|is_away| Step::Catalog { is_away }),
        1 => (1_u64..9).prop_map(|every| Step::Storage { every }),
        2 => Just(Step::Heal),
    ]
}

struct Run {
    world: World,
    keys: Vec<&'static str>,
    source: Vec<Vec<Row>>,
    committers: [Option<Committer>; 2],
    number: f64,
}

impl Run {
    fn new(is_keyed: bool) -> Self {
        let keys = if is_keyed { vec!["rule"] } else { Vec::new() };
        let source = vec![Vec::new(); PARTITIONS];
        Self { world: World::default(), keys, source, committers: [None, None], number: 0.0 }
    }

    fn grow(&mut self, partition: usize, kinds: &[u8]) {
        for kind in kinds {
            let records = &mut self.source[partition];
            let top = records.iter().filter_map(|row| row.offset).max().unwrap_or(-1);
            let offset = match kind % 8 {
                0 => None,
                // Something that came before, or was left out.
                1 => Some(i64::from(kind / 8) % (top + 1).max(1)),
                2 => Some(top.max(0)),
                3 => Some(top + 3),
                _ => Some(top + 1),
            };
            self.number += 1.0;
            let rule = ["hot", "cold"][usize::from(kind / 16) % 2].to_owned();
            let time = i64::from(*kind) * DAY / 64 - DAY;
            let partition = i32::try_from(partition).unwrap();
            records.push(Row { partition, offset, time, rule, number: self.number });
        }
    }

    async fn committer(&mut self, who: usize) -> Option<&mut Committer> {
        if self.committers[who].is_none() {
            let archive = self.world.archive().with_hook(hook);
            let options = WriteOptions { buffer_bytes: 1500, ..WriteOptions::default() };
            let opened = AssertUnwindSafe(Committer::open(&archive, spec(&self.keys), &options)).catch_unwind().await;
            self.committers[who] = opened.ok().and_then(Result::ok);
        }
        self.committers[who].as_mut()
    }

    /// Reads on; false when there is nothing more.
    async fn read(&mut self, who: usize, partition: usize, count: usize) -> bool {
        let records = self.source[partition].clone();
        let number = i32::try_from(partition).unwrap();
        let Some(committer) = self.committer(who).await else { return false };
        let from = usize::try_from(committer.resume(number).unwrap_or(0)).unwrap();
        let next = records.len().min(from + count);
        if from >= next {
            return false;
        }
        let rows = batch(&records[from..next]);
        let (from, next) = (i64::try_from(from).unwrap(), i64::try_from(next).unwrap());
        let appended = AssertUnwindSafe(committer.append(number, from, next, rows)).catch_unwind().await;
        if appended.is_err() {
            self.committers[who] = None;
        }
        true
    }

    async fn go(&mut self, step: Step) {
        match step {
            Step::Grow { partition, kinds } => self.grow(partition, &kinds),
            Step::Read { who, partition, count } => {
                self.read(who, partition, count).await;
            }
            Step::Flush { who } => {
                if let Some(committer) = self.committer(who).await
                    && AssertUnwindSafe(committer.flush()).catch_unwind().await.is_err()
                {
                    self.committers[who] = None;
                }
            }
            Step::Commit { who } => {
                if let Some(committer) = self.committer(who).await
                    && AssertUnwindSafe(committer.commit()).catch_unwind().await.is_err()
                {
                    self.committers[who] = None;
                }
            }
            Step::Discard { who } => {
                if let Some(committer) = self.committer(who).await {
                    // It fails when the catalog is away, and drops the plan all the same.
                    drop(committer.discard().await);
                }
            }
            Step::Crash { who } => self.committers[who] = None,
            Step::End { place } => END.set(Some(PLACES[place])),
            Step::Swap { fate } => self.world.swaps(&[[Swap::Unheard, Swap::Lost, Swap::Cut][usize::from(fate)]]),
            Step::Catalog { is_away } => self.world.catalog_is_away(is_away),
            Step::Storage { every } => self.world.storage_fails(every),
            Step::Heal => self.world.heal(),
        }
    }

    /// Works off all that is there with one committer, and reads the table.
    async fn finish(&mut self) -> Vec<Row> {
        END.set(None);
        self.world.heal();
        self.committers[1] = None;
        for partition in 0..PARTITIONS {
            while self.read(0, partition, 5).await {}
        }
        for _ in 0..4 {
            let outcome = self.committer(0).await.unwrap().commit().await.unwrap();
            for partition in 0..PARTITIONS {
                while self.read(0, partition, 5).await {}
            }
            if outcome == Outcome::Nothing {
                break;
            }
        }
        read(&self.world).await
    }
}

/// A key as the table has it.
fn key(row: &Row, keys: &[&str]) -> Option<(i32, i64, String)> {
    let rule = if keys.is_empty() { String::new() } else { row.rule.clone() };
    row.offset.map(|offset| (row.partition, offset, rule))
}

fn check(steps: Vec<Step>, is_keyed: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut run = Run::new(is_keyed);
        for step in steps {
            run.go(step).await;
        }
        let found = run.finish().await;
        let (mut keyed, mut nowhere) = (BTreeMap::new(), Vec::new());
        for row in &found {
            assert!(run.source.concat().contains(row), "{row:?} was never there");
            match key(row, &run.keys) {
                Some(key) => assert_eq!(keyed.insert(key, row.number), None, "{row:?} is there twice"),
                None => nowhere.push(row.number),
            }
        }
        for row in run.source.concat() {
            match key(&row, &run.keys) {
                Some(key) => assert!(keyed.contains_key(&key), "{row:?} is not there"),
                None => assert_eq!(nowhere.iter().filter(|number| **number == row.number).count(), 1, "{row:?}"),
            }
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn each_key_is_there_once_whatever_happens(steps in prop::collection::vec(step(), 1..40), is_keyed: bool) {
        check(steps, is_keyed);
    }
}

#[test]
fn a_process_that_ends_in_any_place_loses_nothing_and_doubles_nothing() {
    for place in 0..PLACES.len() {
        for rounds in 1..3 {
            let mut steps = Vec::new();
            for _ in 0..rounds {
                steps.push(Step::Grow { partition: 0, kinds: vec![4, 1, 20, 0, 12] });
                steps.push(Step::Read { who: 0, partition: 0, count: 3 });
                steps.push(Step::Commit { who: 0 });
            }
            steps.push(Step::End { place });
            steps.push(Step::Grow { partition: 0, kinds: vec![4, 1, 9, 2, 60] });
            steps.push(Step::Read { who: 0, partition: 0, count: 9 });
            steps.push(Step::Commit { who: 0 });
            check(steps.clone(), false);
            check(steps, true);
        }
    }
}
