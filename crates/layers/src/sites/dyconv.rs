//! DYConv (Chen et al., CVPR 2020, arXiv 1912.03458): a weighted sum of K kernels, the weights of a sample by attention.
//!
//! ```text
//! π = softmax(F_2 ReLU(F_1 GAP(x) + f_1) + f_2, τ),  W(x) = Σ_k π_k W_k,  y = BN(W(x) * x)      (dy.1)
//! ```
//! The attention network is MDConv's. τ stays at 30 or, annealed, goes to 1 over the first epochs. The kernels have no
//! biases: the batch norm has one. The authors published no code.
//!
//! Folds to the same sum of scaled kernels with a bias.

use gatefold_autograd::Var;
use gatefold_tensor::plan::{Builder, Map};
use gatefold_tensor::{Real, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::generated::{Experts, Generated, Generator, Planned};
use super::{Cost, Kind, SiteSpec, TrainedSite};
use crate::{Attention, Buffer, Cx, EntryMut, Gate, Init, Walk, walk_fields};

/// The options of DYConv.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DyConv {
    /// K, the number of kernels.
    pub kernels: usize,
    /// τ of the softmax, or its first value where it is annealed.
    pub temperature: f64,
    /// Epochs over which τ goes linearly to 1; with 0 it stays.
    pub anneal: usize,
    /// Width of the attention network over the input channels.
    pub hidden: f64,
}

impl Default for DyConv {
    fn default() -> Self {
        DyConv { kernels: 4, temperature: 30.0, anneal: 0, hidden: 0.25 }
    }
}

/// More kernels than this are nobody's site; a file could ask for any number.
pub(super) const MAX_KERNELS: usize = 1024;

impl DyConv {
    /// τ in `epoch`, counted from 0.
    pub fn temperature_at(&self, epoch: usize) -> f64 {
        let share = if self.anneal == 0 { 0.0 } else { epoch.min(self.anneal) as f64 / self.anneal as f64 };
        self.temperature + (1.0 - self.temperature) * share
    }
}

impl Kind for DyConv {
    fn check(&self) -> Result<(), String> {
        if !(1..=MAX_KERNELS).contains(&self.kernels) {
            return Err(format!("{} kernels are not in 1 ..= {MAX_KERNELS}", self.kernels));
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(format!("the temperature {} is not positive and finite", self.temperature));
        }
        super::check_hidden(self.hidden)
    }

    fn build<T: Real>(&self, spec: SiteSpec, init: &Init) -> Result<Box<dyn TrainedSite<T>>> {
        let hidden = Attention::<T>::hidden_width(spec.cin, self.hidden);
        let temperature = Tensor::full([1], T::of(self.temperature));
        Ok(Box::new(Generated::new(
            spec,
            Kernels {
                experts: Experts::new(&spec, self.kernels, init),
                attention: Attention::new(spec.cin, hidden, self.kernels, Gate::Softmax, self.temperature, init),
                temperature: (self.anneal > 0).then(|| Buffer::new(temperature)),
            },
        )))
    }

    /// Gives every annealed site below `network` the temperature of `epoch`.
    fn begin_epoch<T: Real>(&self, epoch: usize, network: &mut (impl Walk<T> + ?Sized)) {
        let temperature = T::of(self.temperature_at(epoch));
        network.walk_mut("", &mut |key, entry| {
            if let (Some("temperature"), EntryMut::Buffer(buffer)) = (key.rsplit('.').next(), entry) {
                buffer.value = buffer.value.map(|_| temperature);
            }
        });
    }
}

/// W(x) of DYConv. Keys: `experts.weight`, `attention.*` and, where it is annealed, `temperature`.
#[derive(Debug, Clone)]
pub struct Kernels<T: Real> {
    /// W_k.
    pub experts: Experts<T>,
    /// π.
    pub attention: Attention<T>,
    /// τ `[1]` of the epoch, where it is annealed.
    pub temperature: Option<Buffer<T>>,
}

impl<T: Real> Kernels<T> {
    fn temperature(&self) -> f64 {
        self.temperature.as_ref().map_or(self.attention.temperature, |buffer| buffer.value.as_slice()[0].f64())
    }
}

walk_fields!(impl<T> Kernels<T> { experts, attention, temperature });

impl<T: Real> Generator<T> for Kernels<T> {
    fn generate(&self, cx: &Cx<T>, x: &Var<T>) -> Result<(Var<T>, Option<Var<T>>)> {
        let a = self.attention.gates_at(cx, &x.global_avg_pool()?, self.temperature())?;
        Ok((self.experts.mix(cx, &a)?, None))
    }

    fn cost(&self) -> Cost {
        let cost = self.experts.cost();
        Cost { macs: cost.macs + self.attention.macs(), ..cost }
    }

    fn scaled(&self, s: &Tensor<T>) -> Box<dyn Generator<T>> {
        Box::new(Kernels { experts: self.experts.scaled(s), ..self.clone() })
    }

    fn boxed(&self) -> Box<dyn Generator<T>> {
        Box::new(self.clone())
    }

    fn plan(&self, plan: &mut Builder<T>, x: Map, site: &Planned<'_, T>) -> Result<Option<Map>> {
        let a = self.attention.plan_at(plan, x, self.temperature())?;
        let w = self.experts.plan(plan, a)?;
        site.convolve(plan, x, w)
    }
}
