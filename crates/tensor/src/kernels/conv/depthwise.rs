//! One kernel a channel (groups = C = O): too little arithmetic for a product, so the taps are added up directly.
//! A tap is a vector over the channels. Forward and (conv.2) slide over padded rows of the input, (conv.3) over padded
//! rows of the output's gradient: each pixel *gathers* from the pixels that read it, so nothing is written twice.

#![allow(unsafe_code, reason = "vectors are loaded through raw pointers")]

use super::window::{Rows, Window};
use super::{BackwardTask, ForwardTask, Sizes};
use crate::Real;
use crate::aligned::Aligned;
use crate::kernels::moments::{RowMoments, Sums};
use crate::kernels::pending::{GradLoader, Loader, Rectifier};
use crate::kernels::tile::{lanes, store_lanes};
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
    /// How far behind an output the memory lies that is asked for while it is written: a row.
    next: usize,
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
                let (y, out) = (sums[r].max(low).min(high), self.out.add((i + r) * self.out_step + at));
                store_lanes::<T, V, FULL>(y, out, n);
                V::prefetch_write(out.wrapping_add(self.next));
            }
        }
    }
    // ANCHOR_END: gather
}

/// (conv.1) for some rows of the batch.
pub(super) struct Forward<'a, T: Real, X>(pub ForwardTask<'a, T, X>);

impl<T: Real, X: Rows<T>> Kernel<T> for Forward<'_, T, X> {
    type Output = RowMoments<T>;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> RowMoments<T> {
        let ForwardTask { s, x, w, bias, rectifier, rows, y, with_moments } = self.0;
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
                count: s.ow,
                x_step: s.geo.stride[1] * c,
                out: y.as_mut_ptr(),
                out_step: c,
                next: s.ow * c,
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

fn input_window<T: Real, X: Rows<T>>(s: &Sizes, x: X) -> Window<T, X> {
    Window::new(x, s.w, [s.geo.padding[1]; 2], s.reach())
}

/// An input that knows what its maker wants of its gradient.
pub(super) trait Input<T: Real>: Rows<T> + Sized {
    type Sums;
    /// Turns `d = da` of row `row` into what goes back, and adds to the sums.
    fn finish<V: Vector<T>>(rows: &mut Window<T, Self>, row: usize, d: &mut [T]);
    /// The sums of all rows.
    fn sums(self) -> Self::Sums;
}

/// A map, and the sums of its gradient, (pend.2).
pub(super) struct Map<'a, T>(pub &'a Loader<'a, T>, pub Sums);

impl<T: Real> Rows<T> for Map<'_, T> {
    fn channels(&self) -> usize {
        self.0.channels()
    }

    #[inline(always)]
    fn make<V: Vector<T>>(&mut self, row: usize, pixels: usize, slot: usize, out: &mut [T]) {
        self.0.make::<V>(row, pixels, slot, out);
    }
}

impl<T: Real> Input<T> for Map<'_, T> {
    type Sums = Sums;

    #[inline(always)]
    fn finish<V: Vector<T>>(rows: &mut Window<T, Self>, row: usize, d: &mut [T]) {
        let Map(loader, sums) = &mut rows.source;
        loader.finish::<V>(row * (d.len() / loader.c), d, sums);
    }

    fn sums(self) -> Sums {
        self.1
    }
}

/// (conv.2) and (conv.3) for some images, row by row: what the input and the gradient are made to serves both.
pub(super) struct Backward<'a, T: Real, X>(pub BackwardTask<'a, T, X>);

impl<T: Real, X: Input<T>> Kernel<T> for Backward<'_, T, X> {
    type Output = X::Sums;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> X::Sums {
        let BackwardTask { s, x, dy, w, images, mut dx, mut dw } = self.0;
        let (mut rows, mut columns) = (input_window(s, x), Columns::new(s, dy));
        let image = s.h * s.w * s.c;
        for (at, n) in images.enumerate() {
            let mut dx = dx.as_deref_mut().map(|dx| dx[at * image..][..image].chunks_exact_mut(s.w * s.c));
            let mut done = 0;
            for h in 0..=s.h {
                let dx = dx.as_mut().and_then(|rows| rows.next());
                // The output rows that have come into reach of row h; behind the last one, and without `dx`, all.
                let reached = if dx.is_some() { s.oh.min((h + s.geo.padding[0]) / s.geo.stride[0] + 1) } else { s.oh };
                if let Some(dw) = &mut dw {
                    for i in done..reached {
                        row_grad_w::<T, V>(s, &mut rows, columns.row::<V>(n * s.oh + i), n, i, dw);
                    }
                }
                done = done.max(reached);
                let Some(dx) = dx else { break };
                row_grad_x::<T, V>(s, &mut columns, w, n, h, dx);
                X::finish::<V>(&mut rows, n * s.h + h, dx);
            }
        }
        rows.source.sums()
    }
}

/// (conv.2) of row `i` of image `n`, whose gradient is `dz`, added to the tap-major `dw`.
#[inline(always)]
fn row_grad_w<T: Real, V: Vector<T>>(
    s: &Sizes,
    rows: &mut Window<T, impl Rows<T>>,
    dz: *const T,
    n: usize,
    i: usize,
    dw: &mut [T],
) {
    let (c, d) = (s.c, s.geo.dilation[1]);
    for u in 0..s.kh {
        let Some(h) = s.row_under(i, u) else { continue };
        let line = rows.row::<V>(n * s.h + h);
        let mut v = 0;
        while v < s.kw {
            let dw = dw[(u * s.kw + v) * c..].as_mut_ptr();
            let line = line.wrapping_add(v * d * c);
            // SAFETY: every patch lies inside its padded row, `dz` is a row, `dw` holds the taps from `v` on.
            unsafe {
                if v + 3 <= s.kw {
                    taps_grad_w::<T, V, 3>(s, line, dz, dw);
                    v += 3;
                } else {
                    taps_grad_w::<T, V, 1>(s, line, dz, dw);
                    v += 1;
                }
            }
        }
    }
}

/// One row's part of the gradients of TAPS taps side by side.
///
/// # Safety
/// `line` must reach every patch of the row, `dz` hold the row, `dw` TAPS vectors of C.
#[inline(always)]
unsafe fn taps_grad_w<T: Real, V: Vector<T>, const TAPS: usize>(s: &Sizes, line: *const T, dz: *const T, dw: *mut T) {
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
    dz: *const T,
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
                let dz = lanes::<T, V, FULL>(dz.add(j * c + at), n);
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

/// The rows of the gradient with zeros around them, as (conv.3) gathers from them.
///
/// The columns `w = r + q·s` of one remainder r are read by the same taps v, at output column `q + (r + p − v·d)/s`.
struct Columns<'a, T> {
    window: Window<T, &'a GradLoader<'a, T>>,
    /// Elements of the zeros on the left.
    left: usize,
    /// The taps v of each remainder: where their weights lie in a row of taps, and their output column for q = 0 in a row.
    of_remainders: Vec<Vec<(usize, isize)>>,
    /// For the rows above one of the input, their row of taps and the first pixel, and for the taps of a sum.
    lines: Vec<(*const T, *const T)>,
    taps: Vec<Tap<T>>,
}

impl<'a, T: Real> Columns<'a, T> {
    fn new(s: &Sizes, dy: &'a GradLoader<'a, T>) -> Self {
        let [stride, p, d] = [s.geo.stride, s.geo.padding, s.geo.dilation];
        let left = (s.kw - 1) * d[1] / stride[1] + 1;
        let right = ((s.w + p[1]).saturating_sub(1) / stride[1] + 1).saturating_sub(s.ow);
        // The output rows that read one input row are at most this far apart.
        let height = (s.kh - 1) * d[0] / stride[0] + 1;
        let of_remainder = |r: usize| {
            let taps = (0..s.kw).map(|v| (v, (r + p[1]) as isize - (v * d[1]) as isize));
            let step = stride[1] as isize;
            let reached = taps.filter(|(_, at)| at.rem_euclid(step) == 0);
            reached.map(|(v, at)| (v * s.c, at.div_euclid(step) * s.c as isize)).collect()
        };
        Columns {
            window: Window::new(dy, s.ow, [left, right], height),
            left: left * s.c,
            of_remainders: (0..stride[1].min(s.w)).map(of_remainder).collect(),
            lines: Vec::with_capacity(s.kh),
            taps: Vec::with_capacity(s.kh * s.kw),
        }
    }

    /// The first pixel of row `row` of the batch.
    #[inline(always)]
    fn row<V: Vector<T>>(&mut self, row: usize) -> *const T {
        self.window.row::<V>(row).wrapping_add(self.left)
    }
}

/// (conv.3) for row `h` of image `n`.
#[inline(always)]
fn row_grad_x<T: Real, V: Vector<T>>(
    s: &Sizes,
    columns: &mut Columns<'_, T>,
    w: &[T],
    n: usize,
    h: usize,
    dx: &mut [T],
) {
    let c = s.c;
    columns.lines.clear();
    for u in 0..s.kh {
        if let Some(i) = s.row_above(h, u) {
            let line = columns.row::<V>(n * s.oh + i);
            columns.lines.push((w[u * s.kw * c..].as_ptr(), line));
        }
    }
    let Columns { of_remainders, lines, taps, .. } = columns;
    for (r, of_remainder) in of_remainders.iter().enumerate() {
        taps.clear();
        for &(w, line) in &*lines {
            let tap = |&(v, column): &_| Tap { x: line.wrapping_offset(column), w: w.wrapping_add(v) };
            taps.extend(of_remainder.iter().map(tap));
        }
        let gather = Gather {
            taps,
            count: (s.w - r).div_ceil(s.geo.stride[1]),
            x_step: c,
            out: dx[r * c..].as_mut_ptr(),
            out_step: s.geo.stride[1] * c,
            next: s.w * c,
            bias: None,
            rectifier: Rectifier::Identity,
        };
        // SAFETY: the zeros around the rows reach as far as the taps do, `dx` holds a row of the input.
        unsafe { gather.run::<V>(c) };
    }
}
