//! The matrix product, of two matrices or of two batches of matrices.
//! ```text
//! y[i,j]  = Σ_l a[i,l] · b[l,j]       (matmul.1)
//! da[i,l] = Σ_j dy[i,j] · b[l,j]      (matmul.2)
//! db[l,j] = Σ_i a[i,l] · dy[i,j]      (matmul.3)
//! ```

use rayon::prelude::*;

use super::blocks::gemm_parallel;
use super::gemm::{Accumulate, Mat, MatMut};
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
        let mut products = Tensor::any(self.shape([rows, cols]));
        if products.is_empty() {
            return products;
        }
        products.as_mut_slice().par_chunks_mut(rows * cols).enumerate().for_each(|(i, product)| {
            let (left, right) = factors(i);
            gemm_parallel(left, right, Accumulate::Set, MatMut::row_major(product, rows, cols));
        });
        products
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, assert_gradient, assert_same_bits, message};
    use crate::random::randn;
    use crate::reference::matmul as reference;

    #[test]
    fn matrices_are_the_definition() {
        for [m, k, n] in [[1, 1, 1], [2, 3, 5], [300, 20, 33], [0, 3, 2], [2, 0, 3], [2, 3, 0]] {
            let (a, b, dy) = (randn::<f64>([m, k], 1), randn::<f64>([k, n], 2), randn::<f64>([m, n], 3));
            assert_close("y", &matmul(&a, &b).unwrap(), &reference::matmul(&a, &b), 1e-12);
            let (da, db) = matmul_backward(&a, &b, &dy, [true; 2]).unwrap();
            let [ra, rb] = reference::matmul_backward(&a, &b, &dy);
            assert_close("da", &da.unwrap(), &ra, 1e-12);
            assert_close("db", &db.unwrap(), &rb, 1e-12);
        }
    }

    #[test]
    fn a_batch_is_its_matrices() {
        let (a, b) = (randn::<f64>([3, 4, 5], 1), randn::<f64>([3, 5, 2], 2));
        let y = matmul(&a, &b).unwrap();
        assert_eq!(y.shape()[..], [3, 4, 2]);
        for i in 0..3 {
            let [a, b] = [(&a, [4, 5]), (&b, [5, 2])].map(|(t, shape): (&Tensor<f64>, [usize; 2])| {
                let len = shape[0] * shape[1];
                Tensor::from_vec(shape, t.as_slice()[i * len..][..len].to_vec()).unwrap()
            });
            let expected = reference::matmul(&a, &b);
            assert_close(
                "y",
                &Tensor::from_vec([4, 2], y.as_slice()[i * 8..][..8].to_vec()).unwrap(),
                &expected,
                1e-13,
            );
        }
        assert!(matmul(&Tensor::<f64>::zeros([0, 4, 5]), &Tensor::zeros([0, 5, 2])).unwrap().is_empty());
    }

    #[test]
    fn gradients_are_central_differences() {
        for (a, b, y) in [(&[3, 4][..], &[4, 2][..], &[3, 2][..]), (&[2, 3, 4], &[2, 4, 5], &[2, 3, 5])] {
            let (a, b, dy) = (randn::<f64>(a, 1), randn::<f64>(b, 2), randn::<f64>(y, 3));
            let (da, db) = matmul_backward(&a, &b, &dy, [true; 2]).unwrap();
            assert_gradient("da", &a, &da.unwrap(), &dy, |a| matmul(a, &b).unwrap());
            assert_gradient("db", &b, &db.unwrap(), &dy, |b| matmul(&a, b).unwrap());
            assert!(matmul_backward(&a, &b, &dy, [false; 2]).unwrap() == (None, None));
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_threads() {
        let (a, b) = (randn::<f32>([4, 300, 50], 1), randn::<f32>([4, 50, 40], 2));
        assert_same_bits("matmul", || {
            let y = matmul(&a, &b).unwrap();
            let (da, db) = matmul_backward(&a, &b, &y, [true; 2]).unwrap();
            vec![y, da.unwrap(), db.unwrap()]
        });
    }

    #[test]
    fn wrong_shapes_are_errors_with_numbers() {
        let a = Tensor::<f32>::zeros([2, 3]);
        assert_eq!(message(matmul(&a, &a)), "matmul: `b` has shape [2, 3], expected [3, n] for a [2, 3]");
        let batch = Tensor::<f32>::zeros([4, 2, 3]);
        assert!(message(matmul(&batch, &Tensor::zeros([5, 3, 2]))).contains("[4, 3, n]"));
        assert!(message(matmul(&Tensor::zeros([3]), &a)).contains("[B, m, k]"));
        let b = Tensor::zeros([3, 4]);
        assert!(message(matmul_backward(&a, &b, &a, [true; 2])).contains("expected [2, 4]"));
    }
}
