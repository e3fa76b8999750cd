//! (pend.1) for a vector of channels at a time, and what else is done so.

#![allow(unsafe_code, reason = "vectors are loaded through raw pointers")]

use super::{Loader, Masking, Rectifier};
use crate::Real;
use crate::kernels::tile::lanes;
use crate::simd::Vector;

// ANCHOR: maker
/// How pixels are made of what lies in memory, with a norm or without one: some channels, in registers.
#[derive(Clone, Copy)]
pub(crate) struct Maker<V, const NORM: bool> {
    /// mean, scale and shift.
    norm: [V; 3],
    pub rectifier: Rectifier,
    /// Its lower and upper end.
    pub bounds: [V; 2],
}

impl<V: Copy, const NORM: bool> Maker<V, NORM> {
    /// For the channels `at .. at + n`.
    ///
    /// # Safety
    /// `at + n ≤ C`, the length of the norm's vectors, and n is a whole vector if `FULL`.
    #[inline(always)]
    pub unsafe fn new<T: Real, const FULL: bool>(of: &Masking<'_, T>, at: usize, n: usize) -> Self
    where
        V: Vector<T>,
    {
        // SAFETY: the caller's promise.
        let norm = of.norm.map(|norm| norm.map(|v| unsafe { lanes::<T, V, FULL>(v.as_ptr().add(at), n) }));
        Maker {
            norm: norm.unwrap_or([V::splat(T::zero()); 3]),
            rectifier: of.rectifier,
            bounds: of.rectifier.bounds::<T>().map(V::splat),
        }
    }

    /// z − mean.
    #[inline(always)]
    pub fn centred<T: Real>(&self, z: V) -> V
    where
        V: Vector<T>,
    {
        if NORM { z.sub(self.norm[0]) } else { z }
    }

    /// What the rectifier is given, of z − mean.
    #[inline(always)]
    pub fn normed<T: Real>(&self, centred: V) -> V
    where
        V: Vector<T>,
    {
        if NORM { centred.mul_add(self.norm[1], self.norm[2]) } else { centred }
    }

    /// What it gives. What lies in memory without a norm is rectified already.
    #[inline(always)]
    pub fn rectified<T: Real>(&self, y: V) -> V
    where
        V: Vector<T>,
    {
        let [low, high] = self.bounds;
        match self.rectifier {
            Rectifier::Relu if NORM => y.max(low),
            Rectifier::Relu6 if NORM => y.max(low).min(high),
            _ => y,
        }
    }

    /// A pixel.
    #[inline(always)]
    pub fn pixel<T: Real>(&self, z: V) -> V
    where
        V: Vector<T>,
    {
        self.rectified(self.normed(self.centred(z)))
    }
}
// ANCHOR_END: maker

/// What is done with some channels of all pixels of a block.
pub(super) trait Strip<T: Real> {
    /// Does it for the channels `at .. at + n` of C.
    ///
    /// # Safety
    /// `of` are rows of C, `at + n ≤ C`, there is a norm, of C channels, if `NORM`, and n is a whole vector if `FULL`.
    unsafe fn run<V: Vector<T>, const FULL: bool, const NORM: bool>(
        &mut self,
        of: &Masking<'_, T>,
        c: usize,
        at: usize,
        n: usize,
    );
}

impl<T: Real> Loader<'_, T> {
    /// All strips of the pixels from `first` on.
    #[inline(always)]
    pub(super) fn strips<V: Vector<T>>(&self, first: usize, pixels: usize, strip: &mut impl Strip<T>) {
        let (c, of) = (self.c, &self.masking(first, pixels));
        for at in (0..c).step_by(V::LANES) {
            let n = V::LANES.min(c - at);
            // SAFETY: pixels are rows of C, and so long is the norm.
            unsafe {
                match (n == V::LANES, of.norm.is_some()) {
                    (true, true) => strip.run::<V, true, true>(of, c, at, n),
                    (true, false) => strip.run::<V, true, false>(of, c, at, n),
                    (false, true) => strip.run::<V, false, true>(of, c, at, n),
                    (false, false) => strip.run::<V, false, false>(of, c, at, n),
                }
            }
        }
    }
}
