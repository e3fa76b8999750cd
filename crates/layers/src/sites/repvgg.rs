//! RepVGG (Ding et al., CVPR 2021): beside the k x k convolution a 1 x 1 convolution and, where the output has the shape
//! of the input, the input itself.
//!
//! ```text
//! y = BN_d(K * x) + BN_p(K_p * x) + BN_i(x),  K_p [Cout,Cin/g,1,1]                                  (rep.1)
//! ```
//! BN_i stands only where Cin = Cout and the stride is 1. All three look through the same windows: where the site pads
//! more or less than k x k needs to keep the size of the map, the others pad or crop as much. Folds exactly to one
//! convolution, K_p and the identity added on the central tap. k is odd and above 1; the official block has k = 3,
//! padding 1. Its squeeze-and-excitation variant, which depends on the sample, is not offered here.

use gatefold_autograd::Var;
use gatefold_tensor::kernels::conv::Geometry;
use gatefold_tensor::{Real, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::parallel::{ConvBn, centre, check_kernel, crop};
use super::{Cost, FoldError, Folded, FoldedConv, Kind, Site, SiteSpec, TrainedSite};
use crate::fold::{self, kernels};
use crate::{Activation, BatchNorm2d, Cx, Init, Walk, walk_fields};

/// The options of RepVGG.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RepVgg {
    /// Whether there is a 1 x 1 branch.
    pub pointwise: bool,
    /// Whether there is an identity branch, where it fits.
    pub identity: bool,
}

impl Default for RepVgg {
    fn default() -> Self {
        RepVgg { pointwise: true, identity: true }
    }
}

impl Kind for RepVgg {
    fn check(&self) -> Result<(), String> {
        if !self.pointwise && !self.identity {
            return Err("without the 1x1 and the identity branch nothing of RepVGG is left; use kind static".to_owned());
        }
        Ok(())
    }

    fn build<T: Real>(&self, spec: SiteSpec, init: &Init) -> Result<Box<dyn TrainedSite<T>>> {
        check_kernel("repvgg", &spec)?;
        let fits = spec.cin == spec.cout && spec.stride == 1;
        Ok(Box::new(RepVggBlock {
            spec,
            dense: ConvBn::new(&spec, [spec.kernel; 2], init),
            pointwise: self.pointwise.then(|| ConvBn::new(&spec, [1; 2], init)),
            identity: (self.identity && fits).then(|| Identity { bn: BatchNorm2d::new(spec.cout) }),
        }))
    }

    fn smallest_kernel(&self) -> usize {
        3
    }
}

/// The input and its batch norm.
#[derive(Debug, Clone)]
pub struct Identity<T: Real> {
    /// BN_i.
    pub bn: BatchNorm2d<T>,
}

walk_fields!(impl<T> Identity<T> { bn });

/// A site of RepVGG.
#[derive(Debug, Clone)]
pub struct RepVggBlock<T: Real> {
    spec: SiteSpec,
    /// K and BN_d.
    pub dense: ConvBn<T>,
    /// K_p and BN_p.
    pub pointwise: Option<ConvBn<T>>,
    /// BN_i.
    pub identity: Option<Identity<T>>,
}

walk_fields!(impl<T> RepVggBlock<T> { dense, pointwise, identity });

impl<T: Real> RepVggBlock<T> {
    /// The pixel under the central tap of each window.
    fn centres(&self, x: &Var<T>) -> Result<Var<T>> {
        let (padding, cut) = centre(&self.spec);
        if padding == 0 {
            return crop(x, [cut; 2]);
        }
        // A 1 x 1 convolution of each channel by 1 does nothing but pad.
        let ones = Var::constant(Tensor::ones([self.spec.cin, 1, 1, 1]));
        x.conv2d(&ones, None, &Geometry::default().padding(padding).groups(self.spec.cin))
    }
}

impl<T: Real> Site<T> for RepVggBlock<T> {
    fn spec(&self) -> &SiteSpec {
        &self.spec
    }

    fn forward(&self, cx: &Cx<T>, x: &Var<T>, activation: Activation) -> Result<Var<T>> {
        // ANCHOR: forward
        // (rep.1)
        let mut branches = vec![self.dense.forward(cx, x)?];
        if let Some(pointwise) = &self.pointwise {
            branches.push(pointwise.forward(cx, x)?);
        }
        if let Some(Identity { bn }) = &self.identity {
            branches.push(bn.normalise(cx, &self.centres(x)?, None, Activation::Identity)?);
        }
        Var::sum_maps(&branches.iter().collect::<Vec<_>>(), activation.into())
        // ANCHOR_END: forward
    }

    /// P · Cout · Cin/g · (k² + 1); the identity multiplies nothing but its batch norm.
    fn cost(&self, input: [usize; 2]) -> Result<Cost> {
        let (macs, taps) = (self.spec.macs(input)?, self.spec.kernel.pow(2));
        let pointwise = if self.pointwise.is_some() { macs / taps } else { 0 };
        Ok(Cost { parameters: self.parameters(), macs: macs + pointwise, ..Cost::default() })
    }
}

impl<T: Real> TrainedSite<T> for RepVggBlock<T> {
    fn fold(&self) -> Result<Folded<T>, FoldError> {
        let SiteSpec { cout, groups, kernel, .. } = self.spec;
        let (mut w, mut b) = (Tensor::zeros(self.spec.weight_shape()), Tensor::zeros([cout]));
        for branch in [Some(&self.dense), self.pointwise.as_ref()].into_iter().flatten() {
            branch.add_to(&mut w, &mut b)?;
        }
        if let Some(Identity { bn }) = &self.identity {
            let unit = fold::scale_kernels(&kernels::identity(cout, groups, kernel)?, &fold::scale(bn)?);
            kernels::add_centred(&mut w, &unit)?;
            b.zip_apply(&fold::shift(bn, &Tensor::zeros([cout]))?, |b, shift| *b += shift)?;
        }
        Ok(Folded::Conv(FoldedConv::new(self.spec, w, b)))
    }
}
