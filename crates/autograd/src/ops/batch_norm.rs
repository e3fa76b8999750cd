//! Batch normalisation: by the batch's own statistics, or by given ones.

use gatefold_tensor::kernels::batch_norm::{self, BatchNormGrads, BatchStats};
use gatefold_tensor::{Real, Result, Tensor};

use crate::{Op, Sink, Tape, Var};

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

impl<T: Real> Var<T> {
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
