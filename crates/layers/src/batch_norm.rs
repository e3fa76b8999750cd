//! Batch normalisation (Ioffe and Szegedy 2015, algorithm 1), as PyTorch does it.

use gatefold_autograd::Var;
use gatefold_tensor::{Real, Result, Tensor};

use crate::{Buffer, Cx, Mode, Module, Param, walk_fields};

/// `y = weight · (x − μ)/√(σ² + eps) + bias` per channel. Train: the batch's μ and σ² (divided by n); eval: the running
/// ones. Running: `r ← (1 − momentum)·r + momentum·batch`, the variance there divided by n − 1.
///
/// Folds exactly into the convolution before it, by its running statistics ([`fold::batch_norm`](crate::fold::batch_norm)).
#[derive(Debug, Clone)]
pub struct BatchNorm2d<T: Real> {
    /// γ `[C]`, starts at 1.
    pub weight: Param<T>,
    /// β `[C]`, starts at 0.
    pub bias: Param<T>,
    /// μ `[C]`, starts at 0: recorded, never optimised.
    pub running_mean: Buffer<T>,
    /// σ² `[C]`, starts at 1.
    pub running_var: Buffer<T>,
    /// Added to the variance; 1e-5.
    pub eps: f64,
    /// The share of the newest batch in the running statistics; 0.1.
    pub momentum: f64,
}

walk_fields!(impl<T> BatchNorm2d<T> { weight, bias, running_mean, running_var });

impl<T: Real> BatchNorm2d<T> {
    /// Of `channels` channels.
    pub fn new(channels: usize) -> Self {
        BatchNorm2d {
            weight: Param::new(Tensor::ones([channels])),
            bias: Param::new(Tensor::zeros([channels])),
            running_mean: Buffer::new(Tensor::zeros([channels])),
            running_var: Buffer::new(Tensor::ones([channels])),
            eps: 1e-5,
            momentum: 0.1,
        }
    }
}

// ANCHOR: forward
impl<T: Real> Module<T> for BatchNorm2d<T> {
    fn forward(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>> {
        let (weight, bias) = (self.weight.var(cx), self.bias.var(cx));
        match cx.mode() {
            Mode::Eval => {
                x.batch_norm_eval(&self.running_mean.value, &self.running_var.value, &weight, &bias, self.eps)
            }
            Mode::Train => {
                let (y, stats) = x.batch_norm_train(&weight, &bias, self.eps)?;
                cx.record(self, &stats);
                Ok(y)
            }
        }
    }
}
// ANCHOR_END: forward
