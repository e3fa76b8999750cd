//! ACNet (Ding et al., ICCV 2019): beside the k x k convolution its central column and its central row, as convolutions
//! of their own.
//!
//! ```text
//! y = BN_s(K * x) + BN_v(K_v * x) + BN_h(K_h * x),  K_v [Cout,Cin/g,k,1],  K_h [Cout,Cin/g,1,k]     (ac.1)
//! ```
//! All three look through the same windows. No batch norm follows the sum. Folds exactly to one convolution, the branches
//! added on the central column and row. k is odd and above 1. The official code aligns the windows of dilation 1 only;
//! here they are aligned for any.

use gatefold_autograd::Var;
use gatefold_tensor::{Real, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::parallel::{ConvBn, check_kernel};
use super::{Cost, FoldError, Folded, FoldedConv, Kind, Site, SiteSpec, TrainedSite};
use crate::{Activation, Cx, Init, Walk, walk_fields};

/// The options of ACNet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AcNet {
    /// γ of the three batch norms at the start: 1 on ImageNet, 1/3 on CIFAR in the official recipes.
    pub gamma: f64,
}

impl Default for AcNet {
    fn default() -> Self {
        AcNet { gamma: 1.0 }
    }
}

impl Kind for AcNet {
    fn check(&self) -> Result<(), String> {
        if !(self.gamma > 0.0 && self.gamma <= 1024.0) {
            return Err(format!("the initial gamma {} is not in (0, 1024]", self.gamma));
        }
        Ok(())
    }

    fn build<T: Real>(&self, spec: SiteSpec, init: &Init) -> Result<Box<dyn TrainedSite<T>>> {
        check_kernel("acnet", &spec)?;
        let k = spec.kernel;
        let branch = |taps| {
            let mut branch = ConvBn::new(&spec, taps, init);
            branch.bn.weight.value = branch.bn.weight.value.map(|_| T::of(self.gamma));
            branch
        };
        let [square, vertical, horizontal] = [[k, k], [k, 1], [1, k]].map(branch);
        Ok(Box::new(AcBlock { spec, square, vertical, horizontal }))
    }

    fn smallest_kernel(&self) -> usize {
        3
    }
}

/// A site of ACNet.
#[derive(Debug, Clone)]
pub struct AcBlock<T: Real> {
    spec: SiteSpec,
    /// K and BN_s.
    pub square: ConvBn<T>,
    /// K_v and BN_v.
    pub vertical: ConvBn<T>,
    /// K_h and BN_h.
    pub horizontal: ConvBn<T>,
}

walk_fields!(impl<T> AcBlock<T> { square, vertical, horizontal });

impl<T: Real> Site<T> for AcBlock<T> {
    fn spec(&self) -> &SiteSpec {
        &self.spec
    }

    fn forward(&self, cx: &Cx<T>, x: &Var<T>, activation: Activation) -> Result<Var<T>> {
        // (ac.1)
        let branches = [&self.square, &self.vertical, &self.horizontal].map(|branch| branch.forward(cx, x));
        let [square, vertical, horizontal] = branches;
        Var::sum_maps(&[&square?, &vertical?, &horizontal?], activation.into())
    }

    /// P · Cout · Cin/g · (k² + 2k).
    fn cost(&self, input: [usize; 2]) -> Result<Cost> {
        let row = self.spec.macs(input)? / self.spec.kernel;
        Ok(Cost { parameters: self.parameters(), macs: row * (self.spec.kernel + 2), ..Cost::default() })
    }
}

impl<T: Real> TrainedSite<T> for AcBlock<T> {
    fn fold(&self) -> Result<Folded<T>, FoldError> {
        let (mut w, mut b) = (Tensor::zeros(self.spec.weight_shape()), Tensor::zeros([self.spec.cout]));
        for branch in [&self.square, &self.vertical, &self.horizontal] {
            branch.add_to(&mut w, &mut b)?;
        }
        Ok(Folded::Conv(FoldedConv::new(self.spec, w, b)))
    }
}
