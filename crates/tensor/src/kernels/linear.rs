//! The fully connected layer.
//! ```text
//! y[n,o]  = Σ_i x[n,i] · w[o,i] + b[o]     (linear.1)
//! dx[n,i] = Σ_o dy[n,o] · w[o,i]           (linear.2)
//! dw[o,i] = Σ_n dy[n,o] · x[n,i]           (linear.3)
//! db[o]   = Σ_n dy[n,o]                    (linear.4)
//! ```

use super::gemm::{Accumulate, Mat, MatMut, gemm_parallel};
use super::rows::add_column_sums;
use crate::{Error, Real, Result, Tensor};

/// The gradients of [`linear`]; `None` where not wanted.
#[derive(Clone, Debug)]
pub struct LinearGrads<T: Real> {
    /// The input's, `[N, I]`.
    pub dx: Option<Tensor<T>>,
    /// The weight's, `[O, I]`.
    pub dw: Option<Tensor<T>>,
    /// The bias's, `[O]`.
    pub db: Option<Tensor<T>>,
}

/// (linear.1): x wᵀ + b.
///
/// # Shapes
/// `x [N,I]`, `w [O,I]`, `b [O]` → `[N,O]`.
///
/// # Errors
/// [`Error::Shape`] if the shapes disagree.
pub fn linear<T: Real>(x: &Tensor<T>, w: &Tensor<T>, b: Option<&Tensor<T>>) -> Result<Tensor<T>> {
    const OP: &str = "linear";
    let [n, i, o] = check(OP, x, w)?;
    let mut y = Tensor::zeros([n, o]);
    if let Some(b) = b {
        if b.shape()[..] != [o] {
            return Err(Error::shape(OP, "b", format!("[{o}], one value a row of w"), b.shape()));
        }
        y.as_mut_slice().chunks_exact_mut(o.max(1)).for_each(|y| y.copy_from_slice(b.as_slice()));
    }
    let (x, w) = (Mat::row_major(x.as_slice(), n, i), Mat::row_major(w.as_slice(), o, i));
    gemm_parallel(x, w.t(), Accumulate::Add, MatMut::row_major(y.as_mut_slice(), n, o));
    Ok(y)
}

/// (linear.2) to (linear.4), as far as `want` (x, w, b) asks for them.
///
/// # Shapes
/// As [`linear`]; `dy [N,O]`.
///
/// # Errors
/// As [`linear`], and if `dy` has not the shape of the result.
pub fn linear_backward<T: Real>(
    x: &Tensor<T>,
    w: &Tensor<T>,
    dy: &Tensor<T>,
    [want_x, want_w, want_b]: [bool; 3],
) -> Result<LinearGrads<T>> {
    const OP: &str = "linear_backward";
    let [n, i, o] = check(OP, x, w)?;
    if dy.shape()[..] != [n, o] {
        return Err(Error::shape(OP, "dy", format!("[{n}, {o}]"), dy.shape()));
    }
    let matrix = Mat::row_major(dy.as_slice(), n, o);
    let dx = want_x.then(|| {
        let mut dx = Tensor::zeros([n, i]);
        let w = Mat::row_major(w.as_slice(), o, i);
        gemm_parallel(matrix, w, Accumulate::Add, MatMut::row_major(dx.as_mut_slice(), n, i));
        dx
    });
    let dw = want_w.then(|| {
        let mut dw = Tensor::zeros([o, i]);
        let x = Mat::row_major(x.as_slice(), n, i);
        gemm_parallel(matrix.t(), x, Accumulate::Add, MatMut::row_major(dw.as_mut_slice(), o, i));
        dw
    });
    let db = want_b.then(|| {
        let mut db = vec![0.0; o];
        add_column_sums(dy.as_slice(), &mut db);
        Tensor::from_memory([o], db.into_iter().map(T::of).collect())
    });
    Ok(LinearGrads { dx, dw, db: db.transpose()? })
}

/// N, I and O.
fn check<T: Real>(op: &'static str, x: &Tensor<T>, w: &Tensor<T>) -> Result<[usize; 3]> {
    let [n, i] = x.dims(op, "x")?;
    let [o, columns] = w.dims(op, "w")?;
    if columns == i {
        Ok([n, i, o])
    } else {
        Err(Error::shape(op, "w", format!("[O, {i}] for x {:?}", x.shape()), w.shape()))
    }
}
