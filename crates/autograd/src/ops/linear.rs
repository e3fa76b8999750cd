//! The fully connected layer.

use gatefold_tensor::kernels::linear::{self, LinearGrads};
use gatefold_tensor::{Real, Result, Tensor};

use crate::{Op, Sink, Tape, Var};

/// y = x wᵀ + b;  dx = dy w, dw = dyᵀ x, db = Σ_n dy.
struct Linear<T: Real> {
    x: Tensor<T>,
    w: Tensor<T>,
}

impl<T: Real> Op<T> for Linear<T> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        let want = [dx.wants(0), dx.wants(1), dx.wants(2)];
        let LinearGrads { dx: of_x, dw, db } = linear::linear_backward(&self.x, &self.w, &dy, want)?;
        dx.add_all([of_x, dw, db])
    }
}

impl<T: Real> Var<T> {
    /// x wᵀ + b.
    ///
    /// # Shapes
    /// `x [N,I]`, `w [O,I]`, `b [O]` → `[N,O]`.
    /// # Errors
    /// As [`linear::linear`].
    pub fn linear(&self, w: &Var<T>, b: Option<&Var<T>>) -> Result<Var<T>> {
        let y = linear::linear(self.value(), w.value(), b.map(Var::value))?;
        Ok(Tape::record(y, &[Some(self), Some(w), b], || Linear { x: self.value().clone(), w: w.value().clone() }))
    }
}
