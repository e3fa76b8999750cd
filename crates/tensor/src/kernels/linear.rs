//! The fully connected layer.
//! ```text
//! y[n,o]  = Σ_i x[n,i] · w[o,i] + b[o]     (linear.1)
//! dx[n,i] = Σ_o dy[n,o] · w[o,i]           (linear.2)
//! dw[o,i] = Σ_n dy[n,o] · x[n,i]           (linear.3)
//! db[o]   = Σ_n dy[n,o]                    (linear.4)
//! ```

use super::blocks::gemm_parallel;
use super::gemm::{Accumulate, Mat, MatMut};
use super::rows::for_each_chunk;
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
    if let Some(b) = b.filter(|b| b.shape()[..] != [o]) {
        return Err(Error::shape(OP, "b", format!("[{o}], one value a row of w"), b.shape()));
    }
    let mut y = Tensor::any([n, o]);
    let (x, w) = (Mat::row_major(x.as_slice(), n, i), Mat::row_major(w.as_slice(), o, i));
    let acc = b.map_or(Accumulate::Set, |b| Accumulate::Bias(b.as_slice()));
    gemm_parallel(x, w.t(), acc, MatMut::row_major(y.as_mut_slice(), n, o));
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
        let mut dx = Tensor::any([n, i]);
        let w = Mat::row_major(w.as_slice(), o, i);
        gemm_parallel(matrix, w, Accumulate::Set, MatMut::row_major(dx.as_mut_slice(), n, i));
        dx
    });
    let dw = want_w.then(|| {
        let mut dw = Tensor::any([o, i]);
        let x = Mat::row_major(x.as_slice(), n, i);
        gemm_parallel(matrix.t(), x, Accumulate::Set, MatMut::row_major(dw.as_mut_slice(), o, i));
        dw
    });
    let db = want_b.then(|| {
        let mut db = vec![0.0; o];
        for_each_chunk(&mut db, 1, |start, db| {
            for dy in dy.as_slice().chunks_exact(o) {
                db.iter_mut().zip(&dy[start..]).for_each(|(db, dy)| *db += dy.f64());
            }
        });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, assert_gradient, assert_same_bits, message};
    use crate::random::randn;
    use crate::reference::linear as reference;

    const ALL: [bool; 3] = [true; 3];

    #[test]
    fn forward_and_backward_are_the_definition() {
        for [n, i, o] in [[1, 1, 1], [2, 3, 5], [7, 64, 10], [300, 20, 33], [0, 3, 2], [2, 0, 3], [2, 3, 0]] {
            let (x, w, b) = (randn::<f64>([n, i], 1), randn::<f64>([o, i], 2), randn::<f64>([o], 3));
            for b in [None, Some(&b)] {
                assert_close("y", &linear(&x, &w, b).unwrap(), &reference::linear(&x, &w, b), 1e-12);
            }
            let dy = randn::<f64>([n, o], 4);
            let grads = linear_backward(&x, &w, &dy, ALL).unwrap();
            let [dx, dw, db] = reference::linear_backward(&x, &w, &dy);
            assert_close("dx", &grads.dx.unwrap(), &dx, 1e-12);
            assert_close("dw", &grads.dw.unwrap(), &dw, 1e-12);
            assert_close("db", &grads.db.unwrap(), &db, 1e-12);
        }
    }

    #[test]
    fn gradients_are_central_differences() {
        let (x, w, b) = (randn::<f64>([3, 4], 1), randn::<f64>([5, 4], 2), randn::<f64>([5], 3));
        let dy = randn::<f64>([3, 5], 4);
        let grads = linear_backward(&x, &w, &dy, ALL).unwrap();
        assert_gradient("dx", &x, &grads.dx.unwrap(), &dy, |x| linear(x, &w, Some(&b)).unwrap());
        assert_gradient("dw", &w, &grads.dw.unwrap(), &dy, |w| linear(&x, w, Some(&b)).unwrap());
        assert_gradient("db", &b, &grads.db.unwrap(), &dy, |b| linear(&x, &w, Some(b)).unwrap());
    }

    #[test]
    fn only_what_is_wanted_is_given() {
        let (x, w) = (Tensor::<f32>::zeros([2, 3]), Tensor::zeros([4, 3]));
        for want in [[true, false, false], [false, true, false], [false, false, true]] {
            let grads = linear_backward(&x, &w, &Tensor::zeros([2, 4]), want).unwrap();
            assert_eq!([grads.dx.is_some(), grads.dw.is_some(), grads.db.is_some()], want);
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_threads() {
        let (x, w) = (randn::<f32>([700, 40], 1), randn::<f32>([300, 40], 2));
        assert_same_bits("linear", || {
            let y = linear(&x, &w, None).unwrap();
            let grads = linear_backward(&x, &w, &y, ALL).unwrap();
            vec![y, grads.dx.unwrap(), grads.dw.unwrap(), grads.db.unwrap()]
        });
    }

    #[test]
    fn wrong_shapes_are_errors_with_numbers() {
        let (x, w) = (Tensor::<f32>::zeros([2, 3]), Tensor::zeros([4, 5]));
        assert_eq!(message(linear(&x, &w, None)), "linear: `w` has shape [4, 5], expected [O, 3] for x [2, 3]");
        let w = Tensor::zeros([4, 3]);
        assert!(message(linear(&x, &w, Some(&Tensor::zeros([3])))).contains("`b` has shape [3], expected [4]"));
        assert!(message(linear(&Tensor::zeros([3]), &w, None)).contains("rank 2"));
        assert!(message(linear_backward(&x, &w, &x, ALL)).contains("expected [2, 4]"));
    }
}
