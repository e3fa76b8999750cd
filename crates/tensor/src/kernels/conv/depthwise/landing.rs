//! Where the rows of a gradient land: in their place, or *streamed* there past the caches.
//!
//! A store fetches the line that it writes to, and pushes out another. For a map that has left the caches before anybody
//! reads it both are in vain, and where there is little arithmetic the core waits for them. AMD's cores stream whole lines
//! faster; Intel's do not.

#![allow(unsafe_code, reason = "vectors are stored through raw pointers")]

use super::super::Sizes;
use crate::Real;
use crate::aligned::{Aligned, LINE};
use crate::kernels::tile::store_lanes;
use crate::simd::{self, Vector};

/// Bytes from which on a map is streamed: more than the second-level cache holds.
pub(crate) const LARGE: usize = 1 << 21;

/// How the rows of a map are written.
pub(super) enum Landing<T> {
    InPlace,
    /// Past the caches, and into `copy` too if somebody reads them at once.
    Streamed {
        copy: Option<Aligned<T>>,
    },
}

impl<T: Real> Landing<T> {
    /// For rows of the input's gradient `dx`. `reads`: a row is read as soon as it is written.
    pub fn new<V: Vector<T>>(s: &Sizes, dx: &[T], reads: bool) -> Self {
        let large = s.inputs().saturating_mul(size_of::<T>()) >= LARGE;
        // Half a line would wait for its other half, which comes a whole row later.
        let vectors = V::LANES * size_of::<T>() == LINE;
        let pixels = [s.c * size_of::<T>(), dx.as_ptr() as usize].iter().all(|bytes| bytes.is_multiple_of(LINE));
        if large && vectors && pixels && simd::streams() {
            Landing::Streamed { copy: reads.then(|| Aligned::zeros(s.w * s.c)) }
        } else {
            Landing::InPlace
        }
    }

    /// How to write the row that belongs to `place`.
    #[inline(always)]
    pub fn row(&mut self, place: &mut [T]) -> Row<T> {
        match self {
            Landing::InPlace => Row::in_place(place),
            Landing::Streamed { copy } => {
                Row::Streamed { row: place.as_mut_ptr(), copy: copy.as_mut().map(|copy| copy.as_mut_ptr()) }
            }
        }
    }

    /// Where the row of `place` can be read, if it was said to be read: what was streamed cannot.
    #[inline(always)]
    pub fn written<'a>(&'a self, place: &'a [T]) -> &'a [T] {
        match self {
            Landing::Streamed { copy: Some(copy) } => copy,
            Landing::Streamed { copy: None } => &[],
            Landing::InPlace => place,
        }
    }
}

impl<T> Drop for Landing<T> {
    /// What was streamed is in its place for whoever comes after.
    fn drop(&mut self) {
        if let Landing::Streamed { .. } = self {
            simd::fence();
        }
    }
}

/// Where a row is written.
#[derive(Clone, Copy)]
pub(super) enum Row<T> {
    /// Where it belongs; the memory `next` elements behind a pixel is asked for.
    InPlace { row: *mut T, next: usize },
    /// Where it belongs, past the caches, and into a copy; pixels and vectors are whole lines.
    Streamed { row: *mut T, copy: Option<*mut T> },
}

impl<T: Real> Row<T> {
    /// Where it belongs, asking for the next row.
    #[inline(always)]
    pub fn in_place(row: &mut [T]) -> Self {
        Row::InPlace { row: row.as_mut_ptr(), next: row.len() }
    }

    /// Writes `y` from element `at` on, one every `step` elements, the first `n` lanes of each.
    ///
    /// # Safety
    /// All R must lie in the row, and n be a whole vector if `FULL`; [`Row::Streamed`] needs that, and a row that begins a line.
    // ANCHOR: write
    #[inline(always)]
    pub unsafe fn write<V: Vector<T>, const FULL: bool, const R: usize>(
        self,
        at: usize,
        step: usize,
        y: [V; R],
        n: usize,
    ) {
        // SAFETY: the caller's promise; pixels of a row that is streamed are whole lines, so every vector is FULL and begins
        // at a multiple of its size.
        unsafe {
            match self {
                Row::InPlace { row, next } => {
                    let mut out = row.add(at);
                    for r in 0..R {
                        store_lanes::<T, V, FULL>(y[r], out, n);
                        V::prefetch_write(out.wrapping_add(next));
                        out = out.wrapping_add(step);
                    }
                }
                Row::Streamed { row, copy } => {
                    debug_assert!(FULL);
                    for r in 0..R {
                        y[r].stream(row.add(at + r * step));
                    }
                    if let Some(copy) = copy {
                        for r in 0..R {
                            y[r].store(copy.add(at + r * step));
                        }
                    }
                }
            }
        }
    }
    // ANCHOR_END: write
}
