//! CondConv (Yang et al., NeurIPS 2019, arXiv 1904.04971): a weighted sum of n experts, the weights of a sample by a
//! router.
//!
//! ```text
//! α = σ(R GAP(x) + r),  W(x) = Σ_i α_i W_i,  y = BN(W(x) * x)      (cond.1)
//! ```
//! The weights of the experts need not add up to 1. Each site has a router of its own, on its own input; the authors'
//! EfficientNets share one among the convolutions of a block. The experts have no biases: the batch norm has one.
//!
//! Folds to the same sum of scaled experts with a bias.

use gatefold_autograd::Var;
use gatefold_tensor::plan::{Builder, Map};
use gatefold_tensor::{Error, Real, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::dyconv::MAX_KERNELS;
use super::generated::{Experts, Generated, Generator};
use super::{Cost, SiteSpec};
use crate::{Activation, Cx, Init, Linear, Module, walk_fields};

/// The options of CondConv.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CondConv {
    /// n, the number of experts.
    pub experts: usize,
}

impl Default for CondConv {
    fn default() -> Self {
        CondConv { experts: 8 }
    }
}

impl CondConv {
    pub(super) fn check(&self) -> Result<(), String> {
        if !(1..=MAX_KERNELS).contains(&self.experts) {
            return Err(format!("{} experts are not in 1 ..= {MAX_KERNELS}", self.experts));
        }
        Ok(())
    }

    pub(super) fn build<T: Real>(&self, spec: SiteSpec, init: &Init) -> Result<Generated<T, Routed<T>>> {
        self.check().map_err(|why| Error::invalid("condconv", why))?;
        let experts = Experts::new(&spec, self.experts, init);
        Ok(Generated::new(spec, Routed { experts, router: Linear::new(spec.cin, self.experts, init) }))
    }
}

/// W(x) of CondConv. Keys: `experts.weight`, `router.{weight,bias}`.
#[derive(Debug, Clone)]
pub struct Routed<T: Real> {
    /// W_i.
    pub experts: Experts<T>,
    /// R `[n,Cin]` and r `[n]`.
    pub router: Linear<T>,
}

walk_fields!(impl<T> Routed<T> { experts, router });

impl<T: Real> Generator<T> for Routed<T> {
    fn generate(&self, cx: &Cx<T>, x: &Var<T>) -> Result<(Var<T>, Option<Var<T>>)> {
        let a = self.router.forward(cx, &x.global_avg_pool()?)?.sigmoid();
        Ok((self.experts.mix(cx, &a)?, None))
    }

    fn cost(&self) -> Cost {
        let cost = self.experts.cost();
        Cost { macs: cost.macs + self.router.weight.value.len(), ..cost }
    }

    fn scaled(&self, s: &Tensor<T>) -> Box<dyn Generator<T>> {
        Box::new(Routed { experts: self.experts.scaled(s), ..self.clone() })
    }

    fn boxed(&self) -> Box<dyn Generator<T>> {
        Box::new(self.clone())
    }

    fn plan(&self, plan: &mut Builder<T>, x: Map) -> Result<Option<Map>> {
        let means = plan.global_avg_pool(x);
        let o = self.router.plan(plan, means, Activation::Identity)?;
        let a = plan.sigmoid(o);
        self.experts.plan(plan, a).map(Some)
    }
}
