//! The static convolution: `y = BN(W * x)`. Folds exactly to one convolution with bias.

use gatefold_autograd::Var;
use gatefold_tensor::{Real, Result};
use serde::{Deserialize, Serialize};

use super::{Cost, FoldError, Folded, FoldedConv, Kind, Site, SiteSpec, TrainedSite};
use crate::{Activation, BatchNorm2d, Conv2d, Cx, Init, Walk, fold, walk_fields};

/// The static convolution has no options.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Static {}

impl Kind for Static {
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    fn build<T: Real>(&self, spec: SiteSpec, init: &Init) -> Result<Box<dyn TrainedSite<T>>> {
        Ok(Box::new(StaticConv::new(spec, init)))
    }
}

/// A convolution without bias and the batch norm behind it.
#[derive(Debug, Clone)]
pub struct StaticConv<T: Real> {
    spec: SiteSpec,
    /// W.
    pub conv: Conv2d<T>,
    /// BN.
    pub bn: BatchNorm2d<T>,
}

walk_fields!(impl<T> StaticConv<T> { conv, bn });

impl<T: Real> StaticConv<T> {
    /// For the place `spec`.
    pub fn new(spec: SiteSpec, init: &Init) -> Self {
        StaticConv { spec, conv: Conv2d::new(&spec, false, init), bn: BatchNorm2d::new(spec.cout) }
    }
}

impl<T: Real> Site<T> for StaticConv<T> {
    fn spec(&self) -> &SiteSpec {
        &self.spec
    }

    fn forward(&self, cx: &Cx<T>, x: &Var<T>, activation: Activation) -> Result<Var<T>> {
        self.bn.after(cx, &self.conv, x, activation)
    }

    fn cost(&self, input: [usize; 2]) -> Result<Cost> {
        Ok(Cost { parameters: self.parameters(), macs: self.spec.macs(input)?, ..Cost::default() })
    }
}

impl<T: Real> TrainedSite<T> for StaticConv<T> {
    fn fold(&self) -> Result<Folded<T>, FoldError> {
        let (w, b) = fold::batch_norm(&self.conv, &self.bn)?;
        Ok(Folded::Conv(FoldedConv::new(self.spec, w, b)))
    }
}
