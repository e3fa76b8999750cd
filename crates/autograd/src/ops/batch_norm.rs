//! Batch normalisation: by the batch's own statistics, or by given ones.

use gatefold_tensor::kernels::batch_norm::{self, BatchNormGrads, BatchStats};
use gatefold_tensor::kernels::pending::{Norm, NormGrads, Pending, PendingGrad, Rectifier};
use gatefold_tensor::{Real, Result, Tensor};

use crate::{Gradient, Op, Sink, Tape, Var};

/// Mean and variance of a batch, per channel, as running statistics take them up.
pub type BatchNormStats<T> = BatchStats<T>;

/// By the batch's statistics, through which the gradient flows too.
struct BatchNormTrain<T: Real> {
    x: Tensor<T>,
    weight: Tensor<T>,
    stats: BatchStats<T>,
    eps: f64,
}

impl<T: Real> Op<T> for BatchNormTrain<T> {
    fn name(&self) -> &'static str {
        "batch_norm_train"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        let want = [dx.wants(0), dx.wants(1), dx.wants(2)];
        let BatchNormGrads { dx: of_x, dweight, dbias } =
            batch_norm::batch_norm_train_backward(&self.x, &self.weight, &self.stats, self.eps, &dy, want)?;
        dx.add_all([of_x, dweight, dbias])
    }
}

/// By given statistics, which are constants.
struct BatchNormEval<T: Real> {
    x: Tensor<T>,
    mean: Tensor<T>,
    var: Tensor<T>,
    weight: Tensor<T>,
    eps: f64,
}

impl<T: Real> Op<T> for BatchNormEval<T> {
    fn name(&self) -> &'static str {
        "batch_norm_eval"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        let want = [dx.wants(0), dx.wants(1), dx.wants(2)];
        let BatchNormGrads { dx: of_x, dweight, dbias } =
            batch_norm::batch_norm_eval_backward(&self.x, &self.mean, &self.var, &self.weight, self.eps, &dy, want)?;
        dx.add_all([of_x, dweight, dbias])
    }
}

/// The statistics a batch norm works by.
pub enum NormBy<'a, T: Real> {
    /// The batch's own, through which the gradient flows too.
    Batch(&'a BatchNormStats<T>),
    /// Constants: mean and variance.
    Given(&'a Tensor<T>, &'a Tensor<T>),
}

/// A batch norm with its rectifier that nobody has written down.
struct PendingNorm<T: Real> {
    map: Pending<T>,
    weight: Tensor<T>,
    mean: Tensor<T>,
    var: Tensor<T>,
    own_statistics: bool,
    eps: f64,
}

// ANCHOR: pending_norm
impl<T: Real> Op<T> for PendingNorm<T> {
    fn name(&self) -> &'static str {
        "pending_norm"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        self.backward_pending(Gradient::plain(dy), dx)
    }

    fn backward_pending(self: Box<Self>, dy: Gradient<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        let PendingNorm { map, weight, mean, var, own_statistics, eps } = *self;
        let masked = dy.into_masked(&map)?;
        let NormGrads { dx: of_x, dweight, dbias } =
            PendingGrad::through(&map, &weight, [&mean, &var], own_statistics, eps, masked)?;
        dx.add_gradient(0, Gradient::through(of_x))?;
        dx.add_all([None, Some(dweight), Some(dbias)])
    }
}
// ANCHOR_END: pending_norm

impl<T: Real> Var<T> {
    /// The batch norm of a map and the rectifier behind it, left pending: whoever reads it applies both while it loads.
    ///
    /// # Shapes
    /// `x [N,C,H,W]`; `weight`, `bias` and the statistics `[C]`.
    /// # Errors
    /// [`gatefold_tensor::Error::Shape`] if the shapes disagree.
    pub fn pending_norm(
        &self,
        by: NormBy<'_, T>,
        weight: &Var<T>,
        bias: &Var<T>,
        eps: f64,
        rectifier: Rectifier,
    ) -> Result<Var<T>> {
        let (mean, var, own_statistics) = match by {
            NormBy::Batch(stats) => (&stats.mean, &stats.var, true),
            NormBy::Given(mean, var) => (mean, var, false),
        };
        let norm = Norm::new(mean, var, weight.value(), bias.value(), eps)?;
        let map = Pending::normed(self.value().clone(), norm, rectifier)?;
        let op = || PendingNorm {
            map: map.clone(),
            weight: weight.value().clone(),
            mean: mean.clone(),
            var: var.clone(),
            own_statistics,
            eps,
        };
        Ok(Tape::record_pending(map.clone().into(), &[Some(self), Some(weight), Some(bias)], op))
    }

    /// The statistics of a map over the batch, as constants.
    ///
    /// # Errors
    /// As [`batch_norm::batch_norm_train`]; one value per channel has no variance.
    pub fn statistics(&self) -> Result<BatchNormStats<T>> {
        batch_norm::statistics(self.value())
    }

    /// `y = weight · (x − μ)/√(σ² + eps) + bias` with the batch's own μ and biased σ², which are returned too.
    ///
    /// # Shapes
    /// `x [N,C]`, `[N,C,L]` or `[N,C,H,W]`; `weight`, `bias [C]`.
    /// # Errors
    /// As [`batch_norm::batch_norm_train`]; one value per channel has no variance.
    pub fn batch_norm_train(&self, weight: &Var<T>, bias: &Var<T>, eps: f64) -> Result<(Var<T>, BatchNormStats<T>)> {
        let (y, stats) = batch_norm::batch_norm_train(self.value(), weight.value(), bias.value(), eps)?;
        let y = Tape::record(y, &[Some(self), Some(weight), Some(bias)], || BatchNormTrain {
            x: self.value().clone(),
            weight: weight.value().clone(),
            stats: stats.clone(),
            eps,
        });
        Ok((y, stats))
    }

    /// `y = weight · (x − mean)/√(var + eps) + bias` with given statistics.
    ///
    /// # Shapes
    /// As [`batch_norm_train`](Self::batch_norm_train); `mean`, `var [C]`.
    /// # Errors
    /// As [`batch_norm::batch_norm_eval`].
    pub fn batch_norm_eval(
        &self,
        mean: &Tensor<T>,
        var: &Tensor<T>,
        weight: &Var<T>,
        bias: &Var<T>,
        eps: f64,
    ) -> Result<Var<T>> {
        let y = batch_norm::batch_norm_eval(self.value(), mean, var, weight.value(), bias.value(), eps)?;
        Ok(Tape::record(y, &[Some(self), Some(weight), Some(bias)], || BatchNormEval {
            x: self.value().clone(),
            mean: mean.clone(),
            var: var.clone(),
            weight: weight.value().clone(),
            eps,
        }))
    }
}
