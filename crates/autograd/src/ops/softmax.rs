//! Softmax with a temperature, over the last axis.

use gatefold_tensor::kernels::softmax;
use gatefold_tensor::{Real, Result, Tensor};

use crate::{Op, Sink, Tape, Var};

/// y = softmax(x/τ);  dx_j = y_j (dy_j − Σ_i dy_i y_i)/τ  (paper 2.7).
struct Softmax<T: Real> {
    y: Tensor<T>,
    temperature: f64,
}

impl<T: Real> Op<T> for Softmax<T> {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        dx.add(0, softmax::softmax_backward(&self.y, &dy, self.temperature)?)
    }
}

impl<T: Real> Var<T> {
    /// e^(x_j/τ) / Σ_i e^(x_i/τ) over the last axis.
    ///
    /// # Errors
    /// As [`softmax::softmax`]: τ must be positive and finite.
    pub fn softmax(&self, temperature: f64) -> Result<Var<T>> {
        let y = softmax::softmax(self.value(), temperature)?;
        Ok(Tape::record(y.clone(), &[Some(self)], || Softmax { y, temperature }))
    }
}
