//! Squeeze-and-excitation (Hu et al., CVPR 2018, arXiv 1709.01507): a gate on the channels that a convolution puts out.
//!
//! ```text
//! u = BN(W * x),  e = σ(E_2 ReLU(E_1 GAP(u) + e_1) + e_2),  y = e ⊙ u      (se.1)
//! ```
//! It stands behind the batch norm of each replaced convolution, before the activation, so that MDConv and it are compared in
//! the same places; the authors put one behind the last batch norm of a residual branch, with r = 16.
//!
//! There is no fold: e reads what the convolution has put out, so no kernel can be known before the convolution has run. (At a
//! pointwise site of stride 1, and only there, GAP(u) is a function of GAP(x).)

use gatefold_autograd::Var;
use gatefold_tensor::{Real, Result};
use serde::{Deserialize, Serialize};

use super::{Cost, FoldError, Folded, Kind, Site, SiteSpec, TrainedSite};
use crate::{Activation, Attention, BatchNorm2d, Conv2d, Cx, Gate, Init, Module, Walk, walk_fields};

/// The options of squeeze-and-excitation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Se {
    /// r: the hidden width is ⌊Cout/r⌋, at least 1.
    pub reduction: usize,
}

impl Default for Se {
    fn default() -> Self {
        Se { reduction: 4 }
    }
}

impl Kind for Se {
    fn check(&self) -> Result<(), String> {
        if self.reduction == 0 {
            return Err("the reduction 0 is not positive".to_owned());
        }
        Ok(())
    }

    fn build<T: Real>(&self, spec: SiteSpec, init: &Init) -> Result<Box<dyn TrainedSite<T>>> {
        let (channels, hidden) = (spec.cout, (spec.cout / self.reduction).max(1));
        Ok(Box::new(SqueezeExcite {
            spec,
            conv: Conv2d::new(&spec, false, init),
            bn: BatchNorm2d::new(channels),
            se: Attention::new(channels, hidden, channels, Gate::Sigmoid, 1.0, init),
        }))
    }
}

/// A convolution, its batch norm, and the gate on its channels. Keys: `conv.weight`, `bn.*`, `se.fc1.*`, `se.fc2.*`.
#[derive(Debug, Clone)]
pub struct SqueezeExcite<T: Real> {
    spec: SiteSpec,
    /// W.
    pub conv: Conv2d<T>,
    /// BN.
    pub bn: BatchNorm2d<T>,
    /// e: `fc1` is E_1 `[Cout/r,Cout]`, `fc2` is E_2.
    pub se: Attention<T>,
}

walk_fields!(impl<T> SqueezeExcite<T> { conv, bn, se });

impl<T: Real> Site<T> for SqueezeExcite<T> {
    fn spec(&self) -> &SiteSpec {
        &self.spec
    }

    // ANCHOR: forward
    fn forward(&self, cx: &Cx<T>, x: &Var<T>, activation: Activation) -> Result<Var<T>> {
        let u = self.bn.after(cx, &self.conv, x, Activation::Identity)?;
        let e = self.se.forward(cx, &u)?;
        Ok(activation.apply(u.gate(&e)?))
    }
    // ANCHOR_END: forward

    /// `2 C²/r + P·C` multiply-accumulates more than the convolution, C coefficients.
    fn cost(&self, input: [usize; 2]) -> Result<Cost> {
        let [oh, ow] = self.spec.output(input)?;
        Ok(Cost {
            parameters: self.parameters(),
            macs: self.spec.macs(input)? + self.se.macs() + oh * ow * self.spec.cout,
            coefficients: self.spec.cout,
            generated: 0,
        })
    }
}

impl<T: Real> TrainedSite<T> for SqueezeExcite<T> {
    fn fold(&self) -> Result<Folded<T>, FoldError> {
        let why = "squeeze-and-excitation gates the output of the convolution by that very output, so no kernel is known \
                   before the convolution has run";
        Err(FoldError::NotFoldable(why.to_owned()))
    }
}
