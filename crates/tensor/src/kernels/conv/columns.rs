//! Every other convolution, by columns (im2col): each output pixel's patch of the input becomes a row of
//! `kh·kw·C/g` elements, and the convolution a product of those rows with the kernels, group by group. The columns
//! are made a few rows of the output at a time, so that they stay in cache, and made again in the backward pass:
//! keeping them would cost `kh·kw` images.

use std::ops::Range;

use super::Sizes;
use crate::Real;
use crate::kernels::gemm::{Accumulate, Mat, MatMut, gemm};

/// Elements of a tile of columns: 128 KiB of f32, inside the second-level cache.
const TILE: usize = 1 << 15;
/// Pixels a tile has at least: each product packs the kernels once, which fewer pixels do not pay back.
const PIXELS: usize = 128;

/// The output rows of a tile, a function of the sizes alone.
pub fn tile_rows(s: &Sizes) -> usize {
    ((TILE / s.taps()).max(PIXELS) / s.ow).max(1)
}

/// `rows` in tiles.
fn tiles(s: &Sizes, rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let step = tile_rows(s);
    rows.clone().step_by(step).map(move |start| start..(start + step).min(rows.end))
}

/// Calls `run(at, from, len)` for every stretch of `len` elements that lies together both in the columns of `rows`
/// (from `at` on) and in the input (from `from` on). What no stretch covers is padding.
#[inline(always)]
fn for_each_stretch(s: &Sizes, group: usize, rows: Range<usize>, mut run: impl FnMut(usize, usize, usize)) {
    let (c, cg) = (s.c, s.cg());
    let ([_, stride], [_, p], [_, d]) = (s.geo.stride, s.geo.padding, s.geo.dilation);
    // Taps v = 0, 1, … lie side by side in the input when they touch and no other group's channels come between.
    let together = d == 1 && s.geo.groups == 1;
    for (tile_row, row) in rows.enumerate() {
        for u in 0..s.kh {
            let Some(h) = s.row_under(row % s.oh, u) else { continue };
            let line = (row / s.oh * s.h + h) * s.w;
            for j in 0..s.ow {
                let tap = ((tile_row * s.ow + j) * s.kh + u) * s.kw;
                if together {
                    let first = p.saturating_sub(j * stride);
                    let end = (s.w + p).saturating_sub(j * stride).min(s.kw);
                    if first < end {
                        run((tap + first) * c, (line + j * stride + first - p) * c, (end - first) * c);
                    }
                } else {
                    for v in 0..s.kw {
                        if let Some(l) = (j * stride + v * d).checked_sub(p).filter(|&l| l < s.w) {
                            run((tap + v) * cg, (line + l) * c + group * cg, cg);
                        }
                    }
                }
            }
        }
    }
}

/// The columns of `group` for output rows `rows`: `[rows·OW, kh·kw·C/g]` in `scratch`.
fn gather<'a, T: Real>(s: &Sizes, x: &[T], group: usize, rows: Range<usize>, scratch: &'a mut Vec<T>) -> Mat<'a, T> {
    let pixels = rows.len() * s.ow;
    scratch.clear();
    scratch.resize(pixels * s.taps(), T::zero());
    for_each_stretch(s, group, rows, |at, from, len| scratch[at..at + len].copy_from_slice(&x[from..from + len]));
    Mat::row_major(scratch, pixels, s.taps())
}

/// The kernels of `group` as a matrix `[O/g, kh·kw·C/g]`.
fn kernels<'a, T>(s: &Sizes, w: &'a [T], group: usize) -> Mat<'a, T> {
    Mat::row_major(&w[group * s.og() * s.taps()..], s.og(), s.taps())
}

/// The output channels of `group` at rows `rows`: `[rows·OW, O/g]`.
fn outputs<'a, T>(s: &Sizes, dy: &'a [T], group: usize, rows: &Range<usize>) -> Mat<'a, T> {
    Mat::strided(&dy[rows.start * s.ow * s.o + group * s.og()..], rows.len() * s.ow, s.og(), s.o)
}

/// (conv.1) `y += cols · Wᵀ` for output rows `rows` of the batch; `y` holds the bias.
// ANCHOR: forward
pub fn forward<T: Real>(s: &Sizes, x: &[T], w: &[T], rows: Range<usize>, y: &mut [T], scratch: &mut Vec<T>) {
    for (rows, y) in tiles(s, rows).zip(y.chunks_mut(tile_rows(s) * s.ow * s.o)) {
        for group in 0..s.geo.groups {
            let y = MatMut::strided(&mut y[group * s.og()..], rows.len() * s.ow, s.og(), s.o);
            let cols = gather(s, x, group, rows.clone(), scratch);
            gemm(cols, kernels(s, w, group).t(), Accumulate::Add, y);
        }
    }
}
// ANCHOR_END: forward

/// (conv.2) `dW += dyᵀ · cols` over output rows `rows` of the batch.
// ANCHOR: grad_w
pub fn grad_w<T: Real>(s: &Sizes, x: &[T], dy: &[T], rows: Range<usize>, dw: &mut [T], scratch: &mut Vec<T>) {
    for rows in tiles(s, rows) {
        for (group, dw) in dw.chunks_exact_mut(s.og() * s.taps()).enumerate() {
            let dw = MatMut::row_major(dw, s.og(), s.taps());
            let cols = gather(s, x, group, rows.clone(), scratch);
            gemm(outputs(s, dy, group, &rows).t(), cols, Accumulate::Add, dw);
        }
    }
}
// ANCHOR_END: grad_w

/// (conv.3) `dcols = dy · W`, scattered and added to `dx`, zero before; `images` are whole images, for patches overlap
/// inside one.
// ANCHOR: grad_x
pub fn grad_x<T: Real>(s: &Sizes, dy: &[T], w: &[T], images: Range<usize>, dx: &mut [T], scratch: &mut Vec<T>) {
    let before = images.start * s.h * s.w * s.c;
    for rows in tiles(s, images.start * s.oh..images.end * s.oh) {
        let pixels = rows.len() * s.ow;
        for group in 0..s.geo.groups {
            scratch.resize(pixels * s.taps(), T::zero());
            let dcols = MatMut::row_major(scratch, pixels, s.taps());
            gemm(outputs(s, dy, group, &rows), kernels(s, w, group), Accumulate::Set, dcols);
            for_each_stretch(s, group, rows.clone(), |at, from, len| {
                let dx = &mut dx[from - before..][..len];
                dx.iter_mut().zip(&scratch[at..at + len]).for_each(|(dx, &dcol)| *dx += dcol);
            });
        }
    }
}
// ANCHOR_END: grad_x
