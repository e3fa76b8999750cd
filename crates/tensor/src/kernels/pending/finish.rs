//! What the consumer of a pending map sends back, (pend.2), a vector of channels at a time.

#![allow(unsafe_code, reason = "vectors are loaded through raw pointers")]

use super::{Loader, Maker, Rectifier, Strip};
use crate::Real;
use crate::kernels::moments::Sums;
use crate::kernels::tile::{lanes, store_lanes};
use crate::simd::Vector;

/// Some pixels of a map whose gradient is to be masked.
pub(crate) struct Masking<'a, T> {
    /// What lies in memory, C elements a pixel.
    pub z: &'a [T],
    /// mean, scale and shift of the norm.
    pub norm: Option<[&'a [T]; 3]>,
    pub rectifier: Rectifier,
}

/// Some channels of a pixel.
#[derive(Clone, Copy)]
pub(crate) struct Read<V> {
    /// z − mean.
    centred: V,
    /// Before its rectifier.
    y: V,
    /// As its consumer reads it.
    pub x: V,
}

/// (pend.2) for some channels, pixel after pixel, with a norm or without one: what it needs and what it sums up are in registers.
// ANCHOR: finisher
pub(crate) struct Finisher<V, const NORM: bool> {
    of: Maker<V, NORM>,
    /// Two sums each: an addition need not wait for the one before it.
    first: [V; 2],
    second: [V; 2],
}

impl<V: Copy, const NORM: bool> Finisher<V, NORM> {
    /// For the channels `at .. at + n`.
    ///
    /// # Safety
    /// As [`Maker::new`].
    #[inline(always)]
    pub unsafe fn new<T: Real, const FULL: bool>(of: &Masking<'_, T>, at: usize, n: usize) -> Self
    where
        V: Vector<T>,
    {
        let zero = V::splat(T::zero());
        // SAFETY: the caller's promise.
        let of = unsafe { Maker::new::<T, FULL>(of, at, n) };
        Finisher { of, first: [zero; 2], second: [zero; 2] }
    }

    /// `da` of a pixel, masked and taken into sum 0 or 1.
    #[inline(always)]
    pub fn pixel<T: Real>(&mut self, z: V, da: V, sum: usize) -> V
    where
        V: Vector<T>,
    {
        let read = self.read(z);
        self.finish(read, da, sum)
    }

    /// A pixel as its consumer reads it; [`finish`](Self::finish) masks its gradient.
    #[inline(always)]
    pub fn read<T: Real>(&self, z: V) -> Read<V>
    where
        V: Vector<T>,
    {
        let centred = self.of.centred(z);
        let y = self.of.normed(centred);
        Read { centred, y, x: self.of.rectified(y) }
    }

    /// `da` of a pixel that was read, masked and taken into sum 0 or 1.
    #[inline(always)]
    pub fn finish<T: Real>(&mut self, Read { centred, y, .. }: Read<V>, da: V, sum: usize) -> V
    where
        V: Vector<T>,
    {
        let [low, high] = self.of.bounds;
        // A comparison takes the place of a multiply-add: no more of them than the rectifier needs.
        let dy = match self.of.rectifier {
            Rectifier::Identity => da,
            Rectifier::Relu => da.keep_above(y, low),
            Rectifier::Relu6 => da.keep_above(y, low).keep_below(y, high),
        };
        self.first[sum] = self.first[sum].add(dy);
        if NORM {
            self.second[sum] = dy.mul_add(centred, self.second[sum]);
        }
        dy
    }

    /// [`sums`](Self::sums) to those of the channels `at .. at + n`; without a norm nobody asks for them.
    #[inline(always)]
    pub fn add_to<T: Real>(&self, sums: &mut Sums, at: usize, n: usize)
    where
        V: Vector<T>,
    {
        if NORM {
            let [first, second] = self.sums();
            sums.add_lanes(at, n, first, second);
        }
    }

    /// Σ dŷ and Σ dŷ·(z − mean), the second one zero without a norm.
    #[inline(always)]
    pub fn sums<T: Real>(&self) -> [V; 2]
    where
        V: Vector<T>,
    {
        [self.first, self.second].map(|[a, b]| a.add(b))
    }
}
// ANCHOR_END: finisher

impl<T: Real> Loader<'_, T> {
    /// What masks the gradient of the pixels from `first` on.
    #[inline(always)]
    pub fn masking(&self, first: usize, pixels: usize) -> Masking<'_, T> {
        Masking { z: &self.data[first * self.c..(first + pixels) * self.c], norm: self.norm, rectifier: self.rectifier }
    }

    /// Turns `d = da` for the pixels from `first` on into dŷ in place, and adds to the sums, (pend.2).
    #[inline(always)]
    pub fn finish<V: Vector<T>>(&self, first: usize, d: &mut [T], sums: &mut Sums) {
        // SAFETY: `d` is writable.
        unsafe { self.finish_at::<V>(first, d.as_mut_ptr(), d.len(), sums) }
    }

    /// The sums alone, (pend.2), where no rectifier masks anything.
    #[inline(always)]
    pub fn sum_up<V: Vector<T>>(&self, first: usize, d: &[T], sums: &mut Sums) {
        assert!(self.rectifier == Rectifier::Identity);
        // SAFETY: without a rectifier nothing is written.
        unsafe { self.finish_at::<V>(first, d.as_ptr().cast_mut(), d.len(), sums) }
    }

    /// # Safety
    /// `len` elements behind `d` must be readable, and writable if there is a rectifier.
    #[inline(always)]
    unsafe fn finish_at<V: Vector<T>>(&self, first: usize, d: *mut T, len: usize, sums: &mut Sums) {
        if !self.is_plain() {
            self.strips::<V>(first, len / self.c, &mut Finish { d, sums });
        }
    }
}

/// dŷ in the place of da; written only where a rectifier masks something.
struct Finish<'a, T> {
    /// As many pixels.
    d: *mut T,
    sums: &'a mut Sums,
}

impl<T: Real> Strip<T> for Finish<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector<T>, const FULL: bool, const NORM: bool>(
        &mut self,
        of: &Masking<'_, T>,
        c: usize,
        at: usize,
        n: usize,
    ) {
        let pixels = of.z.len() / c;
        // SAFETY: the caller's promise, and whoever made this says that `d` has as many pixels.
        unsafe {
            let mut finisher = Finisher::<V, NORM>::new::<T, FULL>(of, at, n);
            let (mut z, mut d) = (of.z.as_ptr().add(at), self.d.add(at));
            for pair in (0..pixels).step_by(2) {
                for sum in 0..2 {
                    if pair + sum == pixels {
                        break;
                    }
                    let dy = finisher.pixel(lanes::<T, V, FULL>(z, n), lanes::<T, V, FULL>(d, n), sum);
                    if of.rectifier != Rectifier::Identity {
                        store_lanes::<T, V, FULL>(dy, d, n);
                    }
                    (z, d) = (z.wrapping_add(c), d.wrapping_add(c));
                }
            }
            finisher.add_to::<T>(self.sums, at, n);
        }
    }
}
