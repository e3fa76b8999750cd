//! Matrix products over strided views: the safe face of [`Real::raw_gemm`].
//!
//! A view is a slice with extents and strides, checked once when it is made; transposition swaps them and copies
//! nothing. A product of two views therefore never leaves the slices it was given.

use crate::Real;

/// A matrix to read: `rows × cols` elements of a slice, element `(i, j)` at `i·row_stride + j·col_stride`.
#[derive(Clone, Copy)]
pub struct Mat<'a, T> {
    pub(super) data: &'a [T],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

/// A matrix to write: row-major, rows `row_stride ≥ cols` elements apart.
pub struct MatMut<'a, T> {
    pub(super) data: &'a mut [T],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
}

/// What the product is added to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Accumulate<'a, T> {
    /// `C = A·B`; the old values are never read.
    Set,
    /// `C = A·B + b`, the same `b [n]` in every row; the old values are never read.
    Bias(&'a [T]),
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

/// That the extents of a product match.
pub(super) fn check_extents<T>(a: &Mat<'_, T>, b: &Mat<'_, T>, c: &MatMut<'_, T>) {
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

/// `C = A·B`, or what `acc` makes of it, on the calling thread, `A [m,k]`, `B [k,n]`, `C [m,n]`.
///
/// # Panics
/// If the extents do not match: a mistake of the caller, who has checked the shapes of its tensors before.
#[allow(unsafe_code, reason = "the one call of the raw kernel")]
pub fn gemm<T: Real>(a: Mat<'_, T>, b: Mat<'_, T>, acc: Accumulate<'_, T>, c: MatMut<'_, T>) {
    check_extents(&a, &b, &c);
    let beta = match acc {
        Accumulate::Set => T::zero(),
        Accumulate::Bias(bias) => {
            c.data.chunks_mut(c.row_stride.max(1)).take(c.rows).for_each(|c| c[..bias.len()].copy_from_slice(bias));
            T::one()
        }
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
            let (at, bt) = (Mat::row_major(&at, k, m).t(), Mat::row_major(&bt, n, k).t());
            gemm(at, bt, Accumulate::Add, MatMut::row_major(&mut c, m, n));
            assert!(close(&c, &expected.iter().map(|v| 2.0 * v).collect::<Vec<_>>()));
            let bias = randn::<f64>([n], 3).to_vec();
            gemm(at, bt, Accumulate::Bias(&bias), MatMut::row_major(&mut c, m, n));
            assert!(close(&c, &expected.iter().zip(bias.iter().cycle()).map(|(v, b)| v + b).collect::<Vec<_>>()));
        }
    }

    #[test]
    fn columns_of_a_wider_matrix_leave_the_others_alone() {
        let (m, k, n, wide) = (300, 20, 8, 11);
        let (a, b) = (randn::<f64>([m * k], 1).to_vec(), randn::<f64>([k * n], 2).to_vec());
        let expected = naive(&a, &b, [m, k, n]);
        let mut c = vec![7.0; m * wide];
        let columns = MatMut::strided(&mut c[2..], m, n, wide);
        gemm(Mat::row_major(&a, m, k), Mat::row_major(&b, k, n), Accumulate::Set, columns);
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
