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
