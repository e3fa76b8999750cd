//! Convolution (cross-correlation, as everywhere in the field). Logical `NCHW` and `OIHW`, memory channels last. With
//! groups, c runs over the channels of o's group.
//! ```text
//! y[n,o,i,j]  = b[o] + Σ_{c,u,v} w[o,c,u,v] · x[n,c, i·s+u·d−p, j·s+v·d−p]     (conv.1)
//! dw[o,c,u,v] = Σ_{n,i,j} dy[n,o,i,j] · x[n,c, i·s+u·d−p, j·s+v·d−p]           (conv.2)
//! dx[n,c,h,l] = Σ dy[n,o,i,j] · w[o,c,u,v] over i·s+u·d−p = h, j·s+v·d−p = l    (conv.3)
//! ```
//! `db[o]` is the sum of `dy` over n, i and j. A convolution *per sample* (dynamic kernels) is the same three with
//! `w[n,o,c,u,v]` and `b[n,o]`, and without the sum over n in (conv.2).
//!
//! Five paths: 1x1 kernels are one product over the pixels, depthwise kernels are added up tap by tap, 3x3 kernels of few
//! channels go by tiles that need fewer products, other k x k kernels are a product that reads patches where they lie, and
//! everything else goes through columns and a product a group.
//!
//! Input and gradient may be [pending](super::pending): all paths but the last make them while they load. The input of a
//! depthwise convolution may be a whole [site](super::folded) that is pending, see [`conv2d_site`], or a sum of maps, see
//! [`conv2d_sum`].

mod columns;
mod dense;
mod depthwise;
mod geometry;
mod plan;
mod pointwise;
mod prepared;
mod site;
mod sum;
#[cfg(test)]
mod tests;
mod window;
mod winograd;

#[cfg(test)]
pub(crate) use depthwise::LARGE;
pub use geometry::Geometry;
pub(crate) use geometry::Sizes;
use plan::{BackwardTask, ForwardTask, Plan};
pub use prepared::Kernels;
pub(crate) use prepared::{Generated, PerSample, Prepared, linear};
pub use site::{SiteConvGrads, conv2d_site, conv2d_site_backward, reads_site};
pub use sum::{SumConvGrads, conv2d_sum, conv2d_sum_backward, reads_sum};

use super::batch_norm::BatchStats;
use super::pending::{MaskedGrad, Pending, PendingGrad, Rectifier};
use crate::{Real, Result, Tensor};

/// Which gradients a caller wants; the others are not computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// The input's.
    pub x: bool,
    /// The kernels'.
    pub w: bool,
    /// The bias's.
    pub b: bool,
}

impl Want {
    /// All three gradients.
    pub const ALL: Want = Want { x: true, w: true, b: true };
}

/// The gradients of a convolution, each in the shape of what it belongs to; `None` where not wanted.
#[derive(Clone, Debug)]
pub struct ConvGrads<T: Real> {
    /// The input's, `[N, C, H, W]`.
    pub dx: Option<Tensor<T>>,
    /// The kernels', `[O, C/g, kh, kw]`, or `[N·O, C/g, kh, kw]` per sample.
    pub dw: Option<Tensor<T>>,
    /// The bias's, `[O]`, or `[N, O]` per sample.
    pub db: Option<Tensor<T>>,
}

/// Convolution, (conv.1).
///
/// # Shapes
/// `x [N,C,H,W]`, `w [O,C/g,kh,kw]`, `b [O]` → `[N,O,OH,OW]`, `OH = ⌊(H + 2p − d(kh−1) − 1)/s⌋ + 1`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) or [`Error::Invalid`](crate::Error::Invalid) if the channels disagree, the
/// groups do not divide them, or the kernel is larger than the padded image.
pub fn conv2d<T: Real>(x: &Tensor<T>, w: &Tensor<T>, b: Option<&Tensor<T>>, geo: &Geometry) -> Result<Tensor<T>> {
    forward("conv2d", x, w, b, geo, false)
}

/// Convolution backward: (conv.2), (conv.3) and the sum of `dy`, as far as wanted.
///
/// # Shapes
/// As [`conv2d`]; `dy [N,O,OH,OW]`. Each gradient has the shape of what it belongs to.
///
/// # Errors
/// As [`conv2d`], and if `dy` has not the output's shape.
pub fn conv2d_backward<T: Real>(
    x: &Tensor<T>,
    w: &Tensor<T>,
    dy: &Tensor<T>,
    geo: &Geometry,
    want: Want,
) -> Result<ConvGrads<T>> {
    backward("conv2d_backward", x, w, dy, geo, want, false)
}

/// Convolution with kernels of its own for every sample, as a dynamic convolution composes them.
///
/// # Shapes
/// `x [N,C,H,W]`, `w [N·O,C/g,kh,kw]` (the O kernels of sample 0 first), `b [N,O]` → `[N,O,OH,OW]`.
///
/// # Errors
/// As [`conv2d`], and if the number of kernels is no multiple of N.
pub fn conv2d_per_sample<T: Real>(
    x: &Tensor<T>,
    w: &Tensor<T>,
    b: Option<&Tensor<T>>,
    geo: &Geometry,
) -> Result<Tensor<T>> {
    forward("conv2d_per_sample", x, w, b, geo, true)
}

/// Per-sample convolution backward; kernels and biases of one sample get gradients from that sample alone.
///
/// # Shapes
/// As [`conv2d_per_sample`]; `dy [N,O,OH,OW]`, `dw [N·O,C/g,kh,kw]`, `db [N,O]`.
///
/// # Errors
/// As [`conv2d_per_sample`], and if `dy` has not the output's shape.
pub fn conv2d_per_sample_backward<T: Real>(
    x: &Tensor<T>,
    w: &Tensor<T>,
    dy: &Tensor<T>,
    geo: &Geometry,
    want: Want,
) -> Result<ConvGrads<T>> {
    backward("conv2d_per_sample_backward", x, w, dy, geo, want, true)
}

/// What a convolution does while its output is in registers or in cache.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The rectifier applied to the output.
    pub rectifier: Rectifier,
    /// Whether the statistics of the output are gathered, for the batch norm behind it.
    pub statistics: bool,
}

/// The gradients of a convolution whose input may be pending.
#[derive(Clone, Debug)]
pub struct PendingConvGrads<T: Real> {
    /// The input's, masked and summed for the batch norm that is pending there.
    pub dx: Option<MaskedGrad<T>>,
    /// The kernels'.
    pub dw: Option<Tensor<T>>,
    /// The bias's.
    pub db: Option<Tensor<T>>,
}

/// Convolution of a pending map, (pend.1) and (conv.1), with kernels for all samples or for each one.
///
/// # Shapes
/// As [`conv2d`] and [`conv2d_per_sample`]; statistics `[O]`.
///
/// # Errors
/// As these, and if statistics of fewer than two values a channel are wanted.
pub fn conv2d_pending<T: Real>(
    x: &Pending<T>,
    w: &Tensor<T>,
    b: Option<&Tensor<T>>,
    geo: &Geometry,
    per_sample: bool,
    options: Options,
) -> Result<(Tensor<T>, Option<BatchStats<T>>)> {
    const OP: &str = "conv2d";
    let s = Sizes::check(OP, &x.z, w, geo, per_sample)?;
    b.map_or(Ok(()), |b| s.check_bias(OP, b))?;
    Plan::new::<T>(s).forward(OP, x, w.as_slice(), b.map(Tensor::as_slice), options)
}

/// The gradients of [`conv2d_pending`] from a gradient that may be pending too, (pend.3): (conv.2), (conv.3) and
/// (pend.2), as far as wanted.
///
/// # Shapes
/// As [`conv2d_backward`] and [`conv2d_per_sample_backward`].
///
/// # Errors
/// As these.
pub fn conv2d_pending_backward<T: Real>(
    x: &Pending<T>,
    w: &Tensor<T>,
    dy: &PendingGrad<T>,
    geo: &Geometry,
    per_sample: bool,
    want: Want,
) -> Result<PendingConvGrads<T>> {
    const OP: &str = "conv2d_backward";
    let s = Sizes::check(OP, &x.z, w, geo, per_sample)?;
    s.check_dy(OP, &dy.dy)?;
    Plan::new::<T>(s).backward(x, w, dy, want)
}

// ANCHOR: conv2d_forward
fn forward<T: Real>(
    op: &'static str,
    x: &Tensor<T>,
    w: &Tensor<T>,
    b: Option<&Tensor<T>>,
    geo: &Geometry,
    per_sample: bool,
) -> Result<Tensor<T>> {
    let s = Sizes::check(op, x, w, geo, per_sample)?;
    b.map_or(Ok(()), |b| s.check_bias(op, b))?;
    let x = Pending::plain(x.clone());
    Ok(Plan::new::<T>(s).forward(op, &x, w.as_slice(), b.map(Tensor::as_slice), Options::default())?.0)
}
// ANCHOR_END: conv2d_forward

// ANCHOR: conv2d_backward
fn backward<T: Real>(
    op: &'static str,
    x: &Tensor<T>,
    w: &Tensor<T>,
    dy: &Tensor<T>,
    geo: &Geometry,
    want: Want,
    per_sample: bool,
) -> Result<ConvGrads<T>> {
    let s = Sizes::check(op, x, w, geo, per_sample)?;
    s.check_dy(op, dy)?;
    let (x, dy) = (Pending::plain(x.clone()), PendingGrad::plain(dy.clone()));
    let PendingConvGrads { dx, dw, db } = Plan::new::<T>(s).backward(&x, w, &dy, want)?;
    Ok(ConvGrads { dx: dx.map(|dx| dx.dy), dw, db })
}
// ANCHOR_END: conv2d_backward
