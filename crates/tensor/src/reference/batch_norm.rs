//! Batch normalisation of `x [N,C,H,W]`, equations (bn.1) to (bn.8) of [`kernels::batch_norm`](crate::kernels::batch_norm).
//!
//! Every function panics on shapes that do not fit: the kernels check them, a definition does not.

use crate::{Real, Tensor};

/// Calls `f` with every logical index of `[N,C,H,W]`.
fn for_each<T: Real>(x: &Tensor<T>, mut f: impl FnMut([usize; 4])) {
    let [n, c, h, w] = x.shape()[..] else { panic!("x has shape {:?}, not [N, C, H, W]", x.shape()) };
    for n in 0..n {
        for c in 0..c {
            for i in 0..h {
                for j in 0..w {
                    f([n, c, i, j]);
                }
            }
        }
    }
}

/// Values a channel, M.
fn count<T: Real>(x: &Tensor<T>) -> T {
    T::of((x.len() / x.shape()[1]) as f64)
}

/// Mean and biased variance a channel, (bn.1) and (bn.2): `x [N,C,H,W]` → `[C]`, `[C]`.
///
/// # Panics
/// If the rank is not 4.
// ANCHOR: statistics
pub fn statistics<T: Real>(x: &Tensor<T>) -> (Tensor<T>, Tensor<T>) {
    let (c, m) = (x.shape()[1], count(x));
    let (mut mean, mut var) = (vec![T::zero(); c], vec![T::zero(); c]);
    for_each(x, |[n, c, i, j]| mean[c] += x.view()[[n, c, i, j]] / m); // (bn.1)
    for_each(x, |[n, c, i, j]| var[c] += (x.view()[[n, c, i, j]] - mean[c]).powi(2) / m); // (bn.2)
    (Tensor::from_fn([c], |i| mean[i[0]]), Tensor::from_fn([c], |i| var[i[0]]))
}
// ANCHOR_END: statistics

/// x̂, (bn.3).
///
/// # Panics
/// If the shapes do not fit.
pub fn normalised<T: Real>(x: &Tensor<T>, mean: &Tensor<T>, var: &Tensor<T>, eps: f64) -> Tensor<T> {
    let (mean, var) = (mean.view(), var.view());
    Tensor::from_fn(x.shape(), |i| (x.view()[i] - mean[[i[1]]]) / (var[[i[1]]] + T::of(eps)).sqrt())
}

/// y, (bn.4), by any statistics.
///
/// # Panics
/// If the shapes do not fit.
// ANCHOR: batch_norm
pub fn batch_norm<T: Real>(
    x: &Tensor<T>,
    mean: &Tensor<T>,
    var: &Tensor<T>,
    weight: &Tensor<T>,
    bias: &Tensor<T>,
    eps: f64,
) -> Tensor<T> {
    let x_hat = normalised(x, mean, var, eps);
    Tensor::from_fn(x.shape(), |i| weight.view()[[i[1]]] * x_hat.view()[i] + bias.view()[[i[1]]])
}
// ANCHOR_END: batch_norm

/// `dweight` and `dbias`, (bn.6) and (bn.5).
///
/// # Panics
/// If the shapes do not fit.
pub fn parameter_gradients<T: Real>(
    x: &Tensor<T>,
    mean: &Tensor<T>,
    var: &Tensor<T>,
    eps: f64,
    dy: &Tensor<T>,
) -> (Tensor<T>, Tensor<T>) {
    let (c, x_hat) = (x.shape()[1], normalised(x, mean, var, eps));
    let (mut dweight, mut dbias) = (vec![T::zero(); c], vec![T::zero(); c]);
    for_each(x, |[n, c, i, j]| {
        dbias[c] += dy.view()[[n, c, i, j]]; // (bn.5)
        dweight[c] += dy.view()[[n, c, i, j]] * x_hat.view()[[n, c, i, j]]; // (bn.6)
    });
    (Tensor::from_fn([c], |i| dweight[i[0]]), Tensor::from_fn([c], |i| dbias[i[0]]))
}

/// `dx` where the statistics are those of `x` itself, (bn.7).
///
/// # Panics
/// If the shapes do not fit.
// ANCHOR: train_dx
pub fn train_dx<T: Real>(x: &Tensor<T>, weight: &Tensor<T>, eps: f64, dy: &Tensor<T>) -> Tensor<T> {
    let ((mean, var), m) = (statistics(x), count(x));
    let x_hat = normalised(x, &mean, &var, eps);
    let (dweight, dbias) = parameter_gradients(x, &mean, &var, eps, dy);
    Tensor::from_fn(x.shape(), |i| {
        let c = i[1];
        let scale = weight.view()[[c]] / (var.view()[[c]] + T::of(eps)).sqrt();
        scale * (dy.view()[i] - dbias.view()[[c]] / m - x_hat.view()[i] * dweight.view()[[c]] / m)
    })
}
// ANCHOR_END: train_dx

/// `dx` where the statistics are constants, (bn.8).
///
/// # Panics
/// If the shapes do not fit.
pub fn eval_dx<T: Real>(var: &Tensor<T>, weight: &Tensor<T>, eps: f64, dy: &Tensor<T>) -> Tensor<T> {
    Tensor::from_fn(dy.shape(), |i| weight.view()[[i[1]]] / (var.view()[[i[1]]] + T::of(eps)).sqrt() * dy.view()[i])
}
