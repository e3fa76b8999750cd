//! Rectifiers and the sigmoid. Each backward needs only the result y, which the next op keeps anyway, and works in
//! place on dy.
//! ```text
//! relu     y = max(x, 0)            dx = dy · [y > 0]         (act.1)
//! relu6    y = min(max(x, 0), 6)    dx = dy · [0 < y < 6]     (act.2)
//! sigmoid  y = 1/(1 + e⁻ˣ)          dx = dy · y · (1 − y)     (act.3)
//! ```
//! A NaN stays a NaN, as in PyTorch: a run that diverges must not look healthy behind a rectifier.

use super::rows::for_each_chunk;
use crate::{Error, Real, Result, Tensor};

/// max(x, 0), (act.1), in any shape.
#[must_use]
pub fn relu<T: Real>(x: &Tensor<T>) -> Tensor<T> {
    map(x, |x| if x < T::zero() { T::zero() } else { x })
}

/// Turns `dy` into the gradient of [`relu`]'s input, (act.1). The gradient at 0 is 0.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ.
pub fn relu_backward<T: Real>(y: &Tensor<T>, dy: &mut Tensor<T>) -> Result<()> {
    apply("relu_backward", y, dy, |dy, y| if y <= T::zero() { T::zero() } else { dy })
}

/// min(max(x, 0), 6), (act.2), in any shape.
#[must_use]
pub fn relu6<T: Real>(x: &Tensor<T>) -> Tensor<T> {
    let six = T::of(6.0);
    map(x, |x| {
        let x = if x < T::zero() { T::zero() } else { x };
        if x > six { six } else { x }
    })
}

/// Turns `dy` into the gradient of [`relu6`]'s input, (act.2). The gradient at 0 and at 6 is 0.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ.
pub fn relu6_backward<T: Real>(y: &Tensor<T>, dy: &mut Tensor<T>) -> Result<()> {
    let six = T::of(6.0);
    apply("relu6_backward", y, dy, |dy, y| if y <= T::zero() || y >= six { T::zero() } else { dy })
}

/// 1/(1 + e⁻ˣ), (act.3), in any shape.
#[must_use]
pub fn sigmoid<T: Real>(x: &Tensor<T>) -> Tensor<T> {
    map(x, |x| T::one() / (T::one() + (-x).exp())) // e⁻ˣ = ∞ gives 0, the limit
}

/// Turns `dy` into the gradient of [`sigmoid`]'s input, (act.3).
///
/// # Errors
/// [`Error::Shape`] if the shapes differ.
pub fn sigmoid_backward<T: Real>(y: &Tensor<T>, dy: &mut Tensor<T>) -> Result<()> {
    apply("sigmoid_backward", y, dy, |dy, y| dy * y * (T::one() - y))
}

fn map<T: Real>(x: &Tensor<T>, f: impl Fn(T) -> T + Send + Sync) -> Tensor<T> {
    let mut y = Tensor::zeros(x.shape());
    for_each_chunk(y.as_mut_slice(), 1, |start, y| {
        y.iter_mut().zip(&x.as_slice()[start..]).for_each(|(y, &x)| *y = f(x));
    });
    y
}

fn apply<T: Real>(
    op: &'static str,
    y: &Tensor<T>,
    dy: &mut Tensor<T>,
    f: impl Fn(T, T) -> T + Send + Sync,
) -> Result<()> {
    if y.shape() != dy.shape() {
        return Err(Error::shape(op, "dy", format!("{:?}", y.shape()), dy.shape()));
    }
    for_each_chunk(dy.as_mut_slice(), 1, |start, dy| {
        dy.iter_mut().zip(&y.as_slice()[start..]).for_each(|(dy, &y)| *dy = f(*dy, y));
    });
    Ok(())
}
