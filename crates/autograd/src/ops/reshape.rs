//! The same elements under another shape.

use gatefold_tensor::{Real, Result, Shape, Tensor};

use crate::{Op, Sink, Tape, Var};

/// y = x with another shape;  dx = dy with x's.
struct Reshape {
    x: Shape,
}

impl<T: Real> Op<T> for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        dx.add(0, dy.reshape(self.x)?)
    }
}

impl<T: Real> Var<T> {
    /// The same elements in the same logical order under another shape.
    ///
    /// # Errors
    /// As [`Tensor::reshape`].
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Var<T>> {
        let y = self.value().reshape(shape)?;
        Ok(Tape::record(y, &[Some(self)], || Reshape { x: *self.shape() }))
    }
}
