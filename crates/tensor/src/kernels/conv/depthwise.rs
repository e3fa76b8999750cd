//! One kernel a channel (groups = C = O): too little arithmetic for a product, so the taps are added up directly.
//! A tap is a vector over the channels; the rows and columns it reaches are known before the loops, which have no
//! branch for the border.

use std::ops::Range;

use super::Sizes;
use crate::Real;

/// Kernels `[C, kh·kw]` turned to `[kh·kw, C]`, for each sample that has its own: a tap becomes a vector.
pub fn tap_major<T: Real>(s: &Sizes, w: &[T]) -> Vec<T> {
    transpose_each(w, s.c, s.kh * s.kw)
}

/// Gradients `[kh·kw, C]` turned back to `[C, kh·kw]`.
pub fn channel_major<T: Real>(s: &Sizes, dw: &[T]) -> Vec<T> {
    transpose_each(dw, s.kh * s.kw, s.c)
}

fn transpose_each<T: Real>(matrices: &[T], rows: usize, cols: usize) -> Vec<T> {
    let transposed = |m: &[T]| (0..rows * cols).map(|i| m[i % rows * cols + i / rows]).collect::<Vec<_>>();
    matrices.chunks_exact(rows * cols).flat_map(transposed).collect()
}

/// The columns of the output that tap `(u, v)` reaches, for every `v`, and where the first one lies in an input row.
fn reaches(s: &Sizes) -> Vec<(Range<usize>, usize)> {
    let ([_, stride], [_, p], [_, d]) = (s.geo.stride, s.geo.padding, s.geo.dilation);
    let reach = |v| {
        let columns = s.columns_reached_by(v);
        let first = if columns.is_empty() { 0 } else { columns.start * stride + v * d - p };
        (columns, first)
    };
    (0..s.kw).map(reach).collect()
}

/// (conv.1) for output rows `rows` of the batch; `y` holds the bias. `w` is tap-major.
pub fn forward<T: Real>(s: &Sizes, x: &[T], w: &[T], rows: Range<usize>, y: &mut [T]) {
    let (c, step, reaches) = (s.c, s.geo.stride[1] * s.c, reaches(s));
    for (row, y) in rows.zip(y.chunks_exact_mut(s.ow * c)) {
        for u in 0..s.kh {
            let Some(h) = s.row_under(row % s.oh, u) else { continue };
            let x = &x[(row / s.oh * s.h + h) * s.w * c..][..s.w * c];
            for (v, (columns, first)) in reaches.iter().enumerate() {
                let w = &w[(u * s.kw + v) * c..][..c];
                let y = y[columns.start * c..columns.end * c].chunks_exact_mut(c);
                for (y, x) in y.zip(x[first * c..].chunks(step)) {
                    multiply_add(y, &x[..c], w);
                }
            }
        }
    }
}

/// (conv.2) added to the tap-major `dw`, over output rows `rows` of the batch.
pub fn grad_w<T: Real>(s: &Sizes, x: &[T], dy: &[T], rows: Range<usize>, dw: &mut [T]) {
    let (c, step, reaches) = (s.c, s.geo.stride[1] * s.c, reaches(s));
    for row in rows {
        let dy = &dy[row * s.ow * c..][..s.ow * c];
        for u in 0..s.kh {
            let Some(h) = s.row_under(row % s.oh, u) else { continue };
            let x = &x[(row / s.oh * s.h + h) * s.w * c..][..s.w * c];
            for (v, (columns, first)) in reaches.iter().enumerate() {
                let dw = &mut dw[(u * s.kw + v) * c..][..c];
                let dy = dy[columns.start * c..columns.end * c].chunks_exact(c);
                for (dy, x) in dy.zip(x[first * c..].chunks(step)) {
                    multiply_add(dw, &x[..c], dy);
                }
            }
        }
    }
}

/// (conv.3) added to `dx`, zero before, for input rows `rows` of the batch: each row gathers from the output rows that
/// read it, so no two tasks write the same element. `w` is tap-major.
pub fn grad_x<T: Real>(s: &Sizes, dy: &[T], w: &[T], rows: Range<usize>, dx: &mut [T]) {
    let (c, step, reaches) = (s.c, s.geo.stride[1] * s.c, reaches(s));
    for (row, dx) in rows.zip(dx.chunks_exact_mut(s.w * c)) {
        for u in 0..s.kh {
            let Some(i) = s.row_above(row % s.h, u) else { continue };
            let dy = &dy[(row / s.h * s.oh + i) * s.ow * c..][..s.ow * c];
            for (v, (columns, first)) in reaches.iter().enumerate() {
                let w = &w[(u * s.kw + v) * c..][..c];
                let dy = dy[columns.start * c..columns.end * c].chunks_exact(c);
                for (dy, dx) in dy.zip(dx[first * c..].chunks_mut(step)) {
                    multiply_add(&mut dx[..c], dy, w);
                }
            }
        }
    }
}

/// `sum += a ⊙ b`: the innermost loop, over the channels.
#[inline(always)]
fn multiply_add<T: Real>(sum: &mut [T], a: &[T], b: &[T]) {
    for ((sum, &a), &b) in sum.iter_mut().zip(a).zip(b) {
        *sum += a * b;
    }
}
