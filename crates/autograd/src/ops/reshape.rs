//! The same elements under another shape, in logical or in memory order.

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

/// y = x's memory with another shape;  dx = dy's with x's.
struct ReshapeMemory {
    x: Shape,
}

impl<T: Real> Op<T> for ReshapeMemory {
    fn name(&self) -> &'static str {
        "reshape_memory"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        dx.add(0, dy.reshape_memory(self.x)?)
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

    /// The same elements in the same memory order under another shape: copies nothing.
    ///
    /// # Errors
    /// As [`Tensor::reshape_memory`].
    pub fn reshape_memory(&self, shape: impl Into<Shape>) -> Result<Var<T>> {
        let y = self.value().reshape_memory(shape)?;
        Ok(Tape::record(y, &[Some(self)], || ReshapeMemory { x: *self.shape() }))
    }
}
