//! (pend.1) for a vector of channels at a time.

#![allow(unsafe_code, reason = "vectors are loaded through raw pointers")]

use super::{Masking, Rectifier};
use crate::Real;
use crate::kernels::tile::lanes;
use crate::simd::Vector;

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
