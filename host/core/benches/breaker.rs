//! What a breaker costs a healthy plugin: ask and record, closed.
//!
//! Method: 200 000 pairs a round and thread, so short that other programs seldom cut in; best and median of 1 000 rounds; two threads share one breaker, each with its cell.
//! Counted at the end: every call and row must stand in the breaker's window. `cargo bench -p phronis-core --bench breaker`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a benchmark stops at the first surprise")]

use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use phronis_core::breaker::{Answer, Cell, Outcome, Settings, Shared};

const PAIRS: u32 = 200_000;
const ROUNDS: usize = 1000;
const ROWS: u32 = 1024;

fn main() {
    for threads in [1, 2] {
        let mut nanos: Vec<f64> = (0..ROUNDS).map(|_| round(threads)).collect();
        nanos.sort_by(f64::total_cmp);
        let (best, median) = (nanos.first().unwrap(), nanos.get(ROUNDS / 2).unwrap());
        println!(
            "breaker, closed, {threads} thread(s): best {best:.2} ns, median {median:.2} ns a call; {:.4} ns an event in batches of {ROWS}",
            median / f64::from(ROWS)
        );
    }
}

/// Nanoseconds a pair, as one thread sees it.
fn round(threads: usize) -> f64 {
    let shared = Arc::new(Shared::new(Settings::default(), 1, Arc::default(), Duration::ZERO));
    let begin = Barrier::new(threads);
    let spent = thread::scope(|scope| {
        let work = |cell: Cell| {
            begin.wait();
            let from = Instant::now();
            pairs(&cell);
            (from.elapsed(), cell)
        };
        let running: Vec<_> = (0..threads).map(|_| shared.cell()).map(|cell| scope.spawn(move || work(cell))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let calls = shared.view(Duration::ZERO).counts.calls;
    assert_eq!(calls, u64::from(PAIRS) * threads as u64, "a call was lost");
    let slowest = spent.iter().map(|(spent, _)| *spent).max().unwrap();
    slowest.as_secs_f64() * 1e9 / f64::from(PAIRS)
}

fn pairs(cell: &Cell) {
    let outcome = Outcome { ok: 1, rows: ROWS, ..Outcome::default() };
    for _ in 0..PAIRS {
        match black_box(cell).ask(|| Duration::ZERO) {
            Answer::Pass(pass) => {
                black_box(pass.record(black_box(&outcome), || Duration::ZERO));
            }
            Answer::Refused => panic!("a healthy breaker refused"),
        }
    }
}
