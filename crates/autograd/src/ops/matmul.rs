//! The matrix product, of two matrices or of two batches of matrices.

use gatefold_tensor::kernels::matmul;
use gatefold_tensor::{Real, Result, Tensor};

use crate::{Op, Sink, Tape, Var};

/// y = a b;  da = dy bᵀ, db = aᵀ dy.
struct Matmul<T: Real> {
    a: Tensor<T>,
    b: Tensor<T>,
}

impl<T: Real> Op<T> for Matmul<T> {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        let (da, db) = matmul::matmul_backward(&self.a, &self.b, &dy, [dx.wants(0), dx.wants(1)])?;
        dx.add_all([da, db])
    }
}

impl<T: Real> Var<T> {
    /// a b.
    ///
    /// # Shapes
    /// `a [m,k]`, `b [k,n]` → `[m,n]`, or each with a leading batch axis of the same extent.
    /// # Errors
    /// As [`matmul::matmul`].
    pub fn matmul(&self, b: &Var<T>) -> Result<Var<T>> {
        let y = matmul::matmul(self.value(), b.value())?;
        Ok(Tape::record(y, &[Some(self), Some(b)], || Matmul { a: self.value().clone(), b: b.value().clone() }))
    }
}
