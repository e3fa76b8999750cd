//! Memory asked for before it is needed. Maps come from beyond the second cache, and blocks are too short for the
//! processor to see where they lead.
//!
//! A processor waits for a dozen lines of memory at a time. Asked for all at once, the lines of a block keep it from
//! computing until most of them have come; so a product asks for a few at each of its steps, and the time for memory and
//! the time for arithmetic are one.

use crate::Real;
use crate::aligned::LINE;
use crate::simd::Vector;

/// Elements that lie at least between the beginning of a block and what is asked for while it is worked on.
const AHEAD: usize = 512;

/// Some memory: any address will do.
#[derive(Clone, Copy)]
pub(crate) struct Stretch<T> {
    at: *const T,
    len: usize,
}

impl<T: Real> Stretch<T> {
    /// Where the block after `block` will be read from, or a later one where blocks are small. Further ahead, what was asked
    /// for would drive out of the first cache what is in use.
    #[inline(always)]
    pub fn beyond(block: &[T]) -> Self {
        Stretch { at: block.as_ptr().wrapping_add(AHEAD.max(block.len())), len: block.len() }
    }

    /// Where the next block will be written to. A store to memory that is in no cache waits for its line, too.
    #[inline(always)]
    pub fn after(block: &[T]) -> Self {
        Stretch { at: block.as_ptr_range().end, len: block.len() }
    }

    /// Part `i` of `count`.
    #[inline(always)]
    pub fn part(self, i: usize, count: usize) -> Self {
        let len = self.len.div_ceil(count);
        Stretch { at: self.at.wrapping_add(i * len), len }
    }

    /// Both halves.
    #[inline(always)]
    pub fn halves(self) -> [Self; 2] {
        [self.part(0, 2), self.part(1, 2)]
    }

    /// Where element `i` lies.
    #[inline(always)]
    pub fn element(self, i: usize) -> *const T {
        self.at.wrapping_add(i)
    }

    /// Asks for all of it.
    #[inline(always)]
    pub fn ask_to_read<V: Vector<T>>(self) {
        for i in (0..self.len).step_by(line::<T>()) {
            V::prefetch(self.element(i));
        }
    }

    /// Asks for all of it, in order to write it.
    #[inline(always)]
    pub fn ask_to_write<V: Vector<T>>(self) {
        for i in (0..self.len).step_by(line::<T>()) {
            V::prefetch_write(self.element(i));
        }
    }
}

/// Elements of a line of memory.
const fn line<T>() -> usize {
    LINE / size_of::<T>()
}

/// `R` stretches that will be read and `W` that will be written, asked for step by step.
#[derive(Clone, Copy)]
pub(crate) struct Ahead<T, const R: usize, const W: usize> {
    reads: [Walk<T>; R],
    writes: [Walk<T>; W],
}

/// What is asked for next, and how far the one after it lies.
#[derive(Clone, Copy)]
struct Walk<T> {
    at: *const T,
    step: usize,
}

impl<T: Real> Ahead<T, 0, 0> {
    /// Nothing is asked for.
    pub const NOTHING: Self = Ahead { reads: [], writes: [] };
}

impl<T: Real, const R: usize, const W: usize> Ahead<T, R, W> {
    /// All stretches in `steps` steps.
    #[inline(always)]
    pub fn new(steps: usize, reads: [Stretch<T>; R], writes: [Stretch<T>; W]) -> Self {
        // In 32 bits: a division in 64 takes as long as several steps.
        let walk =
            |Stretch { at, len }: Stretch<T>| Walk { at, step: (len as u32).div_ceil(steps.max(1) as u32) as usize };
        Ahead { reads: reads.map(walk), writes: writes.map(walk) }
    }

    /// One step.
    // ANCHOR: ask
    #[inline(always)]
    pub fn ask<V: Vector<T>>(&mut self) {
        let lines = |Walk { at, step }: &mut Walk<T>| {
            let lines = (*at, (*step > line::<T>()).then_some(at.wrapping_add(line::<T>())));
            *at = at.wrapping_add(*step);
            lines
        };
        for (one, other) in self.reads.iter_mut().map(lines) {
            V::prefetch(one);
            if let Some(other) = other {
                V::prefetch(other);
            }
        }
        for (one, other) in self.writes.iter_mut().map(lines) {
            V::prefetch_write(one);
            if let Some(other) = other {
                V::prefetch_write(other);
            }
        }
    }
    // ANCHOR_END: ask
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Portable;

    #[test]
    fn all_of_a_stretch_is_asked_for_in_the_steps_there_are() {
        for (len, steps) in [(256, 16), (256, 54), (7, 3), (0, 4), (5, 0)] {
            let block = vec![0.0_f32; len];
            let mut ahead = Ahead::new(steps, [Stretch::beyond(&block)], [Stretch::after(&block)]);
            let begin = [ahead.reads[0].at, ahead.writes[0].at];
            assert_eq!(begin[0], block.as_ptr().wrapping_add(AHEAD));
            assert_eq!(begin[1], block.as_ptr().wrapping_add(len));
            (0..steps.max(1)).for_each(|_| ahead.ask::<Portable<f32>>());
            for (walk, begin) in [ahead.reads[0], ahead.writes[0]].iter().zip(begin) {
                let asked = (walk.at as usize - begin as usize) / size_of::<f32>();
                assert!((len..len + steps.max(1)).contains(&asked), "{asked} of {len} in {steps} steps");
            }
        }
    }

    #[test]
    fn the_parts_of_a_stretch_are_all_of_it() {
        let block = [0.0_f64; 10];
        let parts: Vec<_> = (0..3).map(|i| Stretch::after(&block).part(i, 3)).collect();
        assert_eq!(
            parts.iter().map(|part| part.at).collect::<Vec<_>>(),
            [10, 14, 18].map(|i| block.as_ptr().wrapping_add(i))
        );
        assert!(parts.iter().all(|part| part.len == 4));
    }
}
