//! Threads that stay awake from one operation to the next.
//!
//! A thread of rayon's that finds nothing to do for some ten microseconds goes to sleep, and waking it takes tens more: as
//! long as a small operation. A training step is many operations, with a little to do on one thread in between, and each
//! of them ends with a wait for the slowest thread. So here threads look for work longer before rayon may let them sleep.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rayon::Yield;

/// How long a thread looks for work after the last operation began: longer than any gap within a step, and next to
/// nothing beside one of the user's.
const PATIENCE: Duration = Duration::from_millis(1);

/// The operations begun so far.
static BEGUN: AtomicUsize = AtomicUsize::new(0);
/// The threads that look for work, or have been told to and will.
static AWAKE: AtomicUsize = AtomicUsize::new(0);

/// Calls `work` on `threads` ≥ 1 threads of the pool, of which this is one. Each call does what there is left to do, none
/// does a part of its own: a thread that is busy elsewhere comes late or not at all.
pub(super) fn together(threads: usize, work: impl Fn() + Send + Sync) {
    BEGUN.fetch_add(1, Ordering::Relaxed);
    keep_awake();
    let helpers = AtomicUsize::new(threads - 1);
    rayon::in_place_scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| {
                let _leave = Leave(&helpers);
                work();
            });
        }
        work();
        // The scope would wait, too, but asleep.
        look_for_work(|| helpers.load(Ordering::Acquire) == 0);
    });
}

/// A helper that counts itself out when it is done, or panics.
struct Leave<'a>(&'a AtomicUsize);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// Lets the other threads of this one's pool look for work until no operation has begun for a while. They are told all at
/// once, and all stop at once.
fn keep_awake() {
    // A thread of no pool waits asleep: what it begins is as fast as rayon is.
    let Some(this) = rayon::current_thread_index() else { return };
    if AWAKE.load(Ordering::Relaxed) > 0 {
        return;
    }
    AWAKE.fetch_add(rayon::current_num_threads() - 1, Ordering::Relaxed);
    rayon::spawn_broadcast(move |thread| {
        if thread.index() != this {
            look_for_work(|| false);
            AWAKE.fetch_sub(1, Ordering::Relaxed);
        }
    });
}

/// Does what the pool has to do until `done`, or until no operation has begun for as long as [`PATIENCE`]. It ends whatever
/// it waits for: no two threads can wait for each other.
fn look_for_work(done: impl Fn() -> bool) {
    let (mut begun, mut since) = (BEGUN.load(Ordering::Relaxed), Instant::now());
    while !done() && since.elapsed() < PATIENCE {
        if rayon::yield_now() != Some(Yield::Executed) {
            thread::yield_now();
        }
        let now = BEGUN.load(Ordering::Relaxed);
        if now != begun {
            (begun, since) = (now, Instant::now());
        }
    }
}
