//! The breaker's shared word under every interleaving of threads (loom): permits are never exceeded nor lost,
//! and none outlives its state.

use loom::sync::Arc;
use loom::thread;

/// loom's atomics, where the word looks for the standard library's.
mod atomic {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
}

#[path = "../src/breaker/word.rs"]
mod word;

use word::{CLOSED, HALF_OPEN, OPEN, Word};

#[test]
fn of_two_who_ask_for_one_permit_exactly_one_gets_it() {
    loom::model(|| {
        let word = Arc::new(Word::new());
        word.set(HALF_OPEN, 1, 7);
        let other = Arc::clone(&word);
        let thread = thread::spawn(move || other.acquire());
        let (here, there) = (word.acquire(), thread.join().unwrap());
        assert_eq!([here, there].into_iter().flatten().collect::<Vec<_>>(), [7]);
        assert_eq!(word.load().permits(), 0);
    });
}

#[test]
fn a_permit_that_is_given_back_can_be_taken_again_and_none_is_made() {
    loom::model(|| {
        let word = Arc::new(Word::new());
        word.set(HALF_OPEN, 2, 7);
        let other = Arc::clone(&word);
        let thread = thread::spawn(move || {
            let generation = other.acquire();
            generation.into_iter().for_each(|generation| other.release(generation));
        });
        let kept = word.acquire();
        thread.join().unwrap();
        assert_eq!(kept, Some(7));
        assert_eq!(word.load().permits(), 1);
    });
}

#[test]
fn a_permit_of_an_earlier_state_is_void() {
    loom::model(|| {
        let word = Arc::new(Word::new());
        word.set(HALF_OPEN, 1, 7);
        let other = Arc::clone(&word);
        // The machine opens it, and half-opens it again, while a worker takes its permit and gives it back.
        let machine = thread::spawn(move || {
            other.set(OPEN, 0, 8);
            other.set(HALF_OPEN, 1, 9);
        });
        let taken = word.acquire();
        taken.into_iter().for_each(|generation| word.release(generation));
        machine.join().unwrap();
        let seen = word.load();
        assert_eq!((seen.state(), seen.permits(), seen.generation()), (HALF_OPEN, 1, 9), "taken: {taken:?}");
    });
}

#[test]
fn who_reads_a_state_reads_its_generation() {
    loom::model(|| {
        let word = Arc::new(Word::new());
        word.set(CLOSED, 0, 1);
        let other = Arc::clone(&word);
        let machine = thread::spawn(move || other.set(OPEN, 0, 2));
        let seen = word.load();
        assert!(matches!((seen.state(), seen.generation()), (CLOSED, 1) | (OPEN, 2)), "{seen:?}");
        machine.join().unwrap();
    });
}
