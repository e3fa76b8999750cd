//! k x k kernels with one group: columns that are never written down. Channels last, a row of a patch lies together in
//! the padded input row, so the product reads its operand straight from there, pixel after pixel `stride·C` apart.
//!
//! (conv.3) is made of such products too. The pixels of a row of `dx` that lie a stride apart are reached by the same taps,
//! each from neighbouring pixels of `dy`: every one of the first `stride` pixels begins a row of patches of its own.

#![allow(unsafe_code, reason = "products take raw pointers")]

use std::ops::Range;

use super::window::Window;
use super::{BackwardTask, ForwardTask, Sizes};
use crate::Real;
use crate::aligned::Aligned;
use crate::kernels::ahead::{Ahead, Stretch};
use crate::kernels::moments::{RowMoments, Sums};
use crate::kernels::pending::{GradLoader, Loader, Rectifier};
use crate::kernels::tile::{Chunk, Product, Start, panel_row};
use crate::simd::{Kernel, Vector};

/// The kernels `[O, kh·kw, C]` turned around as a panel `[kh·kw, O, C]`, in memory that is empty or held one.
pub(super) fn fill_turned_panel<T: Real>(s: &Sizes, w: &[T], panel: &mut Aligned<T>) {
    let (taps, row) = (s.kh * s.kw, panel_row(s.c));
    panel.lengthen(taps * s.o * row);
    for o in 0..s.o {
        for tap in 0..taps {
            let to = ((taps - 1 - tap) * s.o + o) * row;
            panel[to..to + s.c].copy_from_slice(&w[(o * taps + tap) * s.c..][..s.c]);
        }
    }
}

/// Rows of the input as the patches of one row reach over them.
fn reach(s: &Sizes) -> usize {
    (s.kh - 1) * s.geo.dilation[0] + 1
}

fn window<'a, T: Real>(s: &Sizes, source: &'a Loader<'a, T>, height: usize) -> Window<T, &'a Loader<'a, T>> {
    Window::new(source, s.w, [s.geo.padding[1]; 2], height)
}

/// The parts of the patches of output row `row`: where the first one starts, and its row of the panel. Returns how many
/// elements a part has.
#[inline(always)]
fn parts<T: Real, V: Vector<T>>(
    s: &Sizes,
    window: &mut Window<T, &Loader<'_, T>>,
    row: usize,
    parts: &mut Vec<(*const T, usize)>,
) -> usize {
    let d = s.geo.dilation[1];
    let (n, i) = (row / s.oh, row % s.oh);
    parts.clear();
    for u in 0..s.kh {
        let Some(h) = s.row_under(i, u) else { continue };
        let line = window.row::<V>(n * s.h + h);
        if d == 1 {
            parts.push((line, u * s.kw * s.c)); // the taps of a row lie side by side
        } else {
            // The last tap of the first patch lies inside the padded row.
            parts.extend((0..s.kw).map(|v| (line.wrapping_add(v * d * s.c), (u * s.kw + v) * s.c)));
        }
    }
    if d == 1 { s.kw * s.c } else { s.c }
}

/// A convolution row by row.
struct Slide<'a, T: Real> {
    s: &'a Sizes,
    window: Window<T, &'a Loader<'a, T>>,
    parts: Vec<(*const T, usize)>,
    chunks: Vec<Chunk<T>>,
}

impl<'a, T: Real> Slide<'a, T> {
    fn new(s: &'a Sizes, source: &'a Loader<'a, T>) -> Self {
        Slide { s, window: window(s, source, reach(s)), parts: Vec::new(), chunks: Vec::new() }
    }

    /// Row `row` of the batch's output.
    // ANCHOR: slide
    #[inline(always)]
    fn row<V: Vector<T>>(&mut self, row: usize, panel: &[T], start: Start<T>, rectifier: Rectifier, y: &mut [T]) {
        let s = self.s;
        let k = parts::<T, V>(s, &mut self.window, row, &mut self.parts);
        self.chunks.clear();
        for &(a, at) in &self.parts {
            self.chunks.push(Chunk { a, b: panel[at * panel_row(s.o)..].as_ptr(), k });
        }
        let product = Product {
            rows: s.ow,
            columns: s.o,
            a_row: s.geo.stride[1] * s.c,
            a_step: 1,
            b_row: panel_row(s.o),
            start,
            out: y[..s.ow * s.o].as_mut_ptr(),
            out_row: s.o,
            rectifier,
        };
        let ahead = Ahead::new(product.steps::<V>(k * self.chunks.len().max(1)), [], [Stretch::after(y)]);
        // SAFETY: every patch lies inside its padded rows, `y` holds a row of the output.
        unsafe { product.run_asking::<V, 0, 1>(&self.chunks, ahead) };
    }
    // ANCHOR_END: slide
}

/// (conv.1) for some rows of the batch.
pub(super) struct Forward<'a, T: Real>(pub ForwardTask<'a, T>);

impl<T: Real> Kernel<T> for Forward<'_, T> {
    type Output = RowMoments<T>;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> RowMoments<T> {
        let ForwardTask { s, x, w, bias, rectifier, rows, y, with_moments } = self.0;
        let mut moments = RowMoments::none(s.o);
        let mut slide = Slide::new(s, x);
        for (row, y) in rows.zip(y.chunks_exact_mut(s.ow * s.o)) {
            slide.row::<V>(row, w, Start::of(bias), rectifier, y);
            if with_moments {
                moments.add::<V>(y);
            }
        }
        moments
    }
}

/// Pixels of the output that go into `dW` at a time: it may lie beyond the first cache, where each time it is read and
/// written.
const PIXELS: usize = 64;

/// The output rows of `images` in blocks of about [`PIXELS`]: rows of one image or, where images are small, several
/// images. And how many rows of the input lie under a block.
fn blocks(s: &Sizes, images: Range<usize>) -> (impl Iterator<Item = Range<usize>> + use<>, usize) {
    let (oh, step) = (s.oh, (PIXELS / s.ow).max(1));
    let (unit, step, height) = if step > s.oh {
        let images = step / oh;
        (images * oh, images * oh, images * s.h)
    } else {
        let step = step.min(oh);
        (oh, step, (step - 1) * s.geo.stride[0] + reach(s))
    };
    let end = images.end * oh;
    let blocks = (images.start * oh..end).step_by(unit).flat_map(move |first| {
        let end = (first + unit).min(end);
        (first..end).step_by(step).map(move |start| start..(start + step).min(end))
    });
    (blocks, height)
}

/// (conv.2) for some images, a product for each row of taps and block of pixels.
// ANCHOR: grad_w
#[inline(always)]
fn grad_w<T: Real, V: Vector<T>>(
    s: &Sizes,
    x: &Loader<'_, T>,
    dy: &GradLoader<'_, T>,
    images: Range<usize>,
    dw: &mut [T],
) {
    let (blocks, height) = blocks(s, images);
    let mut window = window(s, x, height);
    let (o_row, stride, d) = (panel_row(s.o), s.geo.stride[1], s.geo.dilation[1]);
    // The taps of a row lie side by side where they touch.
    let (parts, k) = if d == 1 { (1, s.kw * s.c) } else { (s.kw, s.c) };
    let (mut dz, mut chunks) = (Aligned::default(), Vec::new());
    for block in blocks {
        dz.lengthen(block.len() * s.ow * o_row);
        dy.load::<V>(block.start * s.ow, block.len() * s.ow, &mut dz, o_row);
        let ahead = dy.ahead(block.start * s.ow, block.len() * s.ow);
        for u in 0..s.kh {
            for v in 0..parts {
                chunks.clear();
                for (i, row) in block.clone().enumerate() {
                    let Some(h) = s.row_under(row % s.oh, u) else { continue };
                    let a = window.row::<V>(row / s.oh * s.h + h).wrapping_add(v * d * s.c);
                    chunks.push(Chunk { a, b: dz[i * s.ow * o_row..].as_ptr(), k: s.ow });
                }
                let product = Product {
                    rows: k,
                    columns: s.o,
                    a_row: 1,
                    a_step: stride * s.c,
                    b_row: o_row,
                    start: Start::Output,
                    out: dw[(u * s.kw + v) * s.c * o_row..].as_mut_ptr(),
                    out_row: o_row,
                    rectifier: Rectifier::Identity,
                };
                let reads = ahead.map(|stretch| stretch.part(u * parts + v, s.kh * parts));
                let ahead = Ahead::new(product.steps::<V>(block.len() * s.ow), reads, []);
                // SAFETY: every patch lies inside its padded rows, which the window holds for the whole block; `dz` holds
                // the block, `dw` the rows of the panel.
                unsafe { product.run_asking::<V, 2, 0>(&chunks, ahead) };
            }
        }
    }
}
// ANCHOR_END: grad_w

/// (conv.2) for the kernels that an image has of its own, straight into them: `dw [O, kh, kw, C]`, a product for each row of
/// taps and block of pixels. Turning [`grad_w`]'s panel would take longer than this.
// ANCHOR: grad_own
#[inline(always)]
fn grad_own<T: Real, V: Vector<T>>(s: &Sizes, x: &Loader<'_, T>, dy: &GradLoader<'_, T>, image: usize, dw: &mut [T]) {
    let (blocks, height) = blocks(s, image..image + 1);
    let mut window = window(s, x, height);
    let (o_row, stride, d) = (panel_row(s.o), s.geo.stride[1], s.geo.dilation[1]);
    let (parts, columns) = if d == 1 { (1, s.kw * s.c) } else { (s.kw, s.c) };
    let (mut dz, mut chunks) = (Aligned::default(), Vec::new());
    for block in blocks {
        dz.lengthen(block.len() * s.ow * o_row);
        dy.load::<V>(block.start * s.ow, block.len() * s.ow, &mut dz, o_row);
        for u in 0..s.kh {
            for v in 0..parts {
                chunks.clear();
                for (i, row) in block.clone().enumerate() {
                    let Some(h) = s.row_under(row % s.oh, u) else { continue };
                    let b = window.row::<V>(image * s.h + h).wrapping_add(v * d * s.c);
                    chunks.push(Chunk { a: dz[i * s.ow * o_row..].as_ptr(), b, k: s.ow });
                }
                let product = Product {
                    rows: s.o,
                    columns,
                    a_row: 1,
                    a_step: o_row,
                    b_row: stride * s.c,
                    start: if block.start == image * s.oh { Start::Zero } else { Start::Output },
                    out: dw[(u * s.kw + v) * s.c..].as_mut_ptr(),
                    out_row: s.taps(),
                    rectifier: Rectifier::Identity,
                };
                // SAFETY: as in `grad_w`, the other way round; behind its last row the window can still be read.
                unsafe { product.run::<V>(&chunks) };
            }
        }
    }
}
// ANCHOR_END: grad_own

/// (conv.3) row by row.
struct GradX<'a, T: Real> {
    s: &'a Sizes,
    window: Window<T, &'a GradLoader<'a, T>>,
    /// For each of the first `stride` pixels, its taps from the last to the first: v, and how far into a padded row of `dy`
    /// the pixel lies that reached it by v.
    taps: Vec<Vec<(usize, usize)>>,
    chunks: Vec<Chunk<T>>,
}

impl<'a, T: Real> GradX<'a, T> {
    fn new(s: &'a Sizes, dy: &'a GradLoader<'a, T>) -> Self {
        let ([_, stride], [_, p], [_, d]) = (s.geo.stride, s.geo.padding, s.geo.dilation);
        // Pixels of `dy` before the first one and behind the last, as far as the patches of `dx` reach.
        let left = (d * (s.kw - 1)).saturating_sub(p).div_ceil(stride);
        let right = ((s.w - 1 + p) / stride + 1).saturating_sub(s.ow);
        let taps_of = |pixel: usize| {
            let taps = (0..s.kw).rev().filter_map(|v| {
                let at = (left * stride + pixel + p).checked_sub(v * d)?;
                (at % stride == 0).then_some((v, at / stride * s.o))
            });
            taps.collect()
        };
        GradX {
            s,
            window: Window::new(dy, s.ow, [left, right], reach(s).div_ceil(s.geo.stride[0])),
            taps: (0..stride.min(s.w)).map(taps_of).collect(),
            chunks: Vec::new(),
        }
    }

    /// Row `row` of the batch's input.
    // ANCHOR: grad_x
    #[inline(always)]
    fn row<V: Vector<T>>(&mut self, row: usize, panel: &[T], dx: &mut [T]) {
        let (s, b_row) = (self.s, panel_row(self.s.c));
        let (n, h) = (row / s.h, row % s.h);
        let stride = s.geo.stride[1];
        for (pixel, taps) in self.taps.iter().enumerate() {
            self.chunks.clear();
            for u in (0..s.kh).rev() {
                let Some(i) = s.row_above(h, u) else { continue };
                let line = self.window.row::<V>(n * s.oh + i);
                for &(v, at) in taps {
                    let turned = s.kh * s.kw - 1 - (u * s.kw + v);
                    let (a, b) = (line.wrapping_add(at), panel[turned * s.o * b_row..].as_ptr());
                    match self.chunks.last_mut() {
                        // Taps that lie side by side in both operands are one sum.
                        Some(last) if last.a.wrapping_add(last.k) == a && last.b.wrapping_add(last.k * b_row) == b => {
                            last.k += s.o;
                        }
                        _ => self.chunks.push(Chunk { a, b, k: s.o }),
                    }
                }
            }
            let product = Product {
                rows: (s.w - pixel).div_ceil(stride),
                columns: s.c,
                a_row: s.o,
                a_step: 1,
                b_row,
                start: Start::Zero,
                out: dx[pixel * s.c..s.w * s.c].as_mut_ptr(),
                out_row: stride * s.c,
                rectifier: Rectifier::Identity,
            };
            let steps = self.chunks.iter().map(|chunk| chunk.k).sum::<usize>().max(1);
            let next = Stretch::after(dx).part(pixel, self.taps.len());
            let ahead = Ahead::new(product.steps::<V>(steps), [], [next]);
            // SAFETY: every pixel of `dy` that is reached lies inside its padded row, `dx` holds a row of the input.
            unsafe { product.run_asking::<V, 0, 1>(&self.chunks, ahead) };
        }
    }
    // ANCHOR_END: grad_x
}

/// (conv.2) and (conv.3) for some images.
pub(super) struct Backward<'a, T: Real>(pub BackwardTask<'a, T>);

impl<T: Real> Kernel<T> for Backward<'_, T> {
    type Output = Sums;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> Sums {
        let BackwardTask { s, x, dy, w, images, dx, dw } = self.0;
        let mut sums = Sums::zeros(s.c);
        match dw {
            Some(dw) if s.per_sample => grad_own::<T, V>(s, x, dy, images.start, dw),
            Some(dw) => grad_w::<T, V>(s, x, dy, images.clone(), dw),
            None => {}
        }
        if let Some(dx) = dx {
            let mut grad_x = GradX::new(s, dy);
            let rows = images.start * s.h..images.end * s.h;
            for (row, dx) in rows.zip(dx.chunks_exact_mut(s.w * s.c)) {
                grad_x.row::<V>(row, w, dx);
                x.finish::<V>(row * s.w, dx, &mut sums);
            }
        }
        sums
    }
}
