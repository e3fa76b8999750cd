//! 1x1 kernels with stride 1 and no padding: channels last, an image *is* the matrix pixels × channels, so the
//! convolution of the whole batch is one tall product and nothing is gathered.

use std::ops::Range;

use super::Sizes;
use crate::Real;
use crate::kernels::gemm::{Accumulate, Mat, MatMut, gemm};

/// The elements of image rows `rows`, counted over the batch, with `width` elements a row.
fn part<'a, T>(data: &'a [T], rows: &Range<usize>, width: usize) -> &'a [T] {
    &data[rows.start * width..rows.end * width]
}

/// (conv.1) `y [pixels,O] += x [pixels,C] · Wᵀ` for output rows `rows`; `y` holds the bias.
// ANCHOR: forward
pub fn forward<T: Real>(s: &Sizes, x: &[T], w: &[T], rows: Range<usize>, y: &mut [T]) {
    let (pixels, x) = (rows.len() * s.ow, part(x, &rows, s.w * s.c));
    let (x, w) = (Mat::row_major(x, pixels, s.c), Mat::row_major(w, s.o, s.c));
    gemm(x, w.t(), Accumulate::Add, MatMut::row_major(y, pixels, s.o));
}
// ANCHOR_END: forward

/// (conv.2) `dW += dyᵀ · x` over output rows `rows`.
pub fn grad_w<T: Real>(s: &Sizes, x: &[T], dy: &[T], rows: Range<usize>, dw: &mut [T]) {
    let pixels = rows.len() * s.ow;
    let x = Mat::row_major(part(x, &rows, s.w * s.c), pixels, s.c);
    let dy = Mat::row_major(part(dy, &rows, s.ow * s.o), pixels, s.o);
    gemm(dy.t(), x, Accumulate::Add, MatMut::row_major(dw, s.o, s.c));
}

/// (conv.3) `dx = dy · W` for input rows `rows`.
pub fn grad_x<T: Real>(s: &Sizes, dy: &[T], w: &[T], rows: Range<usize>, dx: &mut [T]) {
    let (pixels, dy) = (rows.len() * s.w, part(dy, &rows, s.ow * s.o));
    let (dy, w) = (Mat::row_major(dy, pixels, s.o), Mat::row_major(w, s.o, s.c));
    gemm(dy, w, Accumulate::Set, MatMut::row_major(dx, pixels, s.c));
}
