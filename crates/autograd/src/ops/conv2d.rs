//! Convolution, with one kernel for all samples or one kernel per sample.

use gatefold_tensor::kernels::conv::{self, Geometry, Options, PendingConvGrads, Want};
use gatefold_tensor::kernels::pending::{Pending, PendingGrad, Rectifier};
use gatefold_tensor::{Real, Result, Tensor};

use crate::var::{Unmade, Value};
use crate::{BatchNormStats, Gradient, Op, Sink, Tape, Var};

/// Columns are recomputed in the backward pass: keeping them would cost k² images.
struct Conv2d<T: Real> {
    x: Pending<T>,
    w: Tensor<T>,
    geo: Geometry,
    per_sample: bool,
    /// The output, where a rectifier was applied as it was written.
    rectified: Option<Pending<T>>,
}

// ANCHOR: conv2d
impl<T: Real> Op<T> for Conv2d<T> {
    fn name(&self) -> &'static str {
        if self.per_sample { "conv2d_per_sample" } else { "conv2d" }
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        self.backward_pending(Gradient::plain(dy), dx)
    }

    fn backward_pending(self: Box<Self>, dy: Gradient<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        let want = Want { x: dx.wants(0), w: dx.wants(1), b: dx.wants(2) };
        let Conv2d { x, w, geo, per_sample, rectified } = *self;
        let dy = match rectified {
            Some(y) => PendingGrad::plain(dy.into_masked(&y)?.dy),
            None => dy.into_pending()?,
        };
        let grads = conv::conv2d_pending_backward(&x, &w, &dy, &geo, per_sample, want)?;
        let PendingConvGrads { dx: of_x, dw, db } = grads;
        if let Some(of_x) = of_x {
            dx.add_masked(0, &x, of_x)?;
        }
        dx.add_all([None, dw, db])
    }
}
// ANCHOR_END: conv2d

/// A depthwise convolution of what nobody has made, which is made where it is read.
struct UnmadeConv2d<T: Real> {
    x: Unmade<T>,
    w: Tensor<T>,
    geo: Geometry,
}

impl<T: Real> Op<T> for UnmadeConv2d<T> {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        self.backward_pending(Gradient::plain(dy), dx)
    }

    fn backward_pending(self: Box<Self>, dy: Gradient<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        let UnmadeConv2d { x, w, geo } = *self;
        let (dy, want) = (dy.into_pending()?, [dx.wants(0), dx.wants(1)]);
        let (of_x, dw) = match &x {
            Unmade::Site(x) => {
                let x = x.source();
                let grads = conv::conv2d_site_backward(x, &w, &dy, &geo, want)?;
                (grads.dx.map(|(of_x, of_site)| Gradient::of_site(of_x, x.rectifier(), of_site)), grads.dw)
            }
            Unmade::Sum(x) => {
                let x = x.source();
                let grads = conv::conv2d_sum_backward(x, &w, &dy, &geo, want)?;
                (grads.dx.map(|(of_x, sums)| Gradient::of_sum(of_x, x.rectifier(), sums)), grads.dw)
            }
        };
        if let Some(of_x) = of_x {
            dx.add_gradient(0, of_x)?;
        }
        dx.add_all([None, dw])
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
        self.conv2d_rectified(w, b, geo, Rectifier::Identity)
    }

    /// The same with a rectifier behind it, applied while y is written.
    ///
    /// # Errors
    /// As [`conv::conv2d`].
    pub fn conv2d_rectified(
        &self,
        w: &Var<T>,
        b: Option<&Var<T>>,
        geo: &Geometry,
        rectifier: Rectifier,
    ) -> Result<Var<T>> {
        Ok(self.convolve(w, b, geo, false, Options { rectifier, statistics: false })?.0)
    }

    /// The same with the statistics of y over the batch, for the batch norm behind it: gathered while y is written.
    ///
    /// # Errors
    /// As [`conv::conv2d`]; one value per channel has no variance.
    pub fn conv2d_with_statistics(
        &self,
        w: &Var<T>,
        b: Option<&Var<T>>,
        geo: &Geometry,
    ) -> Result<(Var<T>, BatchNormStats<T>)> {
        let options = Options { rectifier: Rectifier::Identity, statistics: true };
        let (y, stats) = self.convolve(w, b, geo, false, options)?;
        Ok((y, stats.expect("statistics were asked for")))
    }

    /// One kernel per sample, and a rectifier behind it: `y[n] = rectify(w[n] * x[n] + b[n])`.
    ///
    /// # Shapes
    /// `x [N,C,H,W]`, `w [N·O,C/g,k,k]`, `b [N,O]` → `[N,O,OH,OW]`.
    /// # Errors
    /// As [`conv::conv2d_per_sample`].
    pub fn conv2d_per_sample(
        &self,
        w: &Var<T>,
        b: Option<&Var<T>>,
        geo: &Geometry,
        rectifier: Rectifier,
    ) -> Result<Var<T>> {
        Ok(self.convolve(w, b, geo, true, Options { rectifier, statistics: false })?.0)
    }

    fn convolve(
        &self,
        w: &Var<T>,
        b: Option<&Var<T>>,
        geo: &Geometry,
        per_sample: bool,
        options: Options,
    ) -> Result<(Var<T>, Option<BatchNormStats<T>>)> {
        let plain = b.is_none() && !per_sample && options.rectifier == Rectifier::Identity;
        let readable = |x: &Unmade<T>| match x {
            Unmade::Site(x) => conv::reads_site(x.source(), w.value(), geo),
            Unmade::Sum(x) => conv::reads_sum(x.source(), w.value(), geo),
        };
        if let Some(x) = self.unmade().filter(|x| plain && readable(x)) {
            self.mark_read();
            let (y, stats) = match &x {
                Unmade::Site(x) => conv::conv2d_site(x.source(), w.value(), geo, options)?,
                Unmade::Sum(x) => conv::conv2d_sum(x.source(), w.value(), geo, options)?,
            };
            let op = || UnmadeConv2d { x, w: w.value().clone(), geo: *geo };
            return Ok((Tape::record_pending(Value::Made(y), &[Some(self), Some(w)], op), stats));
        }
        let x = self.pending();
        let (y, stats) = conv::conv2d_pending(&x, w.value(), b.map(Var::value), geo, per_sample, options)?;
        let rectified = (options.rectifier != Rectifier::Identity).then(|| Pending::rectified(&y, options.rectifier));
        let value = rectified.clone().map_or(Value::Made(y), Value::from);
        let op = || Conv2d { x, w: w.value().clone(), geo: *geo, per_sample, rectified };
        Ok((Tape::record_pending(value, &[Some(self), Some(w), b], op), stats))
    }
}
