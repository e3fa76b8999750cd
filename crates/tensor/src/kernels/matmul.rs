//! The matrix product, of two matrices or of two batches of matrices.
//! ```text
//! y[i,j]  = Σ_l a[i,l] · b[l,j]       (matmul.1)
//! da[i,l] = Σ_j dy[i,j] · b[l,j]      (matmul.2)
//! db[l,j] = Σ_i a[i,l] · dy[i,j]      (matmul.3)
//! ```

use rayon::prelude::*;

use super::gemm::{Accumulate, Mat, MatMut, gemm_parallel};
use crate::{Error, Real, Result, Shape, Tensor};

/// The gradients of [`matmul`], `da` and `db`; `None` where not wanted.
pub type MatmulGrads<T> = (Option<Tensor<T>>, Option<Tensor<T>>);

/// (matmul.1), for each matrix of a batch on its own.
///
/// # Shapes
/// `a [m,k]`, `b [k,n]` → `[m,n]`; or `a [B,m,k]`, `b [B,k,n]` → `[B,m,n]`.
///
/// # Errors
/// [`Error::Shape`] if the shapes disagree.
pub fn matmul<T: Real>(a: &Tensor<T>, b: &Tensor<T>) -> Result<Tensor<T>> {
    let s = Sizes::check("matmul", a, b)?;
    let [a, b] = [a.as_slice(), b.as_slice()];
    Ok(s.products([s.m, s.n], |i| (s.a(a, i), s.b(b, i))))
}

/// (matmul.2), (matmul.3), as far as `want` (a, b) asks for them.
///
/// # Shapes
/// As [`matmul`]; `dy` as its result. `da` as `a`, `db` as `b`.
///
/// # Errors
/// As [`matmul`], and if `dy` has not the shape of the result.
pub fn matmul_backward<T: Real>(
    a: &Tensor<T>,
    b: &Tensor<T>,
    dy: &Tensor<T>,
    [want_a, want_b]: [bool; 2],
) -> Result<MatmulGrads<T>> {
    const OP: &str = "matmul_backward";
    let s = Sizes::check(OP, a, b)?;
    let expected = s.shape([s.m, s.n]);
    if *dy.shape() != expected {
        return Err(Error::shape(OP, "dy", format!("{expected:?}"), dy.shape()));
    }
    let [a, b, dy] = [a.as_slice(), b.as_slice(), dy.as_slice()];
    let da = want_a.then(|| s.products([s.m, s.k], |i| (s.y(dy, i), s.b(b, i).t())));
    let db = want_b.then(|| s.products([s.k, s.n], |i| (s.a(a, i).t(), s.y(dy, i))));
    Ok((da, db))
}

/// The extents of a product, checked against each other.
struct Sizes {
    /// `None` for plain matrices.
    batch: Option<usize>,
    m: usize,
    k: usize,
    n: usize,
}

impl Sizes {
    fn check<T: Real>(op: &'static str, a: &Tensor<T>, b: &Tensor<T>) -> Result<Self> {
        let (batch, m, k) = match a.shape()[..] {
            [m, k] => (None, m, k),
            [batch, m, k] => (Some(batch), m, k),
            _ => return Err(Error::shape(op, "a", "[m, k] or [B, m, k]", a.shape())),
        };
        match (batch, &b.shape()[..]) {
            (None, &[rows, n]) if rows == k => Ok(Sizes { batch, m, k, n }),
            (Some(batch), &[others, rows, n]) if others == batch && rows == k => {
                Ok(Sizes { batch: Some(batch), m, k, n })
            }
            (None, _) => Err(Error::shape(op, "b", format!("[{k}, n] for a {:?}", a.shape()), b.shape())),
            (Some(batch), _) => {
                Err(Error::shape(op, "b", format!("[{batch}, {k}, n] for a {:?}", a.shape()), b.shape()))
            }
        }
    }

    fn shape(&self, [rows, cols]: [usize; 2]) -> Shape {
        self.batch.map_or_else(|| Shape::from([rows, cols]), |batch| Shape::from([batch, rows, cols]))
    }

    fn a<'a, T>(&self, a: &'a [T], i: usize) -> Mat<'a, T> {
        Mat::row_major(&a[i * self.m * self.k..], self.m, self.k)
    }

    fn b<'a, T>(&self, b: &'a [T], i: usize) -> Mat<'a, T> {
        Mat::row_major(&b[i * self.k * self.n..], self.k, self.n)
    }

    fn y<'a, T>(&self, y: &'a [T], i: usize) -> Mat<'a, T> {
        Mat::row_major(&y[i * self.m * self.n..], self.m, self.n)
    }

    /// The batch of products of the matrices that `factors` gives for each index.
    fn products<'a, T: Real>(
        &self,
        [rows, cols]: [usize; 2],
        factors: impl Fn(usize) -> (Mat<'a, T>, Mat<'a, T>) + Send + Sync,
    ) -> Tensor<T> {
        let mut products = Tensor::zeros(self.shape([rows, cols]));
        if products.is_empty() {
            return products;
        }
        products.as_mut_slice().par_chunks_mut(rows * cols).enumerate().for_each(|(i, product)| {
            let (left, right) = factors(i);
            gemm_parallel(left, right, Accumulate::Add, MatMut::row_major(product, rows, cols));
        });
        products
    }
}
