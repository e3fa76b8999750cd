//! Softmax over the rows of `x [N,m]`, (softmax.1) and (softmax.2) of [`kernels::softmax`](crate::kernels::softmax).

use crate::{Real, Tensor};

/// y, (softmax.1). Overflows for large x/τ, which the kernel does not.
///
/// # Panics
/// If the rank is not 2.
// ANCHOR: softmax
pub fn softmax<T: Real>(x: &Tensor<T>, temperature: f64) -> Tensor<T> {
    let e = |n: usize, j: usize| (x.view()[[n, j]] / T::of(temperature)).exp();
    Tensor::from_fn(x.shape(), |i| e(i[0], i[1]) / (0..x.shape()[1]).map(|k| e(i[0], k)).sum())
}
// ANCHOR_END: softmax

/// dx, (softmax.2).
///
/// # Panics
/// If the shapes do not fit.
pub fn softmax_backward<T: Real>(y: &Tensor<T>, dy: &Tensor<T>, temperature: f64) -> Tensor<T> {
    Tensor::from_fn(y.shape(), |i| {
        let mean: T = (0..y.shape()[1]).map(|k| dy.view()[[i[0], k]] * y.view()[[i[0], k]]).sum();
        y.view()[i] * (dy.view()[i] - mean) / T::of(temperature)
    })
}
