//! One kernel a channel (groups = C = O): too little arithmetic for a product, so the taps are added up directly.
//! A tap is a vector over the channels. Forward and (conv.2) slide over padded rows of the input, (conv.3) over padded
//! rows of the output's gradient: each pixel *gathers* from the pixels that read it, so nothing is written twice.

#![allow(unsafe_code, reason = "vectors are loaded through raw pointers")]

use super::window::Window;
use super::{BackwardTask, ForwardTask, Sizes};
use crate::Real;
use crate::aligned::Aligned;
use crate::kernels::moments::{RowMoments, Sums};
use crate::kernels::pending::{GradLoader, Loader, Rectifier};
use crate::kernels::tile::{lanes, prefetch_after, store_lanes};
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

/// `count` outputs, `out_step` apart, each the sum of its taps: input `x + i·x_step` times the tap's weights.
struct Gather<'a, T> {
    taps: &'a [Tap<T>],
    count: usize,
    x_step: usize,
    out: *mut T,
    out_step: usize,
    bias: Option<&'a [T]>,
    rectifier: Rectifier,
}

impl<T: Real> Gather<'_, T> {
    /// # Safety
    /// C elements behind every pointer that the steps reach must be readable, those of the outputs writable.
    // ANCHOR: gather
    #[inline(always)]
    unsafe fn run<V: Vector<T>>(&self, c: usize) {
        for at in (0..c).step_by(V::LANES) {
            let n = V::LANES.min(c - at);
            // SAFETY: the caller's promise; `at + n ≤ C`.
            unsafe {
                if n == V::LANES {
                    self.channels::<V, true>(at, n);
                } else {
                    self.channels::<V, false>(at, n);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn channels<V: Vector<T>, const FULL: bool>(&self, at: usize, n: usize) {
        let mut i = 0;
        // SAFETY: the caller's promise.
        unsafe {
            while i + 8 <= self.count {
                self.outputs::<V, FULL, 8>(i, at, n);
                i += 8;
            }
            while i + 4 <= self.count {
                self.outputs::<V, FULL, 4>(i, at, n);
                i += 4;
            }
            while i < self.count {
                self.outputs::<V, FULL, 1>(i, at, n);
                i += 1;
            }
        }
    }

    #[inline(always)]
    unsafe fn outputs<V: Vector<T>, const FULL: bool, const R: usize>(&self, i: usize, at: usize, n: usize) {
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
            let [low, high] = self.rectifier.bounds::<T>().map(V::splat);
            for r in 0..R {
                let y = sums[r].max(low).min(high);
                store_lanes::<T, V, FULL>(y, self.out.add((i + r) * self.out_step + at), n);
            }
        }
    }
    // ANCHOR_END: gather
}

/// (conv.1) for some rows of the batch.
pub(super) struct Forward<'a, T: Real>(pub ForwardTask<'a, T>);

impl<T: Real> Kernel<T> for Forward<'_, T> {
    type Output = RowMoments<T>;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> RowMoments<T> {
        let ForwardTask { s, x, w, bias, rectifier, rows, y, with_moments } = self.0;
        let c = s.c;
        let mut moments = RowMoments::none(c);
        let mut window = input_window(s, x);
        let mut taps = Vec::with_capacity(s.kh * s.kw);
        for (row, y) in rows.zip(y.chunks_exact_mut(s.ow * c)) {
            let n = row / s.oh;
            prefetch_after::<T, V>(y);
            taps.clear();
            for u in 0..s.kh {
                let Some(h) = s.row_under(row % s.oh, u) else { continue };
                let line = window.row::<V>(n * s.h + h);
                let w = &w[u * s.kw * c..][..s.kw * c];
                for v in 0..s.kw {
                    taps.push(Tap { x: line.wrapping_add(v * s.geo.dilation[1] * c), w: w[v * c..].as_ptr() });
                }
            }
            let gather = Gather {
                taps: &taps,
                count: s.ow,
                x_step: s.geo.stride[1] * c,
                out: y.as_mut_ptr(),
                out_step: c,
                bias,
                rectifier,
            };
            // SAFETY: every patch lies inside its padded rows, `y` holds a row of the output.
            unsafe { gather.run::<V>(c) };
            if with_moments {
                moments.add::<V>(y);
            }
        }
        moments
    }
}

fn input_window<'a, T: Real, R: super::window::Rows<T>>(s: &Sizes, x: &'a R) -> Window<'a, T, R> {
    Window::new(x, s.w, [s.geo.padding[1]; 2], (s.kh - 1) * s.geo.dilation[0] + 1)
}

/// (conv.2) and (conv.3) for some images.
pub(super) struct Backward<'a, T: Real>(pub BackwardTask<'a, T>);

impl<T: Real> Kernel<T> for Backward<'_, T> {
    type Output = Sums;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> Sums {
        let BackwardTask { s, x, dy, w, images, mut dx, mut dw } = self.0;
        let mut sums = Sums::zeros(s.c);
        for n in images.clone() {
            let at = n - images.start;
            if let Some(dw) = &mut dw {
                grad_w::<T, V>(s, x, dy, n, dw);
            }
            if let Some(dx) = &mut dx {
                let dx = &mut dx[at * s.h * s.w * s.c..][..s.h * s.w * s.c];
                grad_x::<T, V>(s, x, dy, w, n, dx, &mut sums);
            }
        }
        sums
    }
}

/// (conv.2) of image `n`, added to the tap-major `dw`.
#[inline(always)]
fn grad_w<T: Real, V: Vector<T>>(s: &Sizes, x: &Loader<'_, T>, dy: &GradLoader<'_, T>, n: usize, dw: &mut [T]) {
    let (c, d) = (s.c, s.geo.dilation[1]);
    let mut window = input_window(s, x);
    let mut dz = Aligned::zeros(s.ow * c);
    for i in 0..s.oh {
        dy.load::<V>((n * s.oh + i) * s.ow, s.ow, &mut dz, c);
        for u in 0..s.kh {
            let Some(h) = s.row_under(i, u) else { continue };
            let line = window.row::<V>(n * s.h + h);
            let mut v = 0;
            while v < s.kw {
                let dw = dw[(u * s.kw + v) * c..].as_mut_ptr();
                let line = line.wrapping_add(v * d * c);
                // SAFETY: every patch lies inside its padded row, `dz` holds a row, `dw` the taps from `v` on.
                unsafe {
                    if v + 3 <= s.kw {
                        row_grad_w::<T, V, 3>(s, line, &dz, dw);
                        v += 3;
                    } else {
                        row_grad_w::<T, V, 1>(s, line, &dz, dw);
                        v += 1;
                    }
                }
            }
        }
    }
}

/// One row's part of the gradients of TAPS taps side by side.
///
/// # Safety
/// `line` must reach every patch of the row, `dw` TAPS vectors of C.
#[inline(always)]
unsafe fn row_grad_w<T: Real, V: Vector<T>, const TAPS: usize>(s: &Sizes, line: *const T, dz: &[T], dw: *mut T) {
    for at in (0..s.c).step_by(V::LANES) {
        let n = V::LANES.min(s.c - at);
        // SAFETY: the caller's promise; `at + n ≤ C`.
        unsafe {
            if n == V::LANES {
                channels_grad_w::<T, V, TAPS, true>(s, line, dz, dw, at, n);
            } else {
                channels_grad_w::<T, V, TAPS, false>(s, line, dz, dw, at, n);
            }
        }
    }
}

#[inline(always)]
unsafe fn channels_grad_w<T: Real, V: Vector<T>, const TAPS: usize, const FULL: bool>(
    s: &Sizes,
    line: *const T,
    dz: &[T],
    dw: *mut T,
    at: usize,
    n: usize,
) {
    let (c, step) = (s.c, s.geo.stride[1] * s.c);
    let tap_step = s.geo.dilation[1] * c;
    // SAFETY: the caller's promise.
    unsafe {
        let zero = V::splat(T::zero());
        // Two sums a tap: an addition need not wait for the one before it.
        let mut sums: [[V; 2]; TAPS] = std::array::from_fn(|v| [lanes::<T, V, FULL>(dw.add(v * c + at), n), zero]);
        for pair in (0..s.ow).step_by(2) {
            for half in 0..2 {
                let j = pair + half;
                if j == s.ow {
                    break;
                }
                let dz = lanes::<T, V, FULL>(dz.as_ptr().add(j * c + at), n);
                for v in 0..TAPS {
                    let x = lanes::<T, V, FULL>(line.add(j * step + v * tap_step + at), n);
                    sums[v][half] = x.mul_add(dz, sums[v][half]);
                }
            }
        }
        for v in 0..TAPS {
            store_lanes::<T, V, FULL>(sums[v][0].add(sums[v][1]), dw.add(v * c + at), n);
        }
    }
}

/// (conv.3) of image `n`, each row finished as soon as it is written.
///
/// The columns `w = r + q·s` of one remainder r are read by the same taps v, at output column `q + (r + p − v·d)/s`.
#[inline(always)]
fn grad_x<T: Real, V: Vector<T>>(
    s: &Sizes,
    x: &Loader<'_, T>,
    dy: &GradLoader<'_, T>,
    w: &[T],
    n: usize,
    dx: &mut [T],
    sums: &mut Sums,
) {
    let (c, kw) = (s.c, s.kw as isize);
    let [stride, p, d] = [s.geo.stride, s.geo.padding, s.geo.dilation].map(|axes| axes[1] as isize);
    let reach = (kw - 1) * d / stride + 1; // zeros on the left: output columns down to −reach are asked for
    let beyond = ((s.w as isize - 1 + p) / stride + 1 - s.ow as isize).max(0);
    // The output rows that read one input row are at most this far apart.
    let height = (s.kh - 1) * s.geo.dilation[0] / s.geo.stride[0] + 1;
    let mut window = Window::new(dy, s.ow, [reach as usize, beyond as usize], height);
    let mut taps = Vec::with_capacity(s.kh * s.kw);
    for (h, dx) in dx.chunks_exact_mut(s.w * c).enumerate() {
        prefetch_after::<T, V>(dx);
        for r in 0..stride.min(s.w as isize) {
            taps.clear();
            for u in 0..s.kh {
                let Some(i) = s.row_above(h, u) else { continue };
                let line = window.row::<V>(n * s.oh + i);
                for v in (0..kw).filter(|v| (r + p - v * d).rem_euclid(stride) == 0) {
                    let column = reach + (r + p - v * d).div_euclid(stride);
                    let w = w[(u * s.kw + v as usize) * c..].as_ptr();
                    taps.push(Tap { x: line.wrapping_add(column as usize * c), w });
                }
            }
            let gather = Gather {
                taps: &taps,
                count: (s.w - r as usize).div_ceil(stride as usize),
                x_step: c,
                out: dx[r as usize * c..].as_mut_ptr(),
                out_step: stride as usize * c,
                bias: None,
                rectifier: Rectifier::Identity,
            };
            // SAFETY: the zeros around the rows reach as far as the taps do, `dx` holds a row of the input.
            unsafe { gather.run::<V>(c) };
        }
        x.finish::<V>((n * s.h + h) * s.w, dx, sums);
    }
}
