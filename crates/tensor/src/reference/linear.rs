//! The fully connected layer, (linear.1) to (linear.4) of [`kernels::linear`](crate::kernels::linear).
//!
//! Every function panics on shapes that do not fit.

use crate::{Real, Tensor};

/// y, (linear.1): `x [N,I]`, `w [O,I]`, `b [O]` → `[N,O]`.
///
/// # Panics
/// If the shapes do not fit.
pub fn linear<T: Real>(x: &Tensor<T>, w: &Tensor<T>, b: Option<&Tensor<T>>) -> Tensor<T> {
    let [n, i] = [x.shape()[0], x.shape()[1]];
    Tensor::from_fn([n, w.shape()[0]], |at| {
        let sum: T = (0..i).map(|i| x.view()[[at[0], i]] * w.view()[[at[1], i]]).sum();
        sum + b.map_or(T::zero(), |b| b.view()[[at[1]]])
    })
}

/// `dx`, `dw` and `db`, (linear.2) to (linear.4).
///
/// # Panics
/// If the shapes do not fit.
pub fn linear_backward<T: Real>(x: &Tensor<T>, w: &Tensor<T>, dy: &Tensor<T>) -> [Tensor<T>; 3] {
    let [n, o] = [dy.shape()[0], dy.shape()[1]];
    let dx = Tensor::from_fn(x.shape(), |at| (0..o).map(|o| dy.view()[[at[0], o]] * w.view()[[o, at[1]]]).sum());
    let dw = Tensor::from_fn(w.shape(), |at| (0..n).map(|n| dy.view()[[n, at[0]]] * x.view()[[n, at[1]]]).sum());
    let db = Tensor::from_fn([o], |at| (0..n).map(|n| dy.view()[[n, at[0]]]).sum());
    [dx, dw, db]
}
