//! Work split into pieces that do not depend on the number of threads: the same bits on any machine size.

mod awake;

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Into how many pieces a batch is split at most. More than any small machine has cores, so that threads stay busy; few
/// enough that adding up the pieces costs nothing.
pub const PIECES: usize = 16;

/// Work below this many multiply-adds, a few microseconds, is not worth a second thread, though it be awake.
const SERIAL: usize = 1 << 18;
/// Multiply-adds that an element of a pass over memory counts for.
pub(crate) const PASS: usize = 16;

/// `0..len` in at most `at_most` ranges of nearly equal length, a function of both alone.
pub fn ranges(len: usize, at_most: usize) -> Vec<Range<usize>> {
    let count = len.min(at_most);
    (0..count).map(|i| len * i / count..len * (i + 1) / count).collect()
}

/// The parts of `data` that belong to `ranges` in a row, `width` elements each step.
pub fn parts_mut<'a, T>(mut data: &'a mut [T], ranges: &[Range<usize>], width: usize) -> Vec<&'a mut [T]> {
    let mut parts = Vec::with_capacity(ranges.len());
    for range in ranges {
        let (part, rest) = data.split_at_mut(range.len() * width);
        parts.push(part);
        data = rest;
    }
    parts
}

/// Runs every task, in parallel if `work` is worth it; results in the order of the tasks.
///
/// Every thread has neighbouring tasks of its own, the same in all operations with as many tasks: what one operation has left
/// in a core's cache is there for the next. When they are done it takes what others have not begun.
pub fn run_tasks<I: Send, A: Send>(tasks: Vec<I>, work: usize, run: impl Fn(I) -> A + Sync + Send) -> Vec<A> {
    let (count, threads) = (tasks.len(), rayon::current_num_threads().min(tasks.len()));
    if work < SERIAL || threads < 2 {
        return tasks.into_iter().map(run).collect();
    }
    let waiting: Vec<_> = tasks.into_iter().map(|task| Mutex::new(Some(task))).collect();
    let results: Vec<_> = (0..count).map(|_| Mutex::new(None)).collect();
    awake::together(threads, || {
        let own = rayon::current_thread_index().unwrap_or(0) * count / threads;
        for (task, result) in waiting.iter().zip(&results).cycle().skip(own % count).take(count) {
            let begun = lock(task).take();
            if let Some(begun) = begun {
                let done = run(begun);
                *lock(result) = Some(done);
            }
        }
    });
    results.into_iter().map(|result| lock(&result).take().expect("a task that panics ends the operation")).collect()
}

/// No task runs under a lock, so none is poisoned.
fn lock<A>(of: &Mutex<A>) -> MutexGuard<'_, A> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Maps every piece of `0..len` to a partial result, in parallel, and adds the results up in the order of the pieces.
/// `None` if `len` is 0.
pub fn sum_pieces<A: Send>(
    len: usize,
    map: impl Fn(Range<usize>) -> A + Sync + Send,
    add: impl FnMut(&mut A, A),
) -> Option<A> {
    sum(run_tasks(ranges(len, PIECES), usize::MAX, map), add)
}

/// Adds partial results up in their order. `None` if there are none.
pub(crate) fn sum<A>(parts: Vec<A>, mut add: impl FnMut(&mut A, A)) -> Option<A> {
    let mut parts = parts.into_iter();
    let mut total = parts.next()?;
    parts.for_each(|part| add(&mut total, part));
    Some(total)
}

/// Writes `data`, `count` rows of `width` elements, piece by piece; results in the order of the pieces.
pub fn split<T: Send, A: Send>(
    data: &mut [T],
    count: usize,
    width: usize,
    run: impl Fn(Range<usize>, &mut [T]) -> A + Sync + Send,
) -> Vec<A> {
    let (ranges, work) = (ranges(count, PIECES), PASS * data.len());
    let parts = parts_mut(data, &ranges, width);
    run_tasks(ranges.into_iter().zip(parts).collect(), work, |(range, part)| run(range, part))
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rayon::ThreadPool;

    use super::*;

    fn pool(threads: usize) -> ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    /// The doubles of `0..count` by tasks that are worth a thread each.
    fn doubles(count: usize) -> Vec<usize> {
        run_tasks((0..count).collect(), usize::MAX, |i| 2 * i)
    }

    #[test]
    fn ranges_cover_everything_once() {
        for len in [0, 1, 5, 16, 17, 1000] {
            let all: Vec<usize> = ranges(len, PIECES).into_iter().flatten().collect();
            assert_eq!(all, (0..len).collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_task_runs_once_and_has_its_place() {
        for count in [0, 1, 2, 3, 16, 17] {
            let expected: Vec<_> = (0..count).map(|i| 2 * i).collect();
            assert_eq!(doubles(count), expected, "from outside the pool");
            for threads in [1, 2, 3, 5, 40] {
                let runs = AtomicUsize::new(0);
                let run = |i: usize| (runs.fetch_add(1, Ordering::Relaxed), 2 * i).1;
                let results = pool(threads).install(|| run_tasks((0..count).collect(), usize::MAX, run));
                assert_eq!(results, expected, "{threads} threads");
                assert_eq!(runs.into_inner(), count, "{threads} threads");
            }
        }
    }

    #[test]
    fn tasks_may_have_tasks() {
        let sums = || run_tasks((0..20).collect(), usize::MAX, |count| doubles(count).iter().sum::<usize>());
        let expected: Vec<_> = (0..20_usize).map(|count| count * count.saturating_sub(1)).collect();
        for threads in [1, 2, 3] {
            assert_eq!(pool(threads).install(sums), expected, "{threads} threads");
        }
    }

    #[test]
    fn operations_of_one_pool_do_not_wait_for_each_other() {
        let pool = pool(2);
        let many = || (0..2000).map(|_| doubles(7).len()).sum::<usize>();
        assert_eq!(pool.install(|| rayon::join(many, many)), (14_000, 14_000));
    }

    #[test]
    fn a_panic_in_a_task_arrives_and_the_threads_live_on() {
        let pool = pool(2);
        for bad in [0, 15] {
            let run = || run_tasks((0..16).collect(), usize::MAX, |i| assert_ne!(i, bad));
            assert!(catch_unwind(AssertUnwindSafe(|| pool.install(run))).is_err());
            assert_eq!(pool.install(|| doubles(16)).len(), 16);
        }
    }

    #[test]
    fn a_sum_has_the_same_bits_with_any_number_of_threads() {
        let values: Vec<f32> = (0..10_007).map(|i| (i as f32).sin()).collect();
        let sum = || sum_pieces(values.len(), |r| values[r].iter().sum::<f32>(), |a, b| *a += b).unwrap();
        let with = |threads| pool(threads).install(sum);
        assert_eq!(with(1).to_bits(), with(2).to_bits());
        assert_eq!(with(1).to_bits(), with(3).to_bits());
    }
}
