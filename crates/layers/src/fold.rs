//! The identities that folding rests on, each a pure function of values.
//!
//! ```text
//! s = γ/√(v + ε),  W'[o,·] = s_o W[o,·],  b' = β + s (b − μ)                       (fold.1)  paper 2.4
//! W = W_b + W_2 W_1,  b = b_b + W_2 b_1 + b_2                                      (fold.2)  paper 2.6
//! BN(W_b * x + b_b + W_2 A (W_1 * x + b_1) + b_2)
//!   = s W_b * x + s W_2 A (W_1 * x + b_1) + β + s (b_b + b_2 − μ)                  (fold.3)
//! ```

pub mod kernels;

use gatefold_tensor::kernels::compose::compose_kernels;
use gatefold_tensor::{Real, Result, Tensor};

use crate::{BatchNorm2d, Conv2d};

/// s of (fold.1), `[C]`.
pub fn scale<T: Real>(bn: &BatchNorm2d<T>) -> Result<Tensor<T>> {
    let mut s = bn.weight.value.clone();
    s.zip_apply(&bn.running_var.value, |s, v| *s /= (v + T::of(bn.eps)).sqrt())?;
    Ok(s)
}

/// β + s (b − μ), `[C]`.
pub fn shift<T: Real>(bn: &BatchNorm2d<T>, b: &Tensor<T>) -> Result<Tensor<T>> {
    let mut shift = b.clone();
    shift.zip_apply(&bn.running_mean.value, |b, mean| *b -= mean)?;
    shift.zip_apply(&scale(bn)?, |b, s| *b *= s)?;
    shift.zip_apply(&bn.bias.value, |b, beta| *b += beta)?;
    Ok(shift)
}

/// The kernels of `w [O,…]`, each times its entry of `s [O]`.
pub fn scale_kernels<T: Real>(w: &Tensor<T>, s: &Tensor<T>) -> Tensor<T> {
    let mut scaled = w.clone();
    let kernel = w.len() / s.len().max(1);
    for (kernel, &s) in scaled.as_mut_slice().chunks_exact_mut(kernel.max(1)).zip(s.as_slice()) {
        kernel.iter_mut().for_each(|w| *w *= s);
    }
    scaled
}

/// A convolution and the batch norm behind it as kernel and bias, (fold.1).
///
/// # Errors
/// [`gatefold_tensor::Error::Shape`] if the channels disagree.
// ANCHOR: fold_batch_norm
pub fn batch_norm<T: Real>(conv: &Conv2d<T>, bn: &BatchNorm2d<T>) -> Result<(Tensor<T>, Tensor<T>)> {
    let b = bias_or_zero(conv);
    Ok((scale_kernels(&conv.weight.value, &scale(bn)?), shift(bn, &b)?))
}
// ANCHOR_END: fold_batch_norm

/// The bias of a convolution, zeros where it has none.
pub fn bias_or_zero<T: Real>(conv: &Conv2d<T>) -> Tensor<T> {
    let channels = conv.weight.value.shape()[0];
    conv.bias.as_ref().map_or_else(|| Tensor::zeros([channels]), |b| b.value.clone())
}

/// `W_2 b_1`, `[O]`: what the second, 1 x 1 convolution makes of the first one's bias, at every position, the border
/// included.
///
/// # Errors
/// [`gatefold_tensor::Error::Shape`] if the channels disagree.
// ANCHOR: bias_through
pub fn bias_through<T: Real>(w2: &Tensor<T>, b1: &Tensor<T>, groups: usize) -> Result<Tensor<T>> {
    let (m, o) = (b1.len(), w2.shape()[0]);
    compose_kernels(None, w2, None, &b1.reshape([m, 1, 1, 1])?, groups)?.reshape([o])
}
// ANCHOR_END: bias_through

#[cfg(test)]
mod tests {
    use gatefold_tensor::kernels::conv::{Geometry, conv2d};
    use gatefold_tensor::random::randn;

    use super::*;

    #[test]
    fn a_convolution_and_its_batch_norm_are_one_convolution() {
        let mut bn = BatchNorm2d::<f64>::new(3);
        bn.weight.value = Tensor::from_vec([3], vec![-0.7, 0.0, 1.3]).unwrap();
        bn.bias.value = Tensor::from_vec([3], vec![0.4, -0.2, 0.1]).unwrap();
        bn.running_mean.value = Tensor::from_vec([3], vec![2.0, -1.0, 0.5]).unwrap();
        bn.running_var.value = Tensor::from_vec([3], vec![1e-9, 4.0, 0.3]).unwrap();
        let geometry = Geometry::default().padding(1).stride(2);
        let conv = Conv2d::from_values(randn([3, 2, 3, 3], 1), Some(randn([3], 2)), geometry);
        let x = randn([2, 2, 5, 6], 3);
        let z = conv2d(&x, &conv.weight.value, conv.bias.as_ref().map(|b| &b.value), &geometry).unwrap();
        let y = gatefold_tensor::kernels::batch_norm::batch_norm_eval(
            &z,
            &bn.running_mean.value,
            &bn.running_var.value,
            &bn.weight.value,
            &bn.bias.value,
            bn.eps,
        )
        .unwrap();
        let (w, b) = batch_norm(&conv, &bn).unwrap();
        let folded = conv2d(&x, &w, Some(&b), &geometry).unwrap();
        assert!(y.max_abs_diff(&folded).unwrap() < 1e-12 * y.max_abs());
    }
}
