//! Softmax with a temperature τ over the last axis. A large τ makes the result flat.
//! ```text
//! y[n,j]  = e^(x[n,j]/τ) / Σ_i e^(x[n,i]/τ)                  (softmax.1)
//! dx[n,j] = y[n,j] · (dy[n,j] − Σ_i dy[n,i] · y[n,i]) / τ    (softmax.2)
//! ```
//! The largest x of a row is subtracted first: the result is the same and no exponential overflows.

use super::rows::for_each_chunk;
use crate::{Error, Real, Result, Tensor};

/// (softmax.1).
///
/// # Shapes
/// `x [m]`, `[N,m]` or `[B,N,m]` → `y` as `x`; each row of m sums to 1.
///
/// # Errors
/// [`Error::Shape`] for another rank or m = 0; [`Error::Invalid`] if the temperature is not a positive finite number
/// of type `T`.
// ANCHOR: softmax
pub fn softmax<T: Real>(x: &Tensor<T>, temperature: f64) -> Result<Tensor<T>> {
    let (m, tau) = check("softmax", "x", x, temperature)?;
    let mut y = Tensor::zeros(x.shape());
    for_each_chunk(y.as_mut_slice(), m, |start, y| {
        for (y, x) in y.chunks_exact_mut(m).zip(x.as_slice()[start..].chunks_exact(m)) {
            let max = x.iter().fold(T::neg_infinity(), |max, &x| max.max(x));
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = ((x - max) / tau).exp());
            let sum: T = y.iter().copied().sum();
            y.iter_mut().for_each(|y| *y /= sum);
        }
    });
    Ok(y)
}

/// (softmax.2), from the result `y` of [`softmax`].
///
/// # Shapes
/// `y` as [`softmax`]'s result, `dy` as `y` → `dx` as `y`.
///
/// # Errors
/// As [`softmax`], and if `dy` has not the shape of `y`.
pub fn softmax_backward<T: Real>(y: &Tensor<T>, dy: &Tensor<T>, temperature: f64) -> Result<Tensor<T>> {
    const OP: &str = "softmax_backward";
    let (m, tau) = check(OP, "y", y, temperature)?;
    if dy.shape() != y.shape() {
        return Err(Error::shape(OP, "dy", format!("{:?}", y.shape()), dy.shape()));
    }
    let mut dx = dy.clone();
    for_each_chunk(dx.as_mut_slice(), m, |start, dx| {
        for (dx, y) in dx.chunks_exact_mut(m).zip(y.as_slice()[start..].chunks_exact(m)) {
            let mean: T = dx.iter().zip(y).map(|(&dy, &y)| dy * y).sum();
            dx.iter_mut().zip(y).for_each(|(dx, &y)| *dx = y * (*dx - mean) / tau);
        }
    });
    Ok(dx)
}
// ANCHOR_END: softmax

/// The extent of the last axis, and τ.
fn check<T: Real>(op: &'static str, arg: &'static str, x: &Tensor<T>, temperature: f64) -> Result<(usize, T)> {
    let m = match x.shape()[..] {
        [m] | [_, m] | [_, _, m] if m > 0 => m,
        _ => return Err(Error::shape(op, arg, "[m], [N, m] or [B, N, m] with m ≥ 1", x.shape())),
    };
    let tau = T::of(temperature);
    if tau > T::zero() && tau.is_finite() {
        Ok((m, tau))
    } else {
        let message = format!("temperature is {temperature}; it must be positive and finite in {}", T::DTYPE);
        Err(Error::invalid(op, message))
    }
}
