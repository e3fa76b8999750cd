//! Dynamic filter network (De Brabandere et al., NIPS 2016, arXiv 1605.09673), its dynamic convolution: a network puts out
//! every value of the kernel. The extreme of dynamic kernels, and of what they cost.
//!
//! ```text
//! c = ReLU(F_1 GAP(x) + f_1) ∈ R^d,  vec(W(x)) = F_2 c + f_2,  y = BN(W(x) * x)      (df.1)
//! ```
//! The paper conditions on whatever its task has at hand; in the place of a convolution that is the input itself. f_2 starts
//! as the kernel of a plain convolution does, F_2 in N(0, 0.01²). Dynamic local filtering, a kernel for each position, is
//! another layer.
//!
//! Folds to the same network with scaled F_2 and f_2, and a bias.

use gatefold_autograd::Var;
use gatefold_tensor::plan::{Builder, Map};
use gatefold_tensor::{Real, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::generated::{Generated, Generator, Planned, in_memory_order, plan_in_memory_order};
use super::{Cost, Kind, SiteSpec, TrainedSite, check_hidden};
use crate::{Activation, Attention, Cx, Init, Linear, Module, Param, fold, walk_fields};

/// The options of the dynamic filter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DynamicFilter {
    /// d over the input channels.
    pub hidden: f64,
}

impl Default for DynamicFilter {
    fn default() -> Self {
        DynamicFilter { hidden: 0.25 }
    }
}

impl Kind for DynamicFilter {
    fn check(&self) -> Result<(), String> {
        check_hidden(self.hidden)
    }

    fn build<T: Real>(&self, spec: SiteSpec, init: &Init) -> Result<Box<dyn TrainedSite<T>>> {
        let d = Attention::<T>::hidden_width(spec.cin, self.hidden);
        let kernels = spec.weight_shape();
        let len = kernels.iter().product::<usize>();
        Ok(Box::new(Generated::new(
            spec,
            Filters {
                kernels,
                fc1: Linear::new(spec.cin, d, init),
                fc2: Linear {
                    weight: Param::new(init.normal([len, d], 0.01)),
                    bias: Param::new(init.kernels(kernels).reshape([len])?),
                },
            },
        )))
    }
}

/// W(x) of the dynamic filter. Keys: `fc1.{weight,bias}`, `fc2.{weight,bias}`.
#[derive(Debug, Clone)]
pub struct Filters<T: Real> {
    /// `[Cout, Cin/g, k, k]`.
    kernels: [usize; 4],
    /// F_1 `[d,Cin]` and f_1.
    pub fc1: Linear<T>,
    /// F_2 `[Cout·Cin/g·k²,d]` and f_2.
    pub fc2: Linear<T>,
}

walk_fields!(impl<T> Filters<T> { fc1, fc2 });

impl<T: Real> Generator<T> for Filters<T> {
    fn generate(&self, cx: &Cx<T>, x: &Var<T>) -> Result<(Var<T>, Option<Var<T>>)> {
        let [o, i, kh, kw] = self.kernels;
        let c = self.fc1.forward(cx, &x.global_avg_pool()?)?.relu();
        // In memory order, in which a convolution reads kernels: the rows of F_2 are rearranged, not the kernels of all samples.
        let rows = |w: &Param<T>| in_memory_order(&w.var(cx), self.kernels);
        let w = c.linear(&rows(&self.fc2.weight)?, Some(&rows(&self.fc2.bias)?))?;
        Ok((w.reshape_memory([x.shape()[0] * o, i, kh, kw])?, None))
    }

    /// `Cin·d + d·Cout·Cin/g·k²` multiply-accumulates; every weight is a coefficient.
    fn cost(&self) -> Cost {
        let generated = self.kernels.iter().product();
        let macs = self.fc1.weight.value.len() + self.fc2.weight.value.len();
        Cost { macs, coefficients: generated, generated, ..Cost::default() }
    }

    fn scaled(&self, s: &Tensor<T>) -> Box<dyn Generator<T>> {
        let [weight, bias] = [&self.fc2.weight, &self.fc2.bias].map(|w| Param::new(fold::scale_kernels(&w.value, s)));
        Box::new(Filters { fc2: Linear { weight, bias }, ..self.clone() })
    }

    fn boxed(&self) -> Box<dyn Generator<T>> {
        Box::new(self.clone())
    }

    fn plan(&self, plan: &mut Builder<T>, x: Map, site: &Planned<'_, T>) -> Result<Option<Map>> {
        let means = plan.global_avg_pool(x);
        let c = self.fc1.plan(plan, means, Activation::Relu)?;
        let w = self.fc2.plan(plan, c, Activation::Identity)?;
        let w = plan_in_memory_order(plan, w, self.kernels)?;
        site.convolve(plan, x, w)
    }
}
