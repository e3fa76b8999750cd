//! Joining along an axis, (concat.1), (narrow.1) and (shuffle.1) of [`kernels::concat`](crate::kernels::concat).

use crate::{Real, Tensor};

/// y, (concat.1).
///
/// # Panics
/// If the shapes do not fit.
pub fn concat<T: Real>(xs: &[&Tensor<T>], axis: usize) -> Tensor<T> {
    let mut shape = xs[0].shape().to_vec();
    shape[axis] = xs.iter().map(|x| x.shape()[axis]).sum();
    Tensor::from_fn(&shape[..], |i| {
        let mut i = i.to_vec();
        for x in xs {
            if i[axis] < x.shape()[axis] {
                return x.view()[&i[..]];
            }
            i[axis] -= x.shape()[axis];
        }
        unreachable!("the extents add up")
    })
}

/// y, (narrow.1).
///
/// # Panics
/// If the range leaves the axis.
pub fn narrow<T: Real>(x: &Tensor<T>, axis: usize, start: usize, len: usize) -> Tensor<T> {
    let mut shape = x.shape().to_vec();
    shape[axis] = len;
    Tensor::from_fn(&shape[..], |i| {
        let mut i = i.to_vec();
        i[axis] += start;
        x.view()[&i[..]]
    })
}

/// y, (shuffle.1).
///
/// # Panics
/// If the groups do not divide the channels.
pub fn channel_shuffle<T: Real>(x: &Tensor<T>, groups: usize) -> Tensor<T> {
    let each = x.shape()[1] / groups;
    Tensor::from_fn(*x.shape(), |i| x.view()[[i[0], i[1] % groups * each + i[1] / groups, i[2], i[3]]])
}
