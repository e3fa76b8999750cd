//! Sum and product with broadcasting; the gradient sums over the axes along which an input was repeated.

use gatefold_tensor::kernels::broadcast;
use gatefold_tensor::{Real, Result, Shape, Tensor};

use crate::{Op, Sink, Tape, Var};

/// y = a + b;  da = dy, db = dy.
struct Add {
    a: Shape,
    b: Shape,
}

impl<T: Real> Op<T> for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        for (i, shape) in [self.a, self.b].into_iter().enumerate() {
            if dx.wants(i) {
                dx.add(i, broadcast::sum_to(&dy, &shape)?)?;
            }
        }
        Ok(())
    }
}

/// y = a ⊙ b;  da = dy ⊙ b, db = dy ⊙ a.
struct Mul<T: Real> {
    a: Tensor<T>,
    b: Tensor<T>,
}

impl<T: Real> Op<T> for Mul<T> {
    fn name(&self) -> &'static str {
        "mul"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        for (i, (own, other)) in [(&self.a, &self.b), (&self.b, &self.a)].into_iter().enumerate() {
            if dx.wants(i) {
                dx.add(i, broadcast::sum_to(&broadcast::mul(&dy, other)?, own.shape())?)?;
            }
        }
        Ok(())
    }
}

impl<T: Real> Var<T> {
    /// a + b, shapes aligned from the right, an extent of 1 repeated.
    ///
    /// # Errors
    /// [`gatefold_tensor::Error::Shape`] if the shapes do not broadcast.
    pub fn add(&self, other: &Var<T>) -> Result<Var<T>> {
        let y = broadcast::add(self.value(), other.value())?;
        Ok(Tape::record(y, &[Some(self), Some(other)], || Add { a: *self.shape(), b: *other.shape() }))
    }

    /// a ⊙ b, shapes aligned from the right, an extent of 1 repeated.
    ///
    /// # Errors
    /// [`gatefold_tensor::Error::Shape`] if the shapes do not broadcast.
    pub fn mul(&self, other: &Var<T>) -> Result<Var<T>> {
        let y = broadcast::mul(self.value(), other.value())?;
        Ok(Tape::record(y, &[Some(self), Some(other)], || Mul { a: self.value().clone(), b: other.value().clone() }))
    }
}
