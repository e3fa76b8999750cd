//! Every other convolution, by columns (im2col): each output pixel's patch of the input becomes a row of
//! `kh·kw·C/g` elements, and the convolution a product of those rows with the kernels, group by group. The columns
//! are made a few rows of the output at a time, so that they stay in cache, and made again in the backward pass:
//! keeping them would cost `kh·kw` images.

use std::ops::Range;

use rayon::prelude::*;

use super::Sizes;
use super::plan::add;
use crate::Real;
use crate::kernels::gemm::{Accumulate, Mat, MatMut, gemm};
use crate::parallel::{PIECES, sum_pieces};

/// Elements of a tile of columns: 128 KiB of f32, inside the second-level cache.
const TILE: usize = 1 << 15;
/// Pixels a tile has at least: each product packs the kernels once, which fewer pixels do not pay back.
const PIXELS: usize = 128;
/// Elements all partial `dW` together may have.
const PARTIALS: usize = 1 << 24;

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

/// (conv.1) for output rows `rows` of the batch: the bias, then `y += cols · Wᵀ`.
pub fn forward<T: Real>(s: &Sizes, x: &[T], w: &[T], b: Option<&[T]>, rows: Range<usize>, y: &mut [T]) {
    let mut scratch = Vec::new();
    let (mut start, mut y) = (rows.start, y);
    while start < rows.end {
        // Rows that share their kernels: all, or those of one image.
        let (n, end) = if s.per_sample { (start / s.oh, (start / s.oh + 1) * s.oh) } else { (0, rows.end) };
        let end = end.min(rows.end);
        let (part, rest) = std::mem::take(&mut y).split_at_mut((end - start) * s.ow * s.o);
        match b {
            Some(b) => part.chunks_exact_mut(s.o).for_each(|y| y.copy_from_slice(&b[n * s.o..][..s.o])),
            None => part.fill(T::zero()),
        }
        forward_rows(s, x, &w[n * s.weights()..][..s.weights()], start..end, part, &mut scratch);
        (start, y) = (end, rest);
    }
}

/// `y += cols · Wᵀ` for rows that share their kernels.
// ANCHOR: forward
fn forward_rows<T: Real>(s: &Sizes, x: &[T], w: &[T], rows: Range<usize>, y: &mut [T], scratch: &mut Vec<T>) {
    for (rows, y) in tiles(s, rows).zip(y.chunks_mut(tile_rows(s) * s.ow * s.o)) {
        for group in 0..s.geo.groups {
            let y = MatMut::strided(&mut y[group * s.og()..], rows.len() * s.ow, s.og(), s.o);
            let cols = gather(s, x, group, rows.clone(), scratch);
            gemm(cols, kernels(s, w, group).t(), Accumulate::Add, y);
        }
    }
}
// ANCHOR_END: forward

/// (conv.2): `dW` in memory order, summed over the batch or one for each sample.
pub fn grad_w<T: Real>(s: &Sizes, x: &[T], dy: &[T]) -> Vec<T> {
    if s.per_sample {
        let mut dw = vec![T::zero(); s.n * s.weights()];
        dw.par_chunks_mut(s.weights())
            .enumerate()
            .for_each_init(Vec::new, |scratch, (n, dw)| grad_w_rows(s, x, dy, n * s.oh..(n + 1) * s.oh, dw, scratch));
        return dw;
    }
    let rows = s.n * s.oh;
    let at_most = (PARTIALS / s.weights()).clamp(4, PIECES).min(rows);
    let parts = (rows * s.ow).div_ceil(PIXELS).min(at_most);
    let sum = |part: Range<usize>| {
        let mut dw = vec![T::zero(); s.weights()];
        grad_w_rows(s, x, dy, rows * part.start / parts..rows * part.end / parts, &mut dw, &mut Vec::new());
        dw
    };
    sum_pieces(parts, sum, |sum, part| add(sum, &part)).unwrap_or_else(|| vec![T::zero(); s.weights()])
}

/// `dW += dyᵀ · cols` over output rows `rows` of the batch.
// ANCHOR: grad_w
fn grad_w_rows<T: Real>(s: &Sizes, x: &[T], dy: &[T], rows: Range<usize>, dw: &mut [T], scratch: &mut Vec<T>) {
    for rows in tiles(s, rows) {
        for (group, dw) in dw.chunks_exact_mut(s.og() * s.taps()).enumerate() {
            let dw = MatMut::row_major(dw, s.og(), s.taps());
            let cols = gather(s, x, group, rows.clone(), scratch);
            gemm(outputs(s, dy, group, &rows).t(), cols, Accumulate::Add, dw);
        }
    }
}
// ANCHOR_END: grad_w

/// (conv.3) into `dx`, zero before. Patches overlap inside an image, so a task has an image.
pub fn grad_x<T: Real>(s: &Sizes, dy: &[T], w: &[T], dx: &mut [T]) {
    dx.par_chunks_mut(s.h * s.w * s.c).enumerate().for_each_init(Vec::new, |scratch, (n, dx)| {
        let w = &w[if s.per_sample { n } else { 0 } * s.weights()..][..s.weights()];
        grad_x_image(s, dy, w, n, dx, scratch);
    });
}

/// `dcols = dy · W`, scattered and added to `dx`.
// ANCHOR: grad_x
fn grad_x_image<T: Real>(s: &Sizes, dy: &[T], w: &[T], image: usize, dx: &mut [T], scratch: &mut Vec<T>) {
    let before = image * s.h * s.w * s.c;
    for rows in tiles(s, image * s.oh..(image + 1) * s.oh) {
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

/// `db[o] = Σ_{n,i,j} dy[n,o,i,j]`, or one for each sample without the sum over `n`.
pub fn grad_b<T: Real>(s: &Sizes, dy: &[T]) -> Vec<T> {
    let of_sample = |n: usize| {
        let mut sum = vec![T::zero(); s.o];
        dy[n * s.oh * s.ow * s.o..][..s.oh * s.ow * s.o].chunks_exact(s.o).for_each(|dy| add(&mut sum, dy));
        sum
    };
    if s.per_sample {
        return (0..s.n).into_par_iter().flat_map_iter(of_sample).collect();
    }
    let of_samples = |samples: Range<usize>| {
        let mut sum = vec![T::zero(); s.o];
        samples.for_each(|n| add(&mut sum, &of_sample(n)));
        sum
    };
    sum_pieces(s.n, of_samples, |sum, part| add(sum, &part)).unwrap_or_else(|| vec![T::zero(); s.o])
}
