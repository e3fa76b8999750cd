//! Softmax and cross-entropy in one op: together their derivative is p − q.

use gatefold_tensor::kernels::cross_entropy;
use gatefold_tensor::{Real, Result, Tensor};

use crate::{Op, Sink, Tape, Var};

/// L = −1/N Σ q log p;  dlogits = (p − q)/N.
struct CrossEntropy<T: Real> {
    probabilities: Tensor<T>,
    labels: Vec<usize>,
    smoothing: f64,
}

impl<T: Real> Op<T> for CrossEntropy<T> {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        let (p, labels) = (&self.probabilities, &self.labels);
        dx.add(0, cross_entropy::cross_entropy_backward(p, labels, self.smoothing, dy.item()?)?)
    }
}

impl<T: Real> Var<T> {
    /// The mean over the batch of −Σ_k q_k log p_k, p the softmax of the logits, q = (1 − s)·onehot + s/K.
    ///
    /// # Shapes
    /// logits `[N,K]`, `labels [N]` below K → a scalar.
    /// # Errors
    /// As [`cross_entropy::cross_entropy`].
    pub fn cross_entropy(&self, labels: &[usize], smoothing: f64) -> Result<Var<T>> {
        let (loss, probabilities) = cross_entropy::cross_entropy(self.value(), labels, smoothing)?;
        Ok(Tape::record(loss, &[Some(self)], || CrossEntropy { probabilities, labels: labels.to_vec(), smoothing }))
    }
}
