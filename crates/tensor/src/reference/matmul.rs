//! The product of two matrices, (matmul.1) to (matmul.3) of [`kernels::matmul`](crate::kernels::matmul).
//!
//! Every function panics on shapes that do not fit.

use crate::{Real, Tensor};

/// y, (matmul.1): `a [m,k]`, `b [k,n]` → `[m,n]`.
///
/// # Panics
/// If the shapes do not fit.
pub fn matmul<T: Real>(a: &Tensor<T>, b: &Tensor<T>) -> Tensor<T> {
    let [m, k, n] = [a.shape()[0], a.shape()[1], b.shape()[1]];
    Tensor::from_fn([m, n], |at| (0..k).map(|l| a.view()[[at[0], l]] * b.view()[[l, at[1]]]).sum())
}

/// `da` and `db`, (matmul.2) and (matmul.3).
///
/// # Panics
/// If the shapes do not fit.
pub fn matmul_backward<T: Real>(a: &Tensor<T>, b: &Tensor<T>, dy: &Tensor<T>) -> [Tensor<T>; 2] {
    let [m, n] = [dy.shape()[0], dy.shape()[1]];
    let da = Tensor::from_fn(a.shape(), |at| (0..n).map(|j| dy.view()[[at[0], j]] * b.view()[[at[1], j]]).sum());
    let db = Tensor::from_fn(b.shape(), |at| (0..m).map(|i| a.view()[[i, at[0]]] * dy.view()[[i, at[1]]]).sum());
    [da, db]
}
