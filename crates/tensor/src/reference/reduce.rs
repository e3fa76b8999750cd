//! Sums over axes, (reduce.1) of [`kernels::reduce`](crate::kernels::reduce).

use crate::{Real, Tensor};

/// y, (reduce.1), the axes kept with extent 1.
pub fn sum<T: Real>(x: &Tensor<T>, axes: &[usize]) -> Tensor<T> {
    let kept: Vec<usize> =
        (0..x.shape().len()).map(|axis| if axes.contains(&axis) { 1 } else { x.shape()[axis] }).collect();
    super::broadcast::sum_to(x, &kept[..])
}
