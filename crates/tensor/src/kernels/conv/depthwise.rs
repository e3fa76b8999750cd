//! One kernel a channel (groups = C = O): too little arithmetic for a product, so the taps are added up directly.
//! A tap is a vector over the channels. Forward and (conv.2) slide over padded rows of the input, (conv.3) over padded
//! rows of the output's gradient: each pixel *gathers* from the pixels that read it, so nothing is written twice. Three taps by
//! three take a shorter way, `three`.

#![allow(unsafe_code, reason = "vectors are loaded through raw pointers")]

mod grad;
mod landing;
mod tasks;
mod three;

pub(super) use grad::{Backward, Input, Map, RowSums};
#[cfg(test)]
pub(crate) use landing::LARGE;
pub(super) use tasks::{Grads, backward, forward, sizes};

use landing::Row;

use super::window::{Rows, Window};
use super::{ForwardTask, Sizes};
use crate::Real;
use crate::aligned::Aligned;
use crate::kernels::moments::RowMoments;
use crate::kernels::pending::Rectifier;
use crate::kernels::tile::lanes;
use crate::simd::{Kernel, Vector};

/// Kernels `[C, kh·kw]` turned to `[kh·kw, C]`: a tap becomes a vector.
pub fn tap_major<T: Real>(s: &Sizes, w: &[T]) -> Aligned<T> {
    Aligned::copy(&transposed(w, s.c, s.kh * s.kw))
}

/// Gradients `[kh·kw, C]` turned back to `[C, kh·kw]`.
pub fn channel_major<T: Real>(s: &Sizes, dw: &[T]) -> Vec<T> {
    transposed(dw, s.kh * s.kw, s.c)
}

fn transposed<T: Real>(m: &[T], rows: usize, cols: usize) -> Vec<T> {
    (0..rows * cols).map(|i| m[i % rows * cols + i / rows]).collect()
}

/// A tap of a sum: where the input of the first output lies, and the tap's weights.
#[derive(Clone, Copy)]
struct Tap<T> {
    x: *const T,
    w: *const T,
}

/// The pixels `first`, `first + step`, … of a row, `count` in all, each the sum of its taps: those of the i-th one lie
/// `i·x_step` behind those of the first.
struct Gather<'a, T> {
    taps: &'a [Tap<T>],
    x_step: usize,
    first: usize,
    step: usize,
    count: usize,
    row: Row<T>,
    bias: Option<&'a [T]>,
}

/// Some channels of pixels `first`, `first + step`, … of a row.
#[derive(Clone, Copy)]
struct Pixels {
    first: usize,
    step: usize,
    at: usize,
    n: usize,
}

/// What becomes of the sums of a gather before they are written.
trait Epilogue<T: Real> {
    /// What it keeps in registers while it goes through the pixels, for some channels.
    type Held<V: Vector<T>>;

    /// Begins the channels `at .. at + n`.
    ///
    /// # Safety
    /// `at + n ≤ C`, and n is a whole vector if `FULL`; here and below.
    unsafe fn begin<V: Vector<T>, const FULL: bool>(&mut self, at: usize, n: usize) -> Self::Held<V>;

    /// What is written in the place of `sums`.
    ///
    /// # Safety
    /// As [`begin`](Self::begin), and all R pixels must lie in the row.
    unsafe fn apply<V: Vector<T>, const FULL: bool, const R: usize>(
        &mut self,
        held: &mut Self::Held<V>,
        pixels: Pixels,
        sums: [V; R],
    ) -> [V; R];

    /// Ends them.
    ///
    /// # Safety
    /// As [`begin`](Self::begin).
    unsafe fn end<V: Vector<T>, const FULL: bool>(&mut self, _held: Self::Held<V>, _at: usize, _n: usize) {}
}

impl<T: Real> Gather<'_, T> {
    /// # Safety
    /// C elements behind every pointer that the steps reach must be readable, those of the row writable.
    // ANCHOR: gather
    #[inline(always)]
    unsafe fn run<V: Vector<T>>(&self, c: usize, epilogue: &mut impl Epilogue<T>) {
        for at in (0..c).step_by(V::LANES) {
            let n = V::LANES.min(c - at);
            // SAFETY: the caller's promise; `at + n ≤ C`.
            unsafe {
                if n == V::LANES {
                    self.channels::<V, _, true>(c, at, n, epilogue);
                } else {
                    self.channels::<V, _, false>(c, at, n, epilogue);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn channels<V: Vector<T>, E: Epilogue<T>, const FULL: bool>(
        &self,
        c: usize,
        at: usize,
        n: usize,
        epilogue: &mut E,
    ) {
        let mut i = 0;
        // SAFETY: the caller's promise.
        unsafe {
            let mut held = epilogue.begin::<V, FULL>(at, n);
            while i + 8 <= self.count {
                self.outputs::<V, E, FULL, 8>(c, i, [at, n], epilogue, &mut held);
                i += 8;
            }
            while i + 4 <= self.count {
                self.outputs::<V, E, FULL, 4>(c, i, [at, n], epilogue, &mut held);
                i += 4;
            }
            while i < self.count {
                self.outputs::<V, E, FULL, 1>(c, i, [at, n], epilogue, &mut held);
                i += 1;
            }
            epilogue.end::<V, FULL>(held, at, n);
        }
    }

    #[inline(always)]
    unsafe fn outputs<V: Vector<T>, E: Epilogue<T>, const FULL: bool, const R: usize>(
        &self,
        c: usize,
        i: usize,
        [at, n]: [usize; 2],
        epilogue: &mut E,
        held: &mut E::Held<V>,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let zero = V::splat(T::zero());
            let bias = self.bias.map_or(zero, |bias| lanes::<T, V, FULL>(bias.as_ptr().add(at), n));
            let mut sums = [bias; R];
            for tap in self.taps {
                let w = lanes::<T, V, FULL>(tap.w.add(at), n);
                let x = tap.x.add(i * self.x_step + at);
                for r in 0..R {
                    sums[r] = lanes::<T, V, FULL>(x.add(r * self.x_step), n).mul_add(w, sums[r]);
                }
            }
            let pixels = Pixels { first: self.first + i * self.step, step: self.step, at, n };
            let y = epilogue.apply::<V, FULL, R>(held, pixels, sums);
            self.row.write::<V, FULL, R>(pixels.first * c + at, self.step * c, y, n);
        }
    }
    // ANCHOR_END: gather
}

/// The rectifier alone.
struct Rectified(Rectifier);

impl<T: Real> Epilogue<T> for Rectified {
    /// Its bounds.
    type Held<V: Vector<T>> = [V; 2];

    #[inline(always)]
    unsafe fn begin<V: Vector<T>, const FULL: bool>(&mut self, _at: usize, _n: usize) -> [V; 2] {
        self.0.bounds::<T>().map(V::splat)
    }

    #[inline(always)]
    unsafe fn apply<V: Vector<T>, const FULL: bool, const R: usize>(
        &mut self,
        &mut [low, high]: &mut [V; 2],
        _pixels: Pixels,
        mut sums: [V; R],
    ) -> [V; R] {
        for r in 0..R {
            sums[r] = sums[r].max(low).min(high);
        }
        sums
    }
}

/// (conv.1) for some rows of the batch.
pub(super) struct Forward<'a, T: Real, X>(pub ForwardTask<'a, T, X>);

impl<T: Real, X: Rows<T>> Kernel<T> for Forward<'_, T, X> {
    type Output = RowMoments<T>;
    const KNOWING: bool = X::KNOWN != 0;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> RowMoments<T> {
        let s = &of_known_rows::<T, X>(self.0.s);
        if const { three::suits::<T, V>() } && three::fits::<T, V>(s) {
            return three::forward::<T, V, X>(s, self.0);
        }
        let ForwardTask { s: _, x, w, bias, rectifier, rows, y, with_moments } = self.0;
        let c = s.c;
        let mut moments = RowMoments::none(c);
        let mut window = input_window(s, x);
        let mut taps = Vec::with_capacity(s.kh * s.kw);
        let images = (rows.start / s.oh..).flat_map(|n| (0..s.oh).map(move |i| (n, i)));
        for ((n, i), y) in images.skip(rows.start % s.oh).zip(y.chunks_exact_mut(s.ow * c)) {
            taps.clear();
            for u in 0..s.kh {
                let Some(h) = s.row_under(i, u) else { continue };
                let line = window.row::<V>(n * s.h + h);
                let w = &w[u * s.kw * c..][..s.kw * c];
                for v in 0..s.kw {
                    taps.push(Tap { x: line.wrapping_add(v * s.geo.dilation[1] * c), w: w[v * c..].as_ptr() });
                }
            }
            let gather = Gather {
                taps: &taps,
                x_step: s.geo.stride[1] * c,
                first: 0,
                step: 1,
                count: s.ow,
                row: Row::in_place(y),
                bias,
            };
            // SAFETY: every patch lies inside its padded rows, `y` holds a row of the output.
            unsafe { gather.run::<V>(c, &mut Rectified(rectifier)) };
            if with_moments {
                moments.add::<V>(y, c);
            }
        }
        moments
    }
}

/// The sizes, with the number of channels that the rows know.
///
/// # Panics
/// If they know another one.
#[inline(always)]
fn of_known_rows<T: Real, X: Rows<T>>(s: &Sizes) -> Sizes {
    if X::KNOWN == 0 {
        return *s;
    }
    assert!(s.c == X::KNOWN);
    Sizes { c: X::KNOWN, ..*s }
}

fn input_window<T: Real, X: Rows<T>>(s: &Sizes, x: X) -> Window<T, X> {
    Window::new(x, s.w, [s.geo.padding[1]; 2], s.reach())
}
