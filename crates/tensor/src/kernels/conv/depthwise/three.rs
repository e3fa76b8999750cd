//! Kernels of 3 x 3 taps at stride 1 or 2, padded by one pixel, where everything fits in registers: the rows are walked
//! through once, column by column. What a pending map gives is made where it is read, and nothing of it is written.
//!
//! A window of made rows costs a store a pixel, which takes as long as two multiply-adds, and a load for each tap. Forward, a
//! column of three pixels serves two or three outputs; on the way back a pixel is masked, summed up and given to both
//! gradients at once.

#![allow(unsafe_code, reason = "vectors are loaded through raw pointers")]

mod grad;

pub(super) use grad::backward;

use super::super::window::Rows;
use super::super::{ForwardTask, Sizes};
use super::input_window;
use crate::Real;
use crate::kernels::moments::RowMoments;
use crate::kernels::pending::{Masking, Rectifier};
use crate::kernels::tile::{lanes, store_lanes};
use crate::simd::Vector;

/// Whether vectors have what this takes: thirty-two registers for nine weights, nine pixels or sums, and what makes or masks a
/// pixel. With sixteen the weights stay in memory, which still pays at stride 2, if vectors are long. For others nothing of it
/// need be compiled.
pub(super) const fn suits<T: Real, V: Vector<T>>() -> bool {
    V::REGISTERS >= 32 || V::LANES >= 8
}

/// Whether a convolution is of this sort.
pub(super) fn fits<T: Real, V: Vector<T>>(s: &Sizes) -> bool {
    let geo = &s.geo;
    ([s.kh, s.kw], geo.padding, geo.dilation) == ([3; 2], [1; 2], [1; 2])
        && (geo.stride == [2; 2] || geo.stride == [1; 2] && V::REGISTERS >= 32)
}

/// (conv.1) for some rows of the batch.
#[inline(always)]
pub(super) fn forward<T: Real, V: Vector<T>, X: Rows<T>>(s: &Sizes, task: ForwardTask<'_, T, X>) -> RowMoments<T> {
    let ForwardTask { x, w, bias, rectifier, rows, y, with_moments, .. } = task;
    let (mut window, mut moments) = (input_window(s, x), RowMoments::none(s.c));
    let images = (rows.start / s.oh..).flat_map(|n| (0..s.oh).map(move |i| (n, i)));
    for ((n, i), y) in images.skip(rows.start % s.oh).zip(y.chunks_exact_mut(s.ow * s.c)) {
        let mut lines = [None; 3];
        for u in 0..3 {
            if let Some(h) = s.row_under(i, u) {
                lines[u] = Some(X::line::<V>(&mut window, n * s.h + h));
            }
        }
        let row = Outputs { lines, of: window.source.pending(), w, bias, rectifier };
        // SAFETY: the lines are rows of the input, of which the window keeps three.
        unsafe { row.make::<V, X>(s, y) };
        if with_moments {
            moments.add::<V>(y, s.c);
        }
    }
    moments
}

/// How a pixel of the input is made, some channels of it.
#[derive(Clone, Copy)]
struct Maker<V, const NORM: bool, const CAPPED: bool> {
    /// mean, scale and shift.
    norm: [V; 3],
    /// The rectifier's lower and upper end.
    bounds: [V; 2],
}

impl<V: Copy, const NORM: bool, const CAPPED: bool> Maker<V, NORM, CAPPED> {
    /// # Safety
    /// `at + n ≤ C`, the length of the norm's vectors, and n is a whole vector if `FULL`.
    #[inline(always)]
    unsafe fn new<T: Real, const FULL: bool>(of: &Masking<'_, T>, at: usize, n: usize) -> Self
    where
        V: Vector<T>,
    {
        let (mut norm, [low, high]) = ([V::splat(T::zero()); 3], of.rectifier.bounds::<T>());
        if let Some(of) = of.norm {
            for i in 0..3 {
                // SAFETY: the caller's promise.
                norm[i] = unsafe { lanes::<T, V, FULL>(of[i].as_ptr().add(at), n) };
            }
        }
        Maker { norm, bounds: [V::splat(low), V::splat(high)] }
    }

    #[inline(always)]
    fn pixel<T: Real>(&self, z: V) -> V
    where
        V: Vector<T>,
    {
        if !NORM {
            return z;
        }
        let ([mean, scale, shift], [low, high]) = (self.norm, self.bounds);
        let x = z.sub(mean).mul_add(scale, shift).max(low);
        if CAPPED { x.min(high) } else { x }
    }

    /// # Safety
    /// The pixel must be readable behind every line.
    #[inline(always)]
    unsafe fn column<T: Real, const FULL: bool>(&self, lines: &[*const T; 3], at: usize, n: usize) -> [V; 3]
    where
        V: Vector<T>,
    {
        let mut column = [V::splat(T::zero()); 3];
        for u in 0..3 {
            // SAFETY: the caller's promise.
            column[u] = self.pixel(unsafe { lanes::<T, V, FULL>(lines[u].add(at), n) });
        }
        column
    }
}

/// What a row of outputs is made of.
struct Outputs<'a, T> {
    /// The rows of the input above the outputs, at them and below, as far as they are inside the image: the middle one is.
    lines: [Option<*const T>; 3],
    /// What is pending of their pixels.
    of: Masking<'a, T>,
    /// Tap-major.
    w: &'a [T],
    bias: Option<&'a [T]>,
    rectifier: Rectifier,
}

impl<T: Real> Outputs<'_, T> {
    /// # Safety
    /// The lines must be rows of the input.
    #[inline(always)]
    unsafe fn make<V: Vector<T>, X: Rows<T>>(&self, s: &Sizes, y: &mut [T]) {
        assert!(y.len() == s.ow * s.c && self.w.len() >= 9 * s.c && self.bias.is_none_or(|bias| bias.len() >= s.c));
        for at in (0..s.c).step_by(V::LANES) {
            let n = V::LANES.min(s.c - at);
            // SAFETY: the caller's promise; `y` holds the outputs, and `at + n ≤ C`.
            unsafe {
                if const { V::REGISTERS >= 32 } && s.geo.stride[0] == 1 {
                    self.stride::<V, X, 1>(s, y, at, n);
                } else {
                    self.stride::<V, X, 2>(s, y, at, n);
                }
            }
        }
    }

    /// # Safety
    /// As [`make`](Self::make); `at + n ≤ C`.
    #[inline(always)]
    unsafe fn stride<V: Vector<T>, X: Rows<T>, const S: usize>(&self, s: &Sizes, y: &mut [T], at: usize, n: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            if X::IN_MEMORY {
                match (n == V::LANES, self.of.norm.is_some(), self.of.rectifier) {
                    (true, true, Rectifier::Relu6) => self.channels::<V, true, S, true, true, true>(s, y, at, n),
                    (true, true, _) => self.channels::<V, true, S, true, false, true>(s, y, at, n),
                    (true, false, _) => self.channels::<V, true, S, false, false, true>(s, y, at, n),
                    (false, true, _) => self.channels::<V, false, S, true, true, true>(s, y, at, n),
                    (false, false, _) => self.channels::<V, false, S, false, false, true>(s, y, at, n),
                }
            } else if n == V::LANES {
                self.channels::<V, true, S, false, false, false>(s, y, at, n);
            } else {
                self.channels::<V, false, S, false, false, false>(s, y, at, n);
            }
        }
    }

    /// # Safety
    /// As [`stride`](Self::stride), and n is a whole vector if `FULL`.
    // ANCHOR: walk
    #[inline(always)]
    unsafe fn channels<
        V: Vector<T>,
        const FULL: bool,
        const S: usize,
        const NORM: bool,
        const CAPPED: bool,
        const IN_MEMORY: bool,
    >(
        &self,
        s: &Sizes,
        y: &mut [T],
        at: usize,
        n: usize,
    ) {
        let (c, zero) = (s.c, V::splat(T::zero()));
        let [low, high] = self.rectifier.bounds::<T>();
        let [low, high] = [V::splat(low), V::splat(high)];
        // SAFETY: the caller's promise.
        unsafe {
            let maker = Maker::<V, NORM, CAPPED>::new::<T, FULL>(&self.of, at, n);
            let middle = self.lines[1].expect("every output has an input at its middle");
            let (mut w, mut lines) = ([[zero; 3]; 3], [middle.add(at); 3]);
            for u in 0..3 {
                // A line outside the image has no weight; the middle one stands for it.
                if let Some(line) = self.lines[u] {
                    lines[u] = line.add(at);
                    for v in 0..3 {
                        w[u][v] = lanes::<T, V, FULL>(self.w.as_ptr().add((3 * u + v) * c + at), n);
                    }
                }
            }
            let bias = match self.bias {
                Some(bias) => lanes::<T, V, FULL>(bias.as_ptr().add(at), n),
                None => zero,
            };
            let (mut left, mut here) = ([zero; 3], maker.column::<T, FULL>(&lines, 0, n));
            let mut out = y.as_mut_ptr().add(at);
            for j in 0..s.ow {
                let mut right = [zero; 3];
                if IN_MEMORY {
                    for u in 3 - S..3 {
                        for v in 0..S {
                            V::prefetch(lines[u].wrapping_add((j * S + v + S * s.w) * c));
                        }
                    }
                }
                if j * S + 1 < s.w {
                    right = maker.column::<T, FULL>(&lines, (j * S + 1) * c, n);
                }
                let mut sums = [bias, zero];
                for u in 0..3 {
                    sums[u % 2] = left[u].mul_add(w[u][0], sums[u % 2]);
                    sums[u % 2] = here[u].mul_add(w[u][1], sums[u % 2]);
                    sums[u % 2] = right[u].mul_add(w[u][2], sums[u % 2]);
                }
                store_lanes::<T, V, FULL>(sums[0].add(sums[1]).max(low).min(high), out, n);
                out = out.wrapping_add(c);
                if S == 1 {
                    (left, here) = (here, right);
                } else {
                    left = right;
                    if j + 1 < s.ow {
                        here = maker.column::<T, FULL>(&lines, (j + 1) * S * c, n);
                    }
                }
            }
        }
    }
    // ANCHOR_END: walk
}
