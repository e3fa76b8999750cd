//! Sums and means over axes.

use gatefold_tensor::kernels::reduce;
use gatefold_tensor::{Real, Result, Shape, Tensor};

use crate::{Op, Sink, Tape, Var};

/// y = factor · Σ x;  dx = factor · dy, repeated along the axes summed over.
struct Reduce {
    name: &'static str,
    x: Shape,
    /// The shape of y with the summed axes kept as 1.
    kept: Shape,
    factor: f64,
}

impl<T: Real> Op<T> for Reduce {
    fn name(&self) -> &'static str {
        self.name
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        let factor = T::of(self.factor);
        dx.add(0, reduce::expand(&dy.reshape(self.kept)?.map(|d| d * factor), &self.x)?)
    }
}

impl<T: Real> Var<T> {
    /// The sum over `axes`; `keep` leaves them as extents of 1.
    ///
    /// # Errors
    /// [`gatefold_tensor::Error::Invalid`] if an axis does not exist or is named twice.
    pub fn sum(&self, axes: &[usize], keep: bool) -> Result<Var<T>> {
        Ok(self.record_reduce(reduce::sum(self.value(), axes, keep)?, "sum", axes, 1.0))
    }

    /// The mean over `axes`; `keep` leaves them as extents of 1.
    ///
    /// # Errors
    /// [`gatefold_tensor::Error::Invalid`] if an axis does not exist or is named twice.
    pub fn mean(&self, axes: &[usize], keep: bool) -> Result<Var<T>> {
        let y = reduce::mean(self.value(), axes, keep)?;
        let count: usize = axes.iter().map(|&axis| self.shape()[axis]).product();
        Ok(self.record_reduce(y, "mean", axes, 1.0 / count as f64))
    }

    fn record_reduce(&self, y: Tensor<T>, name: &'static str, axes: &[usize], factor: f64) -> Var<T> {
        Tape::record(y, &[Some(self)], || {
            let mut kept = self.shape().to_vec();
            axes.iter().for_each(|&axis| kept[axis] = 1);
            Reduce { name, x: *self.shape(), kept: Shape::from(&kept[..]), factor }
        })
    }
}
