//! Matrix products over strided views: the safe face of [`Real::raw_gemm`].
//!
//! A view is a slice with extents and strides, checked once when it is made; transposition swaps them and copies
//! nothing. A product of two views therefore never leaves the slices it was given.

use rayon::prelude::*;

use crate::Real;

/// Products below this many multiply-adds are not worth a second thread.
const SERIAL: usize = 1 << 16;
/// Rows of `C` a task of [`gemm_parallel`] computes: fixed, so that the bits do not depend on the number of threads.
const ROWS: usize = 128;

/// A matrix to read: `rows × cols` elements of a slice, element `(i, j)` at `i·row_stride + j·col_stride`.
#[derive(Clone, Copy)]
pub struct Mat<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// A matrix to write: row-major, rows `row_stride ≥ cols` elements apart.
pub struct MatMut<'a, T> {
    data: &'a mut [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

/// What happens to the old values of `C`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulate {
    /// `C = A·B`; the old values are never read.
    Set,
    /// `C += A·B`.
    Add,
}

/// Whether the last element of `rows × cols`, rows `row_stride` apart, lies inside `len` elements.
fn fits(len: usize, rows: usize, cols: usize, row_stride: usize) -> bool {
    let end = |rows: usize| (rows - 1).checked_mul(row_stride)?.checked_add(cols);
    rows == 0 || cols == 0 || end(rows).is_some_and(|end| end <= len)
}

impl<'a, T> Mat<'a, T> {
    /// `rows × cols` elements, row after row.
    ///
    /// # Panics
    /// If `data` is shorter.
    pub fn row_major(data: &'a [T], rows: usize, cols: usize) -> Self {
        Mat::strided(data, rows, cols, cols)
    }

    /// `rows × cols` elements, the rows `row_stride` elements apart: some columns of a wider matrix.
    ///
    /// # Panics
    /// If `data` ends before the last element.
    pub fn strided(data: &'a [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(
            fits(data.len(), rows, cols, row_stride),
            "matrix {rows}x{cols}, rows {row_stride} apart, in {} elements",
            data.len()
        );
        Mat { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose, without a copy.
    #[must_use]
    pub fn t(self) -> Self {
        let Mat { data, rows, cols, row_stride, col_stride } = self;
        Mat { data, rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride }
    }

    /// At most `count` rows from row `start` on.
    fn some_rows(self, start: usize, count: usize) -> Self {
        let rows = count.min(self.rows - start);
        Mat { data: self.data.get(start * self.row_stride..).unwrap_or(&[]), rows, ..self }
    }
}

impl<'a, T> MatMut<'a, T> {
    /// `rows × cols` elements, row after row.
    ///
    /// # Panics
    /// If `data` is shorter.
    pub fn row_major(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        MatMut::strided(data, rows, cols, cols)
    }

    /// `rows × cols` elements, the rows `row_stride ≥ cols` elements apart: some columns of a wider matrix.
    ///
    /// # Panics
    /// If rows overlap or `data` ends before the last element.
    pub fn strided(data: &'a mut [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(
            row_stride >= cols && fits(data.len(), rows, cols, row_stride),
            "matrix {rows}x{cols}, rows {row_stride} apart, in {} elements",
            data.len()
        );
        MatMut { data, rows, cols, row_stride }
    }
}

fn check_extents<T>(a: &Mat<'_, T>, b: &Mat<'_, T>, c: &MatMut<'_, T>) {
    assert!(
        a.cols == b.rows && a.rows == c.rows && b.cols == c.cols,
        "product {}x{} · {}x{} -> {}x{}",
        a.rows,
        a.cols,
        b.rows,
        b.cols,
        c.rows,
        c.cols
    );
}

/// `C = A·B` or `C += A·B` on the calling thread, `A [m,k]`, `B [k,n]`, `C [m,n]`.
///
/// # Panics
/// If the extents do not match: a mistake of the caller, who has checked the shapes of its tensors before.
#[allow(unsafe_code, reason = "the one call of the raw kernel")]
pub fn gemm<T: Real>(a: Mat<'_, T>, b: Mat<'_, T>, acc: Accumulate, c: MatMut<'_, T>) {
    check_extents(&a, &b, &c);
    let beta = match acc {
        Accumulate::Set => T::zero(),
        Accumulate::Add => T::one(),
    };
    let read = |m: &Mat<'_, T>| (m.data.as_ptr(), m.row_stride as isize, m.col_stride as isize);
    // SAFETY: the constructors checked that the last element, hence every element, of each matrix lies in its slice;
    // the rows of `c` do not overlap, and being borrowed mutably `c` overlaps neither `a` nor `b`.
    unsafe {
        T::raw_gemm(
            [a.rows, a.cols, b.cols],
            T::one(),
            read(&a),
            read(&b),
            beta,
            (c.data.as_mut_ptr(), c.row_stride as isize, 1),
        );
    }
}

/// [`gemm`] with fixed blocks of rows of `C` as rayon tasks; small products stay on the calling thread. The same bits
/// with any number of threads.
///
/// # Panics
/// As [`gemm`].
pub fn gemm_parallel<T: Real>(a: Mat<'_, T>, b: Mat<'_, T>, acc: Accumulate, c: MatMut<'_, T>) {
    check_extents(&a, &b, &c);
    let work = a.rows.saturating_mul(a.cols).saturating_mul(b.cols);
    if a.rows <= ROWS || work < SERIAL {
        return gemm(a, b, acc, c);
    }
    let MatMut { data, rows, cols, row_stride } = c;
    // The slice may go on behind the last row; the matrix does not.
    let data = &mut data[..(rows - 1) * row_stride + cols];
    data.par_chunks_mut(ROWS * row_stride).enumerate().for_each(|(block, c)| {
        let a = a.some_rows(block * ROWS, ROWS);
        gemm(a, b, acc, MatMut::strided(c, a.rows, cols, row_stride));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::randn;

    fn naive(a: &[f64], b: &[f64], [m, k, n]: [usize; 3]) -> Vec<f64> {
        let mut c = vec![0.0; m * n];
        for i in 0..m {
            for j in 0..n {
                c[i * n + j] = (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum();
            }
        }
        c
    }

    fn transposed(a: &[f64], rows: usize, cols: usize) -> Vec<f64> {
        (0..rows * cols).map(|i| a[i % rows * cols + i / rows]).collect()
    }

    fn close(a: &[f64], b: &[f64]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12)
    }

    #[test]
    fn a_product_is_the_sum_of_products() {
        for [m, k, n] in [[1, 1, 1], [3, 5, 2], [17, 4, 9], [300, 20, 33], [2, 0, 3]] {
            let (a, b) = (randn::<f64>([m * k], 1).to_vec(), randn::<f64>([k * n], 2).to_vec());
            let expected = naive(&a, &b, [m, k, n]);
            let mut c = vec![f64::NAN; m * n];
            gemm(Mat::row_major(&a, m, k), Mat::row_major(&b, k, n), Accumulate::Set, MatMut::row_major(&mut c, m, n));
            assert!(close(&c, &expected));
            let (at, bt) = (transposed(&a, m, k), transposed(&b, k, n));
            c.fill(f64::NAN);
            let (at, bt) = (Mat::row_major(&at, k, m).t(), Mat::row_major(&bt, n, k).t());
            gemm_parallel(at, bt, Accumulate::Set, MatMut::row_major(&mut c, m, n));
            assert!(close(&c, &expected));
            gemm_parallel(at, bt, Accumulate::Add, MatMut::row_major(&mut c, m, n));
            assert!(close(&c, &expected.iter().map(|v| 2.0 * v).collect::<Vec<_>>()));
        }
    }

    #[test]
    fn columns_of_a_wider_matrix_leave_the_others_alone() {
        let (m, k, n, wide) = (300, 20, 8, 11);
        let (a, b) = (randn::<f64>([m * k], 1).to_vec(), randn::<f64>([k * n], 2).to_vec());
        let expected = naive(&a, &b, [m, k, n]);
        let mut c = vec![7.0; m * wide];
        let columns = MatMut::strided(&mut c[2..], m, n, wide);
        gemm_parallel(Mat::row_major(&a, m, k), Mat::row_major(&b, k, n), Accumulate::Set, columns);
        for (c, expected) in c.chunks(wide).zip(expected.chunks(n)) {
            assert!(close(&c[2..2 + n], expected));
            assert!(c[..2].iter().chain(&c[2 + n..]).all(|&v| v == 7.0));
        }
    }

    #[test]
    #[should_panic(expected = "matrix 3x4")]
    fn a_matrix_beyond_its_slice_is_refused() {
        Mat::row_major(&[0.0; 11], 3, 4);
    }

    #[test]
    #[should_panic(expected = "product 2x3 · 2x3 -> 2x3")]
    fn extents_that_do_not_match_are_refused() {
        let (a, mut c) = ([0.0f32; 6], [0.0f32; 6]);
        gemm(Mat::row_major(&a, 2, 3), Mat::row_major(&a, 2, 3), Accumulate::Set, MatMut::row_major(&mut c, 2, 3));
    }
}
