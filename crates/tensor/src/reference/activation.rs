//! Rectifiers and the sigmoid, (act.1) to (act.3) of [`kernels::activation`](crate::kernels::activation), for one number.

use crate::Real;

/// max(x, 0), and its derivative at y, (act.1).
pub fn relu<T: Real>(x: T) -> (T, T) {
    let y = x.max(T::zero());
    (y, if y > T::zero() { T::one() } else { T::zero() })
}

/// min(max(x, 0), 6), and its derivative at y, (act.2).
pub fn relu6<T: Real>(x: T) -> (T, T) {
    let y = x.max(T::zero()).min(T::of(6.0));
    (y, if y > T::zero() && y < T::of(6.0) { T::one() } else { T::zero() })
}

/// 1/(1 + e⁻ˣ), and its derivative at y, (act.3).
pub fn sigmoid<T: Real>(x: T) -> (T, T) {
    let y = T::one() / (T::one() + (-x).exp());
    (y, y * (T::one() - y))
}
