//! Cross-entropy, (ce.1) to (ce.4) of [`kernels::cross_entropy`](crate::kernels::cross_entropy).
//!
//! Every function panics on shapes that do not fit.

use super::softmax::softmax;
use crate::{Real, Tensor};

/// q, (ce.2), `[N,K]`.
fn targets<T: Real>(shape: &[usize], labels: &[usize], smoothing: f64) -> Tensor<T> {
    Tensor::from_fn(shape, |i| {
        let hit = if labels[i[0]] == i[1] { 1.0 } else { 0.0 };
        T::of((1.0 - smoothing) * hit + smoothing / shape[1] as f64)
    })
}

/// The loss, (ce.3), of `logits [N,K]`.
///
/// # Panics
/// If the shapes do not fit.
pub fn cross_entropy<T: Real>(logits: &Tensor<T>, labels: &[usize], smoothing: f64) -> T {
    let (p, q) = (softmax(logits, 1.0), targets::<T>(logits.shape(), labels, smoothing)); // (ce.1)
    let sum: T = p.as_slice().iter().zip(q.as_slice()).map(|(&p, &q)| q * p.ln()).sum();
    -sum / T::of(labels.len() as f64)
}

/// dx, (ce.4), for dL = 1.
///
/// # Panics
/// If the shapes do not fit.
pub fn cross_entropy_backward<T: Real>(logits: &Tensor<T>, labels: &[usize], smoothing: f64) -> Tensor<T> {
    let (p, q) = (softmax(logits, 1.0), targets::<T>(logits.shape(), labels, smoothing));
    Tensor::from_fn(logits.shape(), |i| (p.view()[i] - q.view()[i]) / T::of(labels.len() as f64))
}
