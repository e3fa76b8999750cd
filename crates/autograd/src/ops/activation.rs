//! Rectifiers and the sigmoid. Each needs only its result, which the next op keeps anyway.
//! ```text
//! relu     y = max(x, 0)            dx = dy ⊙ [y > 0]
//! relu6    y = min(max(x, 0), 6)    dx = dy ⊙ [0 < y < 6]
//! sigmoid  y = 1/(1 + e⁻ˣ)          dx = dy ⊙ y ⊙ (1 − y)
//! ```

use gatefold_tensor::kernels::activation;
use gatefold_tensor::{Real, Result, Tensor};

use crate::{Op, Sink, Tape, Var};

/// One of the three, with its result.
struct Activation<T: Real> {
    name: &'static str,
    y: Tensor<T>,
    backward: fn(&Tensor<T>, &mut Tensor<T>) -> Result<()>,
}

// ANCHOR: activation
impl<T: Real> Op<T> for Activation<T> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn backward(self: Box<Self>, mut dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        (self.backward)(&self.y, &mut dy)?;
        dx.add(0, dy)
    }
}
// ANCHOR_END: activation

impl<T: Real> Var<T> {
    /// max(x, 0).
    #[must_use]
    pub fn relu(&self) -> Var<T> {
        self.activate("relu", activation::relu(self.value()), activation::relu_backward)
    }

    /// min(max(x, 0), 6).
    #[must_use]
    pub fn relu6(&self) -> Var<T> {
        self.activate("relu6", activation::relu6(self.value()), activation::relu6_backward)
    }

    /// 1/(1 + e⁻ˣ).
    #[must_use]
    pub fn sigmoid(&self) -> Var<T> {
        self.activate("sigmoid", activation::sigmoid(self.value()), activation::sigmoid_backward)
    }

    fn activate(
        &self,
        name: &'static str,
        y: Tensor<T>,
        backward: fn(&Tensor<T>, &mut Tensor<T>) -> Result<()>,
    ) -> Var<T> {
        Tape::record(y.clone(), &[Some(self)], || Activation { name, y, backward })
    }
}
