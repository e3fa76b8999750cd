//! What ACNet and RepVGG have in common: convolutions that look through the same windows, each with a batch norm of its
//! own, and the sum of their outputs.

use gatefold_autograd::Var;
use gatefold_tensor::kernels::conv::Geometry;
use gatefold_tensor::{Error, Real, Result, Tensor};

use super::SiteSpec;
use crate::fold::{self, kernels};
use crate::{Activation, BatchNorm2d, Conv2d, Cx, Init, Param, walk_fields};

/// A convolution without bias and its batch norm. Along each axis its kernel has the k taps of the site, or the central
/// one alone.
#[derive(Debug, Clone)]
pub struct ConvBn<T: Real> {
    /// `[Cout, Cin/g, kh, kw]`, starts in U(±1/√fan_in).
    pub conv: Conv2d<T>,
    /// Its batch norm.
    pub bn: BatchNorm2d<T>,
    /// What is cut off the input on each side, along each axis.
    crop: [usize; 2],
}

walk_fields!(impl<T> ConvBn<T> { conv, bn });

impl<T: Real> ConvBn<T> {
    /// For the windows of `spec`; `taps` is k or 1 along each axis.
    pub(super) fn new(spec: &SiteSpec, taps: [usize; 2], init: &Init) -> Self {
        let (mut padding, mut crop) = ([spec.padding; 2], [0; 2]);
        for axis in 0..2 {
            if taps[axis] < spec.kernel {
                (padding[axis], crop[axis]) = centre(spec);
            }
        }
        let inputs = spec.cin / spec.groups;
        let shape = [spec.cout, inputs, taps[0], taps[1]];
        let weight = Param::new(init.uniform(shape, inputs * taps[0] * taps[1]));
        let geometry = Geometry { padding, ..spec.geometry() };
        ConvBn { conv: Conv2d { weight, bias: None, geometry }, bn: BatchNorm2d::new(spec.cout), crop }
    }

    pub(super) fn forward(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>> {
        self.bn.after(cx, &self.conv, &crop(x, self.crop)?, Activation::Identity)
    }

    // ANCHOR: add_to
    /// Adds the branch to a kernel of the site and its bias.
    pub(super) fn add_to(&self, w: &mut Tensor<T>, b: &mut Tensor<T>) -> Result<()> {
        let (branch, shift) = fold::batch_norm(&self.conv, &self.bn)?;
        kernels::add_centred(w, &branch)?;
        b.zip_apply(&shift, |b, shift| *b += shift)
    }
    // ANCHOR_END: add_to
}

/// How the central tap sees the windows of the site: with this padding, or, where the windows do not reach as far beyond
/// the map as the kernel beyond its centre, with this much cut off on each side.
pub(super) fn centre(spec: &SiteSpec) -> (usize, usize) {
    let reach = spec.dilation * (spec.kernel / 2);
    (spec.padding.saturating_sub(reach), reach.saturating_sub(spec.padding))
}

/// `x` without its outer rows and columns.
pub(super) fn crop<T: Real>(x: &Var<T>, crop: [usize; 2]) -> Result<Var<T>> {
    let mut x = x.clone();
    for (axis, cut) in [2, 3].into_iter().zip(crop) {
        if cut > 0 {
            let extent = x.shape().get(axis).and_then(|extent| extent.checked_sub(2 * cut));
            let extent =
                extent.ok_or_else(|| Error::shape("crop", "x", format!("more than {cut} on each side"), x.shape()))?;
            x = x.narrow(axis, cut, extent)?;
        }
    }
    Ok(x)
}

/// Fails unless the kernel of the place has a centre and something around it.
pub(super) fn check_kernel(kind: &'static str, spec: &SiteSpec) -> Result<()> {
    if spec.kernel == 1 || spec.kernel.is_multiple_of(2) {
        let why = format!(
            "the site {spec} has no central tap with others around it: {kind} needs an odd kernel above 1x1; take a \
             backbone that replaces such sites, or another kind of convolution"
        );
        return Err(Error::invalid(kind, why));
    }
    Ok(())
}
