//! Products with a long side, in parallel: the kernels of every sample, made from a few coefficients each, and the sums over
//! all of them that their gradients are.
//! ```text
//! C[i,j] = Σ_k A[i,k] · B[k,j]
//! ```
//! A block of `C` is a task. It goes down the sum a block of `A` and of `B` at a time; both are copied together, `B` as strips
//! of a panel, so that whatever their strides were the tile finds them side by side in the cache. Where `C` is
//! small and the sum long, pieces of the sum are the tasks. How it is all cut depends on the extents alone: the same bits with
//! any number of threads.

#![allow(unsafe_code, reason = "tasks write disjoint blocks of one matrix, tiles take raw pointers")]

use std::ops::Range;

use super::gemm::{Accumulate, Mat, MatMut, check_extents, gemm};
use super::pending::Rectifier;
use super::tile::{Chunk, Product, Start, panel, panel_row};
use super::transpose::transpose;
use crate::parallel::{PIECES, ranges, run_tasks};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Real, Tensor};

/// Products below this many multiply-adds are left to [`gemm`].
const SERIAL: usize = 1 << 16;
/// Rows and columns of a block of `C`.
const BLOCK: [usize; 2] = [128, 512];
/// Terms that are summed at a time, in a block of all columns and in one of few.
const DEPTH: [usize; 2] = [128, 512];
/// Rows of `A` that go over a panel together, and columns of a strip of it: both stay in the first cache.
const STRIP: [usize; 2] = [16, 32];

/// [`gemm`] on all threads.
///
/// # Panics
/// As [`gemm`].
pub fn gemm_parallel<T: Real>(a: Mat<'_, T>, b: Mat<'_, T>, acc: Accumulate<'_, T>, c: MatMut<'_, T>) {
    check_extents(&a, &b, &c);
    let [m, k, n] = [a.rows, a.cols, b.cols];
    let work = m.saturating_mul(k).saturating_mul(n);
    if work < SERIAL {
        return gemm(a, b, acc, c);
    }
    let blocks = m.div_ceil(BLOCK[0]) * n.div_ceil(BLOCK[1]);
    let pieces = if blocks < PIECES { (k / DEPTH[0]).clamp(1, PIECES) } else { 1 };
    if pieces == 1 {
        let bias = match acc {
            Accumulate::Bias(bias) => panel(bias, n),
            _ => panel(&[], 1),
        };
        let start = match acc {
            Accumulate::Set => Start::Zero,
            Accumulate::Bias(_) => Start::Bias(bias.as_ptr()),
            Accumulate::Add => Start::Output,
        };
        return run(vec![(0..k, Target { start, out: c.data.as_mut_ptr(), out_row: c.row_stride })], a, b, work);
    }
    let mut parts = Tensor::<T>::any([pieces, m, n]);
    let outs = parts.as_mut_slice().chunks_exact_mut(m * n);
    let target = |out: &mut [T]| Target { start: Start::Zero, out: out.as_mut_ptr(), out_row: n };
    run(ranges(k, pieces).into_iter().zip(outs.map(target)).collect(), a, b, work);
    for (i, c) in c.data.chunks_mut(c.row_stride).take(m).enumerate() {
        match acc {
            Accumulate::Set => c[..n].fill(T::zero()),
            Accumulate::Bias(bias) => c[..n].copy_from_slice(bias),
            Accumulate::Add => {}
        }
        for part in parts.as_slice().chunks_exact(m * n) {
            c.iter_mut().zip(&part[i * n..][..n]).for_each(|(c, &part)| *c += part);
        }
    }
}

/// Where a product goes.
#[derive(Clone, Copy)]
struct Target<T> {
    start: Start<T>,
    /// Element (i, j) at `i · out_row + j`.
    out: *mut T,
    out_row: usize,
}

/// A block of `C` and the terms of it that are summed.
struct Block<'a, T> {
    a: Mat<'a, T>,
    b: Mat<'a, T>,
    rows: Range<usize>,
    columns: Range<usize>,
    terms: Range<usize>,
    to: Target<T>,
}

// SAFETY: the pointers lead to a matrix of which a block writes its own elements only, and to a bias that none writes.
unsafe impl<T: Real> Send for Block<'_, T> {}

/// The product over some terms each into a target, which must hold `[m, n]`.
fn run<T: Real>(sums: Vec<(Range<usize>, Target<T>)>, a: Mat<'_, T>, b: Mat<'_, T>, work: usize) {
    let mut tasks = Vec::new();
    for (terms, to) in sums {
        for rows in (0..a.rows).step_by(BLOCK[0]).map(|i| i..a.rows.min(i + BLOCK[0])) {
            for columns in (0..b.cols).step_by(BLOCK[1]).map(|j| j..b.cols.min(j + BLOCK[1])) {
                tasks.push(Block { a, b, rows: rows.clone(), columns, terms: terms.clone(), to });
            }
        }
    }
    run_tasks(tasks, work, dispatch);
}

impl<T: Real> Kernel<T> for Block<'_, T> {
    type Output = ();

    // ANCHOR: block
    #[inline(always)]
    fn run<V: Vector<T>>(self) {
        let Block { a, b, rows, columns, terms, to } = self;
        let strip = panel_row(columns.len()).min(STRIP[1]);
        let depth = DEPTH[usize::from(columns.len() <= BLOCK[0])].min(terms.len());
        let mut of_a = Tensor::any([rows.len() * depth]);
        let mut of_b = Tensor::any([columns.len().next_multiple_of(strip) * depth]);
        let (of_a, of_b) = (of_a.as_mut_slice(), of_b.as_mut_slice());
        for first in terms.clone().step_by(depth) {
            let now = first..terms.end.min(first + depth);
            let [a_row, a_step] = together(a, rows.clone(), now.clone(), of_a);
            panel_of(b, now.clone(), columns.clone(), of_b, [strip, depth]);
            for i in (0..rows.len()).step_by(STRIP[0]) {
                for (at, of_b) in of_b.chunks_exact(strip * depth).enumerate() {
                    let j = columns.start + at * strip;
                    let start = match to.start {
                        _ if first > terms.start => Start::Output,
                        Start::Bias(bias) => Start::Bias(bias.wrapping_add(j)),
                        start => start,
                    };
                    let product = Product {
                        rows: STRIP[0].min(rows.len() - i),
                        columns: strip.min(columns.end - j),
                        a_row,
                        a_step,
                        b_row: strip,
                        start,
                        out: to.out.wrapping_add((rows.start + i) * to.out_row + j),
                        out_row: to.out_row,
                        rectifier: Rectifier::Identity,
                    };
                    let chunk = Chunk { a: of_a[i * a_row..].as_ptr(), b: of_b.as_ptr(), k: now.len() };
                    // SAFETY: the copies hold the block, in whole vectors where those are read; the target is as large as `C`.
                    unsafe { product.run::<V>(&[chunk]) };
                }
            }
        }
    }
    // ANCHOR_END: block
}

/// A part of `a` in `to`, in the order in which it lies; returns how far apart rows and terms are there.
#[inline(always)]
fn together<T: Real>(a: Mat<'_, T>, rows: Range<usize>, terms: Range<usize>, to: &mut [T]) -> [usize; 2] {
    let from = &a.data[rows.start * a.row_stride + terms.start * a.col_stride..];
    let (lines, line, far) = if a.col_stride == 1 {
        (rows.len(), terms.len(), a.row_stride)
    } else {
        (terms.len(), rows.len(), a.col_stride)
    };
    for (i, to) in to.chunks_exact_mut(line).take(lines).enumerate() {
        to.copy_from_slice(&from[i * far..][..line]);
    }
    if a.col_stride == 1 { [line, 1] } else { [1, line] }
}

/// A part of `b` as strips of a panel, `strip` columns and at most `depth` terms each.
#[inline(always)]
fn panel_of<T: Real>(
    b: Mat<'_, T>,
    terms: Range<usize>,
    columns: Range<usize>,
    to: &mut [T],
    [strip, depth]: [usize; 2],
) {
    let from = &b.data[terms.start * b.row_stride + columns.start * b.col_stride..];
    if b.col_stride == 1 {
        for i in 0..terms.len() {
            for (j, from) in from[i * b.row_stride..][..columns.len()].chunks(strip).enumerate() {
                to[(j * depth + i) * strip..][..from.len()].copy_from_slice(from);
            }
        }
    } else {
        for (j, to) in to.chunks_exact_mut(strip * depth).enumerate() {
            let columns = strip.min(columns.len() - j * strip);
            transpose(&from[j * strip * b.col_stride..], b.col_stride, [columns, terms.len()], to, strip);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, assert_same_bits};
    use crate::random::randn;
    use crate::reference::matmul::matmul;

    /// `x [rows, columns]`, transposed in memory.
    fn transposed(x: &Tensor<f64>) -> Tensor<f64> {
        let [rows, columns] = x.dims("test", "x").unwrap();
        Tensor::from_fn([columns, rows], |i| x.view()[[i[1], i[0]]])
    }

    fn matrix(x: &Tensor<f64>) -> Mat<'_, f64> {
        let [rows, columns] = x.dims("test", "x").unwrap();
        Mat::row_major(x.as_slice(), rows, columns)
    }

    /// More than a block of rows, of columns and of terms; long sums; and what is left over of each.
    const EXTENTS: [[usize; 3]; 6] =
        [[130, 4, 1100], [3, 5000, 4], [7, 300, 70], [300, 33, 20], [1, 1, 70_000], [17, 140, 530]];

    #[test]
    fn every_way_to_lie_in_memory_gives_the_product() {
        for [m, k, n] in EXTENTS {
            let (a, b) = (randn::<f64>([m, k], 1), randn::<f64>([k, n], 2));
            let (at, bt) = (transposed(&a), transposed(&b));
            let (product, bias) = (matmul(&a, &b), randn::<f64>([n], 3));
            let mut twice = product.clone();
            twice.as_mut_slice().iter_mut().for_each(|c| *c *= 2.0);
            let with_bias = Tensor::from_fn([m, n], |i| product.view()[i] + bias.as_slice()[i[1]]);
            for a in [matrix(&a), matrix(&at).t()] {
                for b in [matrix(&b), matrix(&bt).t()] {
                    let mut c = Tensor::full([m, n], f64::NAN);
                    let mut run = |acc, expected: &Tensor<f64>| {
                        gemm_parallel(a, b, acc, MatMut::row_major(c.as_mut_slice(), m, n));
                        assert_close("C", &c, expected, 1e-12);
                    };
                    run(Accumulate::Set, &product);
                    run(Accumulate::Add, &twice);
                    run(Accumulate::Bias(bias.as_slice()), &with_bias);
                }
            }
        }
    }

    #[test]
    fn columns_of_a_wider_matrix_leave_the_others_alone() {
        for [m, k, n] in EXTENTS {
            let (a, b, wide) = (randn::<f64>([m, k], 1), randn::<f64>([k, n], 2), n + 3);
            let mut c = vec![7.0; m * wide];
            gemm_parallel(matrix(&a), matrix(&b), Accumulate::Set, MatMut::strided(&mut c[2..], m, n, wide));
            let inner = Tensor::from_fn([m, n], |i| c[i[0] * wide + 2 + i[1]]);
            assert_close("C", &inner, &matmul(&a, &b), 1e-12);
            assert!(c.chunks(wide).all(|c| c[..2].iter().chain(&c[2 + n..]).all(|&v| v == 7.0)));
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_threads() {
        assert_same_bits("products", || {
            EXTENTS
                .map(|[m, k, n]| {
                    let (a, b, mut c) = (randn::<f32>([m, k], 1), randn::<f32>([k, n], 2), Tensor::zeros([m, n]));
                    let (a, b) = (Mat::row_major(a.as_slice(), m, k), Mat::row_major(b.as_slice(), k, n));
                    gemm_parallel(a, b, Accumulate::Set, MatMut::row_major(c.as_mut_slice(), m, n));
                    c
                })
                .into()
        });
    }
}
