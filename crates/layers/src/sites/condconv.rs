//! CondConv (Yang et al., NeurIPS 2019, arXiv 1904.04971): a weighted sum of n experts, the weights of a sample by a
//! router.
//!
//! ```text
//! α = σ(R GAP(x) + r),  W(x) = Σ_i α_i W_i,  y = BN(W(x) * x)      (cond.1)
//! ```
//! The weights of the experts need not add up to 1. Each site has a router of its own, on its own input, or shares one, on
//! the input of its block, as in the authors' EfficientNets. The experts have no biases: the batch norm has one.
//!
//! Folds to the same sum of scaled experts with a bias.

use gatefold_autograd::Var;
use gatefold_tensor::plan::{Builder, Map};
use gatefold_tensor::{Real, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::dyconv::MAX_KERNELS;
use super::generated::{Experts, Generated, Generator, Planned};
use super::{Cost, Kind, SiteSpec, TrainedSite};
use crate::{Cx, Init, PooledLinear, Share, Shared, walk_fields};

/// The options of CondConv.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CondConv {
    /// n, the number of experts.
    pub experts: usize,
    /// Who has a router.
    pub share: Share,
}

impl Default for CondConv {
    fn default() -> Self {
        CondConv { experts: 8, share: Share::Site }
    }
}

impl CondConv {
    fn router<T: Real>(&self, cin: usize, init: &Init) -> PooledLinear<T> {
        PooledLinear::new(cin, self.experts, init).gates()
    }
}

impl Kind for CondConv {
    fn check(&self) -> Result<(), String> {
        if !(1..=MAX_KERNELS).contains(&self.experts) {
            return Err(format!("{} experts are not in 1 ..= {MAX_KERNELS}", self.experts));
        }
        Ok(())
    }

    fn build<T: Real>(&self, spec: SiteSpec, init: &Init) -> Result<Box<dyn TrainedSite<T>>> {
        let experts = Experts::new(&spec, self.experts, init);
        let router = (self.share == Share::Site).then(|| self.router(spec.cin, init));
        Ok(Box::new(Generated::new(spec, Routed { experts, router })))
    }

    fn shared<T: Real>(&self, cin: usize, init: &Init) -> Option<Shared<T>> {
        (self.share == Share::Block).then(|| Shared::new("router", self.router(cin, init)))
    }
}

/// W(x) of CondConv. Keys: `experts.weight`, `router.{weight,bias}` where the site has its own.
#[derive(Debug, Clone)]
pub struct Routed<T: Real> {
    /// W_i.
    pub experts: Experts<T>,
    /// R `[n,Cin]` and r `[n]`; none where the block has them.
    pub router: Option<PooledLinear<T>>,
}

walk_fields!(impl<T> Routed<T> { experts, router });

impl<T: Real> Generator<T> for Routed<T> {
    fn generate(&self, cx: &Cx<T>, x: &Var<T>) -> Result<(Var<T>, Option<Var<T>>)> {
        let a = PooledLinear::of_site(self.router.as_ref(), cx, x)?;
        Ok((self.experts.mix(cx, &a)?, None))
    }

    fn cost(&self) -> Cost {
        let (cost, own) = (self.experts.cost(), self.router.as_ref());
        let macs = cost.macs + own.map_or(0, PooledLinear::macs);
        Cost { macs, coefficients: own.map_or(0, PooledLinear::coefficients), ..cost }
    }

    fn scaled(&self, s: &Tensor<T>) -> Box<dyn Generator<T>> {
        Box::new(Routed { experts: self.experts.scaled(s), ..self.clone() })
    }

    fn boxed(&self) -> Box<dyn Generator<T>> {
        Box::new(self.clone())
    }

    fn plan(&self, plan: &mut Builder<T>, x: Map, site: &Planned<'_, T>) -> Result<Option<Map>> {
        let a = PooledLinear::plan_of_site(self.router.as_ref(), plan, x)?;
        let w = self.experts.plan(plan, a)?;
        site.convolve(plan, x, w)
    }
}
