//! (conv.2) and (conv.3) of dense kernels, products like (conv.1).
//!
//! The pixels of a row of `dx` that lie a stride apart are reached by the same taps, each from neighbouring pixels of `dy`:
//! every one of the first `stride` pixels begins a row of patches of its own.

#![allow(unsafe_code, reason = "products take raw pointers")]

use std::ops::Range;

use super::super::window::Window;
use super::super::{BackwardTask, Sizes};
use super::{Fours, window};
use crate::Real;
use crate::aligned::Aligned;
use crate::kernels::ahead::{Ahead, Stretch};
use crate::kernels::moments::Sums;
use crate::kernels::pending::{GradLoader, Loader, Rectifier};
use crate::kernels::tile::{Chunk, Product, Start, panel_row};
use crate::simd::{Kernel, Vector};

/// The kernels `[O, kh·kw, C]` turned around as a panel `[kh·kw, O, C]`, in memory that is empty or held one.
pub(in super::super) fn fill_turned_panel<T: Real>(s: &Sizes, w: &[T], panel: &mut Aligned<T>) {
    let (taps, row) = (s.kh * s.kw, panel_row(s.c));
    panel.lengthen(taps * s.o * row);
    for o in 0..s.o {
        for tap in 0..taps {
            let to = ((taps - 1 - tap) * s.o + o) * row;
            panel[to..to + s.c].copy_from_slice(&w[(o * taps + tap) * s.c..][..s.c]);
        }
    }
}

/// Pixels of the output that go into `dW` at a time: it may lie beyond the first cache, where each time it is read and
/// written.
const PIXELS: usize = 64;
/// Pixels of a row below which its patches are copied together with those of other rows: a sum of so few terms costs more
/// to begin than to add up.
const SHORT: usize = 8;

/// How (conv.2) goes through images: so many together, their output rows in blocks of about [`PIXELS`].
#[derive(Clone, Copy)]
struct Blocks {
    /// More than one where they are small.
    images: usize,
    /// Output rows of a block.
    rows: usize,
    /// Rows of the input under a block.
    height: usize,
}

impl Blocks {
    fn of(s: &Sizes) -> Self {
        let rows = (PIXELS / s.ow).max(1);
        if rows > s.oh {
            let images = rows / s.oh;
            Blocks { images, rows: images * s.oh, height: images * s.h }
        } else {
            Blocks { images: 1, rows, height: (rows - 1) * s.geo.stride[0] + s.reach() }
        }
    }

    /// `images` together, one block after the other.
    fn through(self, s: &Sizes, images: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let rows = images.start * s.oh..images.end * s.oh;
        rows.clone().step_by(self.rows).map(move |start| start..(start + self.rows).min(rows.end))
    }
}

/// (conv.2), a product for each row of taps and block of pixels.
struct GradW<'a, T: Real> {
    s: &'a Sizes,
    dy: &'a GradLoader<'a, T>,
    blocks: Blocks,
    window: Window<T, &'a Loader<'a, T>>,
    dz: Aligned<T>,
    /// Patches one after the other, where rows are too short to be sums of their own.
    patches: Aligned<T>,
    chunks: Vec<Chunk<T>>,
}

impl<'a, T: Real> GradW<'a, T> {
    fn new(s: &'a Sizes, x: &'a Loader<'a, T>, dy: &'a GradLoader<'a, T>) -> Self {
        let blocks = Blocks::of(s);
        let window = window(s, x, blocks.height);
        GradW { s, dy, blocks, window, dz: Aligned::default(), patches: Aligned::default(), chunks: Vec::new() }
    }

    /// Adds what `images` give to the panel `dw`.
    #[inline(always)]
    fn add<V: Vector<T>>(&mut self, images: Range<usize>, dw: &mut [T]) {
        let GradW { s, dy, blocks, window, dz, patches, chunks } = self;
        let (o_row, stride, d) = (panel_row(s.o), s.geo.stride[1], s.geo.dilation[1]);
        // The taps of a row lie side by side where they touch.
        let (parts, k) = if d == 1 { (1, s.kw * s.c) } else { (s.kw, s.c) };
        let copies = s.ow < SHORT;
        for block in blocks.through(s, images) {
            dz.lengthen(block.len() * s.ow * o_row);
            dy.load::<V>(block.start * s.ow, block.len() * s.ow, dz, o_row);
            if copies {
                patches.lengthen(block.len() * s.ow * k);
            }
            let ahead = dy.ahead(block.start * s.ow, block.len() * s.ow);
            for u in 0..s.kh {
                for v in 0..parts {
                    chunks.clear();
                    let mut copied = 0;
                    for (i, row) in block.clone().enumerate() {
                        let Some(h) = s.row_under(row % s.oh, u) else { continue };
                        let a = window.row::<V>(row / s.oh * s.h + h).wrapping_add(v * d * s.c);
                        let b = dz[i * s.ow * o_row..].as_ptr();
                        if copies {
                            let of_row = &mut patches[copied..][..s.ow * k];
                            copied += of_row.len();
                            // SAFETY: every patch lies inside its padded row.
                            unsafe { copy_patches(a, stride * s.c, k, of_row) };
                            match chunks.last_mut() {
                                Some(last) if last.b.wrapping_add(last.k * o_row) == b => last.k += s.ow,
                                _ => chunks.push(Chunk { a: of_row.as_ptr(), b, k: s.ow }),
                            }
                        } else {
                            chunks.push(Chunk { a, b, k: s.ow });
                        }
                    }
                    let product = Product {
                        rows: k,
                        columns: s.o,
                        a_row: 1,
                        a_step: if copies { k } else { stride * s.c },
                        b_row: o_row,
                        start: Start::Output,
                        out: dw[(u * s.kw + v) * s.c * o_row..].as_mut_ptr(),
                        out_row: o_row,
                        rectifier: Rectifier::Identity,
                    };
                    let reads = ahead.map(|stretch| stretch.part(u * parts + v, s.kh * parts));
                    let ahead = Ahead::new(product.steps::<V>(block.len() * s.ow), reads, []);
                    // SAFETY: every patch lies inside its padded rows, which the window holds for the whole block; `dz`
                    // holds the block, `dw` the rows of the panel.
                    unsafe { product.run_asking::<V, 2, 0>(chunks, ahead) };
                }
            }
        }
    }
}

/// Patches of `k` elements that start `step` apart, one after the other.
///
/// # Safety
/// As many as `patches` has room for must be readable.
#[inline(always)]
unsafe fn copy_patches<T: Real>(from: *const T, step: usize, k: usize, patches: &mut [T]) {
    for (j, patch) in patches.chunks_exact_mut(k).enumerate() {
        // SAFETY: the caller's promise.
        unsafe { patch.as_mut_ptr().copy_from_nonoverlapping(from.add(j * step), k) };
    }
}

/// (conv.2) for the kernels that an image has of its own, straight into them: `dw [O, kh, kw, C]`, a product for each row of
/// taps and block of pixels. Turning [`GradW`]'s panel would take longer than this.
#[inline(always)]
fn grad_own<T: Real, V: Vector<T>>(s: &Sizes, x: &Loader<'_, T>, dy: &GradLoader<'_, T>, image: usize, dw: &mut [T]) {
    let blocks = Blocks::of(s);
    let mut window = window(s, x, blocks.height);
    let (o_row, stride, d) = (panel_row(s.o), s.geo.stride[1], s.geo.dilation[1]);
    let (parts, columns) = if d == 1 { (1, s.kw * s.c) } else { (s.kw, s.c) };
    let (mut dz, mut chunks) = (Aligned::default(), Vec::new());
    for block in blocks.through(s, image..image + 1) {
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
                // SAFETY: as in `GradW`, the other way round; behind its last row the window can still be read.
                unsafe { product.run::<V>(&chunks) };
            }
        }
    }
}

/// (conv.3) row by row, or where images are four pixels wide image by image.
struct GradX<'a, T: Real> {
    s: &'a Sizes,
    window: Window<T, &'a GradLoader<'a, T>>,
    /// For each of the first `stride` pixels, its taps from the last to the first: v, and how far into a padded row of `dy`
    /// the pixel lies that reached it by v.
    taps: Vec<Vec<(usize, usize)>>,
    chunks: Vec<Chunk<T>>,
}

impl<'a, T: Real> GradX<'a, T> {
    fn new(s: &'a Sizes, dy: &'a GradLoader<'a, T>, fours: Option<&Fours>) -> Self {
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
        let height = s.reach().div_ceil(s.geo.stride[0]);
        let height = if fours.is_some() { s.oh.max(height) } else { height };
        GradX {
            s,
            window: Window::new(dy, s.ow, [left, right], height),
            taps: (0..stride.min(s.w)).map(taps_of).collect(),
            chunks: Vec::new(),
        }
    }

    /// The taps of row u that reach pixel `pixel` from the padded row `line` of `dy`, added to the chunks.
    #[inline(always)]
    fn push(&mut self, pixel: usize, u: usize, line: *const T, panel: &[T]) {
        let (s, b_row) = (self.s, panel_row(self.s.c));
        for &(v, at) in &self.taps[pixel] {
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

    /// Image `n` of the input, by `fours`.
    #[inline(always)]
    fn image<V: Vector<T>>(&mut self, n: usize, fours: &Fours, panel: &[T], dx: &mut [T]) {
        let s = self.s;
        let len = s.w * s.c;
        for (place, taps) in fours.0.iter().enumerate() {
            let (line, apart) = taps.lines::<T, V>(&mut self.window, n * s.oh);
            self.chunks.clear();
            self.push(0, taps.u, line, panel);
            let product = Product {
                rows: taps.rows.len() * s.w,
                columns: s.c,
                a_row: s.o,
                a_step: 1,
                b_row: panel_row(s.c),
                start: if place == 0 { Start::Zero } else { Start::Output },
                out: dx[taps.rows.start * len..taps.rows.end * len].as_mut_ptr(),
                out_row: s.c,
                rectifier: Rectifier::Identity,
            };
            // SAFETY: as in `row`; the window holds all rows of an image, evenly.
            unsafe { product.run_fours::<V, 0, 0>(&self.chunks, apart, Ahead::NOTHING) };
        }
    }

    /// Row `row` of the batch's input.
    // ANCHOR: grad_x
    #[inline(always)]
    fn row<V: Vector<T>>(&mut self, row: usize, panel: &[T], dx: &mut [T]) {
        let (s, b_row) = (self.s, panel_row(self.s.c));
        let (n, h) = (row / s.h, row % s.h);
        let stride = s.geo.stride[1];
        for pixel in 0..self.taps.len() {
            self.chunks.clear();
            for u in (0..s.kh).rev() {
                let Some(i) = s.row_above(h, u) else { continue };
                let line = self.window.row::<V>(n * s.oh + i);
                self.push(pixel, u, line, panel);
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
pub(in super::super) struct Backward<'a, T: Real>(pub BackwardTask<'a, T>);

impl<T: Real> Kernel<T> for Backward<'_, T> {
    type Output = Sums;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> Sums {
        let BackwardTask { s, x, dy, w, images, dx, mut dw } = self.0;
        let mut sums = Sums::zeros(s.c);
        if let (Some(dw), true) = (&mut dw, s.per_sample) {
            grad_own::<T, V>(s, x, dy, images.start, dw);
        }
        let mut dw = dw.filter(|_| !s.per_sample).map(|dw| (GradW::new(s, x, dy), dw));
        let fours = Fours::of_input(s).filter(|_| Fours::pay::<T, V>());
        let mut grad_x = dx.map(|dx| (GradX::new(s, dy, fours.as_ref()), dx));
        // Both for a few images at a time: what the one reads the other finds in the cache.
        let (first, row, step) = (images.start * s.h, s.w * s.c, Blocks::of(s).images);
        for start in images.clone().step_by(step) {
            let images = start..(start + step).min(images.end);
            if let Some((grad_w, dw)) = &mut dw {
                grad_w.add::<V>(images.clone(), dw);
            }
            let Some((grad_x, dx)) = &mut grad_x else { continue };
            let rows = if fours.is_some() { s.h } else { 1 };
            for h in (images.start * s.h..images.end * s.h).step_by(rows) {
                let dx = &mut dx[(h - first) * row..][..rows * row];
                match &fours {
                    Some(fours) => grad_x.image::<V>(h / s.h, fours, w, dx),
                    None => grad_x.row::<V>(h, w, dx),
                }
                x.finish::<V>(h * s.w, dx, &mut sums);
            }
        }
        sums
    }
}
