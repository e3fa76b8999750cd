//! Memory seen as rows of channels, in parallel where that pays. How the work is cut depends on extents alone, so the
//! bits are the same with any number of threads.
//!
//! A row of few channels is too short for vector instructions. The loops here therefore walk *wide rows*: several
//! rows in one, with per-channel values repeated to the same width ([`widen`]).

use std::ops::Range;

use rayon::prelude::*;

use crate::Real;
use crate::parallel::{self, PASS, PIECES, ranges, run_tasks};

/// Below this many elements a second thread costs more than it wins.
const SERIAL: usize = 1 << 15;
/// Elements a task writes: they stay in the first cache.
const CHUNK: usize = 1 << 13;
/// Elements added up in `T` before the sum moves on in f64: an f32 sum of more loses digits.
const BLOCK: usize = 1 << 12;
/// A wide row has at least this many elements: eight vectors of eight f32.
const LANES: usize = 64;

/// The elements of a wide row of `c` ≥ 1 channels: a multiple of `c`.
pub(super) fn wide(c: usize) -> usize {
    c * LANES.div_ceil(c)
}

/// One value a channel, repeated to a wide row.
pub(super) fn widen<T: Real>(channels: impl ExactSizeIterator<Item = T> + Clone) -> Vec<T> {
    let width = wide(channels.len());
    channels.cycle().take(width).collect()
}

/// Elements of the largest whole number of wide rows that is summed in `T`.
pub(super) fn block(c: usize) -> usize {
    wide(c) * (BLOCK / wide(c)).max(1)
}

/// Calls `f(start, chunk)` for chunks of whole units that cover `y`, `start` being the chunk's offset in `y`.
pub(super) fn for_each_chunk<T: Send>(y: &mut [T], unit: usize, f: impl Fn(usize, &mut [T]) + Send + Sync) {
    if y.is_empty() {
        return;
    }
    if y.len() < SERIAL {
        return f(0, y);
    }
    let len = unit * (CHUNK / unit).max(1);
    y.par_chunks_mut(len).enumerate().for_each(|(i, y)| f(i * len, y));
}

/// As [`sum_pieces`](crate::parallel::sum_pieces), on the calling thread where `rows` rows of `width` elements are few.
pub(super) fn sum_rows<A: Send>(
    rows: usize,
    width: usize,
    map: impl Fn(Range<usize>) -> A + Send + Sync,
    add: impl FnMut(&mut A, A),
) -> Option<A> {
    parallel::sum(run_tasks(ranges(rows, PIECES), PASS.saturating_mul(rows.saturating_mul(width)), map), add)
}

/// Adds to `total [C]` the sums over the rows of `x [rows, C]`.
pub(super) fn add_column_sums<T: Real>(x: &[T], total: &mut [f64]) {
    if x.is_empty() {
        return;
    }
    let c = total.len();
    let width = wide(c);
    if x.len() < 4 * width {
        for row in x.chunks(c) {
            row.iter().zip(&mut *total).for_each(|(x, total)| *total += x.f64());
        }
        return;
    }
    let mut sums = vec![T::zero(); width];
    for x in x.chunks(block(c)) {
        sums.fill(T::zero());
        for row in x.chunks(width) {
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += x);
        }
        fold(&sums, total);
    }
}

/// Adds a wide row to its channels.
pub(super) fn fold<T: Real>(wide: &[T], channels: &mut [f64]) {
    for row in wide.chunks_exact(channels.len()) {
        channels.iter_mut().zip(row).for_each(|(total, sum)| *total += sum.f64());
    }
}
