//! The static convolution: `y = BN(W * x)`. Folds exactly to one convolution with bias.

use gatefold_autograd::Var;
use gatefold_tensor::{Error, Real, Result};
use serde::{Deserialize, Serialize};

use super::{Cost, FoldError, Folded, FoldedConv, Kind, Site, SiteSpec, TrainedSite};
use crate::{Activation, BatchNorm2d, Conv2d, Cx, Init, Mode, Walk, fold, walk_fields};

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

    /// The site in training as one affine map, (ft.9): the same function of the same parameters. What it gives is made where a
    /// depthwise convolution reads it.
    ///
    /// # Errors
    /// If the convolution is not pointwise or has a bias, and as [`forward`](Site::forward).
    pub fn forward_folded(&self, cx: &Cx<T>, x: &Var<T>, activation: Activation) -> Result<Var<T>> {
        if !self.spec.is_pointwise() || self.conv.bias.is_some() {
            let why = format!("{} cannot train folded: only 1x1 sites without a bias can", self.spec);
            return Err(Error::invalid("static", why));
        }
        let (y, stats) = x.sample_moments(false)?.single_site(&self.bn.behind(cx, &self.conv), activation.into())?;
        cx.record(&self.bn, &stats);
        Ok(y)
    }
}

/// Whether a training step costs less folded: where few channels become many, in a map larger than the caches, of four
/// megabytes. There the moments of the input cost less than the output's way to memory and back, if a depthwise convolution reads
/// it, as is usual behind such a place; `cargo bench --bench kernels single` shows both ways.
///
/// On one core of an Intel Xeon (2.5 GHz), 128 images and the depthwise convolution behind it included, 8 to 48 channels at
/// 32 x 32 take 29.4 ms instead of 33.9, 16 to 96 at 16 x 16 16.6 instead of 17.6, but 24 to 144 at 8 x 8 8.5 instead of 8.3,
/// and 16 to 16 at 32 x 32 10.5 instead of 9.6.
// ANCHOR: folding_pays
fn folding_pays(spec: &SiteSpec, x: &[usize]) -> bool {
    const MOST: usize = 16;
    const WIDER: usize = 4;
    const LARGE: usize = 1 << 20;
    let &[n, _, h, w] = x else { return false };
    spec.is_pointwise() && spec.cin <= MOST && spec.cout >= WIDER * spec.cin && n * h * w * spec.cout >= LARGE
}
// ANCHOR_END: folding_pays

impl<T: Real> Site<T> for StaticConv<T> {
    fn spec(&self) -> &SiteSpec {
        &self.spec
    }

    fn forward(&self, cx: &Cx<T>, x: &Var<T>, activation: Activation) -> Result<Var<T>> {
        if cx.mode() == Mode::Train && self.conv.bias.is_none() && folding_pays(&self.spec, &x.shape()[..]) {
            return self.forward_folded(cx, x, activation);
        }
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
