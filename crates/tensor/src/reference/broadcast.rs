//! Broadcasting, (broadcast.1) and (broadcast.2) of [`kernels::broadcast`](crate::kernels::broadcast).

use crate::{Real, Shape, Tensor};

/// i′: the index of a broadcast operand of `shape` that belongs to index `i` of the result.
fn own_index(i: &[usize], shape: &[usize]) -> Vec<usize> {
    let missing = i.len() - shape.len();
    shape.iter().zip(&i[missing..]).map(|(&extent, &i)| if extent == 1 { 0 } else { i }).collect()
}

/// f(a, b) with both repeated to `shape`.
///
/// # Panics
/// If they do not broadcast to `shape`.
pub fn binary<T: Real>(a: &Tensor<T>, b: &Tensor<T>, shape: impl Into<Shape>, f: impl Fn(T, T) -> T) -> Tensor<T> {
    Tensor::from_fn(shape, |i| f(a.view()[&own_index(i, a.shape())[..]], b.view()[&own_index(i, b.shape())[..]]))
}

/// The adjoint of repeating `shape` to the shape of `x`.
///
/// # Panics
/// If `shape` does not broadcast to the shape of `x`.
pub fn sum_to<T: Real>(x: &Tensor<T>, shape: impl Into<Shape>) -> Tensor<T> {
    let shape = shape.into();
    Tensor::from_fn(shape, |target| {
        let of_target = |i: &[usize]| if own_index(i, &shape) == target { x.view()[i] } else { T::zero() };
        Tensor::from_fn(x.shape(), of_target).as_slice().iter().copied().sum()
    })
}
