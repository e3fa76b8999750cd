//! Pooling: the largest value or the mean of each window.

use gatefold_tensor::kernels::pool::{self, Window};
use gatefold_tensor::{Real, Result, Shape, Tensor};

use crate::{Op, Sink, Tape, Var};

/// y = the window's maximum;  dx is dy where the maximum was found.
struct MaxPool2d {
    x: Shape,
    found: Vec<u32>,
}

impl<T: Real> Op<T> for MaxPool2d {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        dx.add(0, pool::max_pool2d_backward(&self.x, &self.found, &dy)?)
    }
}

/// y = the window's mean, padding counted;  dx spreads dy/k².
struct AvgPool2d {
    x: Shape,
    window: Window,
}

impl<T: Real> Op<T> for AvgPool2d {
    fn name(&self) -> &'static str {
        "avg_pool2d"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        dx.add(0, pool::avg_pool2d_backward(&self.x, &self.window, &dy)?)
    }
}

impl<T: Real> Var<T> {
    /// The maximum of each window, `[N,C,H,W]` → `[N,C,OH,OW]`.
    ///
    /// # Errors
    /// As [`pool::max_pool2d`].
    pub fn max_pool2d(&self, window: &Window) -> Result<Var<T>> {
        let (y, found) = pool::max_pool2d(self.value(), window)?;
        Ok(Tape::record(y, &[Some(self)], || MaxPool2d { x: *self.shape(), found }))
    }

    /// The mean of each window, zeros of the padding counted, `[N,C,H,W]` → `[N,C,OH,OW]`.
    ///
    /// # Errors
    /// As [`pool::avg_pool2d`].
    pub fn avg_pool2d(&self, window: &Window) -> Result<Var<T>> {
        let y = pool::avg_pool2d(self.value(), window)?;
        Ok(Tape::record(y, &[Some(self)], || AvgPool2d { x: *self.shape(), window: *window }))
    }
}
