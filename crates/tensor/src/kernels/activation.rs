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
    map(x, logistic)
}

/// (act.3) of one value.
pub(crate) fn logistic<T: Real>(x: T) -> T {
    T::one() / (T::one() + (-x).exp()) // e⁻ˣ = ∞ gives 0, the limit
}

/// Turns `dy` into the gradient of [`sigmoid`]'s input, (act.3).
///
/// # Errors
/// [`Error::Shape`] if the shapes differ.
pub fn sigmoid_backward<T: Real>(y: &Tensor<T>, dy: &mut Tensor<T>) -> Result<()> {
    apply("sigmoid_backward", y, dy, |dy, y| dy * y * (T::one() - y))
}

fn map<T: Real>(x: &Tensor<T>, f: impl Fn(T) -> T + Send + Sync) -> Tensor<T> {
    let mut y = Tensor::any(x.shape());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, assert_gradient, assert_same_bits, message};
    use crate::random::randn;
    use crate::reference::activation as reference;

    type Forward<T> = fn(&Tensor<T>) -> Tensor<T>;
    type Backward<T> = fn(&Tensor<T>, &mut Tensor<T>) -> Result<()>;

    type Case<T> = (&'static str, Forward<T>, Backward<T>, fn(T) -> (T, T));

    fn all<T: Real>() -> [Case<T>; 3] {
        [
            ("relu", relu, relu_backward, reference::relu),
            ("relu6", relu6, relu6_backward, reference::relu6),
            ("sigmoid", sigmoid, sigmoid_backward, reference::sigmoid),
        ]
    }

    #[test]
    fn each_is_its_definition() {
        for shape in [&[][..], &[5], &[2, 3, 5, 4], &[0, 3], &[3, 16, 40, 33]] {
            let x = randn::<f64>(shape, 1).map(|v| 4.0 * v);
            for (name, forward, backward, definition) in all::<f64>() {
                let (y, mut dx) = (forward(&x), randn::<f64>(shape, 2));
                assert_close(name, &y, &x.map(|x| definition(x).0), 0.0);
                let mut expected = dx.clone();
                expected.zip_apply(&x, |d, x| *d *= definition(x).1).unwrap();
                backward(&y, &mut dx).unwrap();
                assert_close(name, &dx, &expected, 1e-15);
            }
        }
    }

    #[test]
    fn gradients_are_central_differences() {
        let x = randn::<f64>([2, 3, 5, 4], 1).map(|v| 4.0 * v + 0.01); // no value within 1e-5 of a kink
        for (name, forward, backward, _) in all::<f64>() {
            let dy = randn::<f64>(x.shape(), 2);
            let mut dx = dy.clone();
            backward(&forward(&x), &mut dx).unwrap();
            assert_gradient(name, &x, &dx, &dy, forward);
        }
    }

    #[test]
    fn kinks_and_extremes() {
        let x = Tensor::from_vec([7], vec![-1000.0f32, -1.0, 0.0, 6.0, 1000.0, f32::INFINITY, f32::NAN]).unwrap();
        let (y, y6, s) = (relu(&x), relu6(&x), sigmoid(&x));
        assert_eq!(y.as_slice()[..6], [0.0, 0.0, 0.0, 6.0, 1000.0, f32::INFINITY]);
        assert_eq!(y6.as_slice()[..6], [0.0, 0.0, 0.0, 6.0, 6.0, 6.0]);
        assert_eq!((s.as_slice()[0], s.as_slice()[2], s.as_slice()[4]), (0.0, 0.5, 1.0));
        assert!([y.clone(), y6.clone(), s].iter().all(|y| y.as_slice()[6].is_nan()));
        let (mut d, mut d6) = (Tensor::ones([7]), Tensor::ones([7]));
        relu_backward(&y, &mut d).unwrap();
        relu6_backward(&y6, &mut d6).unwrap();
        assert_eq!(d.as_slice()[..6], [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        assert_eq!(d6.as_slice()[..6], [0.0; 6]);
    }

    #[test]
    fn the_bits_do_not_depend_on_the_threads() {
        let x = randn::<f32>([3, 16, 40, 33], 1);
        assert_same_bits("activation", || all::<f32>().iter().map(|(_, forward, ..)| forward(&x)).collect());
    }

    #[test]
    fn a_gradient_of_another_shape_is_an_error() {
        let error = message(relu_backward(&Tensor::<f32>::zeros([2, 3]), &mut Tensor::zeros([6])));
        assert_eq!(error, "relu_backward: `dy` has shape [6], expected [2, 3]");
    }
}
