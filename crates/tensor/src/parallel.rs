//! Work split into pieces that do not depend on the number of threads: the same bits on any machine size.

use std::ops::Range;

use rayon::prelude::*;

/// Into how many pieces a batch is split at most. More than any small machine has cores, so that threads stay busy; few
/// enough that adding up the pieces costs nothing.
pub const PIECES: usize = 16;

/// The pieces of `0..len`: at most [`PIECES`], of nearly equal length, a function of `len` alone.
pub fn pieces(len: usize) -> impl IndexedParallelIterator<Item = Range<usize>> {
    let count = len.min(PIECES);
    (0..count).into_par_iter().map(move |i| len * i / count..len * (i + 1) / count)
}

/// Maps every piece of `0..len` to a partial result, in parallel, and adds the results up in the order of the pieces.
/// `None` if `len` is 0.
pub fn sum_pieces<A: Send>(
    len: usize,
    map: impl Fn(Range<usize>) -> A + Sync + Send,
    mut add: impl FnMut(&mut A, A),
) -> Option<A> {
    let mut partial = pieces(len).map(map).collect::<Vec<_>>().into_iter();
    let mut total = partial.next()?;
    for piece in partial {
        add(&mut total, piece);
    }
    Some(total)
}

/// Work below this many multiply-adds, some ten microseconds, is not worth a second thread.
const SERIAL: usize = 1 << 20;
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
pub fn run_tasks<I: Send, A: Send>(tasks: Vec<I>, work: usize, run: impl Fn(I) -> A + Sync + Send) -> Vec<A> {
    if work < SERIAL { tasks.into_iter().map(run).collect() } else { tasks.into_par_iter().map(run).collect() }
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
    use super::*;

    #[test]
    fn pieces_cover_everything_once() {
        for len in [0, 1, 5, 16, 17, 1000] {
            let all: Vec<usize> = pieces(len).flat_map_iter(|piece| piece).collect();
            assert_eq!(all, (0..len).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_sum_has_the_same_bits_with_any_number_of_threads() {
        let values: Vec<f32> = (0..10_007).map(|i| (i as f32).sin()).collect();
        let sum = || sum_pieces(values.len(), |r| values[r].iter().sum::<f32>(), |a, b| *a += b).unwrap();
        let with = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(sum);
        assert_eq!(with(1).to_bits(), with(2).to_bits());
        assert_eq!(with(1).to_bits(), with(3).to_bits());
    }
}
