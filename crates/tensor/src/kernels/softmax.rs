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
            softmax_row(x, tau, y);
        }
    });
    Ok(y)
}

/// (softmax.1) of one row.
pub(crate) fn softmax_row<T: Real>(x: &[T], tau: T, y: &mut [T]) {
    let max = x.iter().fold(T::neg_infinity(), |max, &x| max.max(x));
    y.iter_mut().zip(x).for_each(|(y, &x)| *y = ((x - max) / tau).exp());
    let sum: T = y.iter().copied().sum();
    y.iter_mut().for_each(|y| *y /= sum);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, assert_gradient, assert_same_bits, message};
    use crate::random::randn;
    use crate::reference::softmax as reference;

    #[test]
    fn each_row_is_the_definition() {
        for (n, m) in [(1, 1), (2, 5), (7, 3), (0, 4), (900, 41)] {
            for tau in [1.0, 0.3, 30.0] {
                let (x, dy) = (randn::<f64>([n, m], 1), randn::<f64>([n, m], 2));
                let y = softmax(&x, tau).unwrap();
                assert_close("y", &y, &reference::softmax(&x, tau), 1e-14);
                let dx = softmax_backward(&y, &dy, tau).unwrap();
                assert_close("dx", &dx, &reference::softmax_backward(&y, &dy, tau), 1e-13);
            }
        }
    }

    #[test]
    fn gradients_are_central_differences_in_every_rank() {
        for shape in [&[5][..], &[3, 4], &[2, 3, 2]] {
            let (x, dy) = (randn::<f64>(shape, 1), randn::<f64>(shape, 2));
            let dx = softmax_backward(&softmax(&x, 0.7).unwrap(), &dy, 0.7).unwrap();
            assert_gradient("dx", &x, &dx, &dy, |x| softmax(x, 0.7).unwrap());
        }
    }

    #[test]
    fn large_inputs_do_not_overflow() {
        let x = Tensor::from_vec([2, 2], vec![1e30f32, -1e30, 500.0, 500.0]).unwrap();
        assert_eq!(softmax(&x, 1e-3).unwrap().as_slice(), [1.0, 0.0, 0.5, 0.5]);
    }

    #[test]
    fn the_bits_do_not_depend_on_the_threads() {
        let x = randn::<f32>([900, 41], 1);
        assert_same_bits("softmax", || {
            let y = softmax(&x, 2.0).unwrap();
            vec![softmax_backward(&y, &x, 2.0).unwrap(), y]
        });
    }

    #[test]
    fn wrong_arguments_are_errors_with_numbers() {
        let x = Tensor::<f32>::zeros([2, 3]);
        for tau in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-60] {
            assert!(message(softmax(&x, tau)).contains("temperature"), "{tau}");
        }
        assert!(message(softmax(&Tensor::<f32>::zeros([2, 0]), 1.0)).contains("m ≥ 1"));
        assert!(message(softmax(&Tensor::<f32>::zeros([2, 3, 4, 5]), 1.0)).contains("[B, N, m]"));
        let error = message(softmax_backward(&x, &Tensor::zeros([3, 2]), 1.0));
        assert_eq!(error, "softmax_backward: `dy` has shape [3, 2], expected [2, 3]");
    }
}
