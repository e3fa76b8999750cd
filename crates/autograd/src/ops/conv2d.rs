//! Convolution, with one kernel for all samples or one kernel per sample.

use gatefold_tensor::kernels::conv::{self, ConvGrads, Geometry, Want};
use gatefold_tensor::{Real, Result, Tensor};

use crate::{Op, Sink, Tape, Var};

/// Columns are recomputed in the backward pass: keeping them would cost k² images.
struct Conv2d<T: Real> {
    x: Tensor<T>,
    w: Tensor<T>,
    geo: Geometry,
    per_sample: bool,
}

impl<T: Real> Op<T> for Conv2d<T> {
    fn name(&self) -> &'static str {
        if self.per_sample { "conv2d_per_sample" } else { "conv2d" }
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        let want = Want { x: dx.wants(0), w: dx.wants(1), b: dx.wants(2) };
        let backward = if self.per_sample { conv::conv2d_per_sample_backward } else { conv::conv2d_backward };
        let ConvGrads { dx: of_x, dw, db } = backward(&self.x, &self.w, &dy, &self.geo, want)?;
        dx.add_all([of_x, dw, db])
    }
}

impl<T: Real> Var<T> {
    /// `y = w * x + b`, (conv.1).
    ///
    /// # Shapes
    /// `x [N,C,H,W]`, `w [O,C/g,k,k]`, `b [O]` → `[N,O,OH,OW]`.
    /// # Errors
    /// As [`conv::conv2d`].
    pub fn conv2d(&self, w: &Var<T>, b: Option<&Var<T>>, geo: &Geometry) -> Result<Var<T>> {
        let y = conv::conv2d(self.value(), w.value(), b.map(Var::value), geo)?;
        Ok(self.record_conv(y, w, b, geo, false))
    }

    /// One kernel per sample: `y[n] = w[n] * x[n] + b[n]`.
    ///
    /// # Shapes
    /// `x [N,C,H,W]`, `w [N·O,C/g,k,k]`, `b [N,O]` → `[N,O,OH,OW]`.
    /// # Errors
    /// As [`conv::conv2d_per_sample`].
    pub fn conv2d_per_sample(&self, w: &Var<T>, b: Option<&Var<T>>, geo: &Geometry) -> Result<Var<T>> {
        let y = conv::conv2d_per_sample(self.value(), w.value(), b.map(Var::value), geo)?;
        Ok(self.record_conv(y, w, b, geo, true))
    }

    fn record_conv(&self, y: Tensor<T>, w: &Var<T>, b: Option<&Var<T>>, geo: &Geometry, per_sample: bool) -> Var<T> {
        Tape::record(y, &[Some(self), Some(w), b], || Conv2d {
            x: self.value().clone(),
            w: w.value().clone(),
            geo: *geo,
            per_sample,
        })
    }
}
