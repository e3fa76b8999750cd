//! Kernels of 3 x 3 taps at stride 1 or 2, padded by one pixel, in registers: a row of outputs, or of the input's gradient, is
//! walked through once, column by column. What a pending map gives is made where it is read, and nothing of it is written.
//!
//! A window of made rows costs a store a pixel, which takes as long as two multiply-adds, and a load for each tap. Forward, a
//! column of three pixels serves up to three outputs; on the way back a pixel is masked, summed up and given to both
//! gradients at once. Only the rows of folded sites and of sums, and of the output's gradient, still come from windows.
//!
//! What lies outside the image takes part as zeros times pixels inside: a value that is not finite makes NaN there, and is seen
//! in more places than by the definition.

#![allow(unsafe_code, reason = "vectors are loaded through raw pointers")]

mod grad;

pub(super) use grad::backward;

use super::super::window::Rows;
use super::super::{ForwardTask, Sizes};
use super::input_window;
use crate::Real;
use crate::kernels::moments::RowMoments;
use crate::kernels::pending::{Maker, Masking, Rectifier};
use crate::kernels::tile::{lanes, store_lanes};
use crate::simd::Vector;

/// Whether vectors have what this takes: thirty-two registers for nine weights, nine pixels or sums, and what makes or masks a
/// pixel. With sixteen the weights stay in memory, which still pays at stride 2, if vectors are long. For others nothing of it
/// need be compiled.
pub(super) const fn suits<T: Real, V: Vector<T>>() -> bool {
    V::REGISTERS >= 32 || V::LANES >= 8
}

/// Whether some pixels may end in a part of a vector.
const fn has_rest<T: Real, V: Vector<T>, X: Rows<T>>() -> bool {
    X::KNOWN == 0 || !X::KNOWN.is_multiple_of(V::LANES)
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
                match n == V::LANES {
                    true => self.of_stride::<V, X, true>(s, y, at, n),
                    false if const { has_rest::<T, V, X>() } => self.of_stride::<V, X, false>(s, y, at, n),
                    false => unreachable!("channels that are known are whole vectors"),
                }
            }
        }
    }

    /// # Safety
    /// As [`make`](Self::make); `at + n ≤ C`, and n is a whole vector if `FULL`.
    #[inline(always)]
    unsafe fn of_stride<V: Vector<T>, X: Rows<T>, const FULL: bool>(
        &self,
        s: &Sizes,
        y: &mut [T],
        at: usize,
        n: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match (s.geo.stride[0], self.of.norm.is_some()) {
                (1, true) if const { V::REGISTERS >= 32 && X::IN_MEMORY } => {
                    self.channels::<V, X, FULL, 1, true>(s, y, at, n);
                }
                (1, _) if const { V::REGISTERS >= 32 } => self.channels::<V, X, FULL, 1, false>(s, y, at, n),
                (_, true) if X::IN_MEMORY => self.channels::<V, X, FULL, 2, true>(s, y, at, n),
                _ => self.channels::<V, X, FULL, 2, false>(s, y, at, n),
            }
        }
    }

    /// # Safety
    /// As [`of_stride`](Self::of_stride).
    #[inline(always)]
    unsafe fn channels<V: Vector<T>, X: Rows<T>, const FULL: bool, const S: usize, const NORM: bool>(
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
            let maker = Maker::<V, NORM>::new::<T, FULL>(&self.of, at, n);
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
            let (mut left, mut here) = ([zero; 3], column::<T, V, FULL, NORM>(&maker, &lines, 0, n));
            let mut out = y.as_mut_ptr().add(at);
            for j in 0..s.ow {
                let mut right = [zero; 3];
                if X::IN_MEMORY {
                    for u in 3 - S..3 {
                        for v in 0..S {
                            V::prefetch(lines[u].wrapping_add((j * S + v + S * s.w) * c));
                        }
                    }
                }
                if j * S + 1 < s.w {
                    right = column::<T, V, FULL, NORM>(&maker, &lines, (j * S + 1) * c, n);
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
                        here = column::<T, V, FULL, NORM>(&maker, &lines, (j + 1) * S * c, n);
                    }
                }
            }
        }
    }
}

/// Some channels of the pixels at `at` of three lines, one above the other.
///
/// # Safety
/// They must be readable.
#[inline(always)]
unsafe fn column<T: Real, V: Vector<T>, const FULL: bool, const NORM: bool>(
    maker: &Maker<V, NORM>,
    lines: &[*const T; 3],
    at: usize,
    n: usize,
) -> [V; 3] {
    let mut column = [V::splat(T::zero()); 3];
    for u in 0..3 {
        // SAFETY: the caller's promise.
        column[u] = maker.pixel(unsafe { lanes::<T, V, FULL>(lines[u].add(at), n) });
    }
    column
}
