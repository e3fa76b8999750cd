//! Batch normalisation (Ioffe and Szegedy 2015, algorithm 1), as PyTorch does it.

use gatefold_autograd::{BatchNormStats, NormBy, SiteLayer, Var};
use gatefold_tensor::{Real, Result, Tensor};

use crate::{Activation, Buffer, Conv2d, Cx, Mode, Module, Param, walk_fields};

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
impl<T: Real> BatchNorm2d<T> {
    /// The batch norm of `z [N,C,H,W]` and the activation behind it, left pending for whoever reads it. `stats` are the
    /// batch's statistics, if the convolution has gathered them already.
    ///
    /// # Errors
    /// If `z` has other channels, or, in training, one value a channel.
    pub fn normalise(
        &self,
        cx: &Cx<T>,
        z: &Var<T>,
        stats: Option<BatchNormStats<T>>,
        activation: Activation,
    ) -> Result<Var<T>> {
        let (weight, bias) = (self.weight.var(cx), self.bias.var(cx));
        let norm = |by| z.pending_norm(by, &weight, &bias, self.eps, activation.into());
        match cx.mode() {
            Mode::Eval => norm(NormBy::Given(&self.running_mean.value, &self.running_var.value)),
            Mode::Train => {
                let stats = stats.map_or_else(|| z.statistics(), Ok)?;
                let y = norm(NormBy::Batch(&stats))?;
                cx.record(self, &stats);
                Ok(y)
            }
        }
    }

    /// `BN(W * x)` and the activation behind it.
    ///
    /// # Errors
    /// As the convolution and [`normalise`](Self::normalise).
    pub fn after(&self, cx: &Cx<T>, conv: &Conv2d<T>, x: &Var<T>, activation: Activation) -> Result<Var<T>> {
        let (z, stats) = match cx.mode() {
            Mode::Train => {
                let (z, stats) = conv.forward_with_statistics(cx, x)?;
                (z, Some(stats))
            }
            Mode::Eval => (conv.forward(cx, x)?, None),
        };
        self.normalise(cx, &z, stats, activation)
    }
}
// ANCHOR_END: forward

impl<T: Real> BatchNorm2d<T> {
    /// With the convolution before it, which has no bias, as a layer of a folded site.
    pub(crate) fn behind(&self, cx: &Cx<T>, conv: &Conv2d<T>) -> SiteLayer<T> {
        let [weight, gamma, beta] = [&conv.weight, &self.weight, &self.bias].map(|param| param.var(cx));
        SiteLayer { weight, gamma, beta, eps: self.eps }
    }
}

impl<T: Real> Module<T> for BatchNorm2d<T> {
    fn forward(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>> {
        self.normalise(cx, x, None, Activation::Identity)
    }
}
