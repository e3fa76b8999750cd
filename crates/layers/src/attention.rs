//! The attention network of a dynamic site: which share of each kernel a sample gets (paper 2.3).

use gatefold_autograd::Var;
use gatefold_tensor::plan::{Builder, Map};
use gatefold_tensor::{Real, Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Activation, Cx, Init, Linear, Module, Param, walk_fields};

/// The function at the end of an attention network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gate {
    /// a = σ(o).
    Sigmoid,
    /// a = softmax(o/τ).
    Softmax,
}

/// `a = gate(F_2 ReLU(F_1 GAP(x) + f_1) + f_2)` (paper 2.3): F_1 `[q, Cin]` starts as Kaiming-normal, F_2 `[m, q]` in
/// N(0, 0.01²), the biases at 0, so that the gates start constant.
#[derive(Debug, Clone)]
pub struct Attention<T: Real> {
    /// F_1, f_1.
    pub fc1: Linear<T>,
    /// F_2, f_2.
    pub fc2: Linear<T>,
    /// The function at the end.
    pub gate: Gate,
    /// τ, of the softmax.
    pub temperature: f64,
}

walk_fields!(impl<T> Attention<T> { fc1, fc2 });

impl<T: Real> Attention<T> {
    /// From `cin` channels over `hidden` values to `m` coefficients.
    pub fn new(cin: usize, hidden: usize, m: usize, gate: Gate, temperature: f64, init: &Init) -> Self {
        let kaiming = (2.0 / cin as f64).sqrt();
        let layer = |shape: [usize; 2], deviation: f64| Linear {
            weight: Param::new(init.normal(shape, deviation)),
            bias: Param::new(Tensor::zeros([shape[0]])),
        };
        Attention { fc1: layer([hidden, cin], kaiming), fc2: layer([m, hidden], 0.01), gate, temperature }
    }

    /// The hidden width of `cin` channels at a ratio: ⌊ratio · Cin⌋, at least 1.
    pub fn hidden_width(cin: usize, ratio: f64) -> usize {
        ((cin as f64 * ratio).floor() as usize).max(1)
    }

    /// The multiply-accumulates of one sample: Cin·q + q·m.
    pub fn macs(&self) -> usize {
        self.fc1.weight.value.len() + self.fc2.weight.value.len()
    }

    /// The number of coefficients, m.
    pub fn coefficients(&self) -> usize {
        self.fc2.bias.value.len()
    }
}

// ANCHOR: forward
impl<T: Real> Module<T> for Attention<T> {
    /// `x [N,Cin,H,W]` → `a [N,m]`.
    fn forward(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>> {
        self.gates(cx, &x.global_avg_pool()?)
    }
}

impl<T: Real> Attention<T> {
    /// From the means over positions `[N,Cin]` → `a [N,m]`.
    ///
    /// # Errors
    /// If there are not Cin means.
    pub fn gates(&self, cx: &Cx<T>, means: &Var<T>) -> Result<Var<T>> {
        self.gates_at(cx, means, self.temperature)
    }

    /// The same at another temperature.
    pub(crate) fn gates_at(&self, cx: &Cx<T>, means: &Var<T>, temperature: f64) -> Result<Var<T>> {
        let h = self.fc1.forward(cx, means)?.relu();
        let o = self.fc2.forward(cx, &h)?;
        match self.gate {
            Gate::Sigmoid => Ok(o.sigmoid()),
            Gate::Softmax => o.softmax(temperature),
        }
    }
}
// ANCHOR_END: forward

impl<T: Real> Attention<T> {
    /// Adds it to a plan: `x` → `[m, 1, 1]`.
    ///
    /// # Errors
    /// As [`forward`](Module::forward).
    pub fn plan(&self, plan: &mut Builder<T>, x: Map) -> Result<Map> {
        self.plan_at(plan, x, self.temperature)
    }

    /// The same at another temperature.
    pub(crate) fn plan_at(&self, plan: &mut Builder<T>, x: Map, temperature: f64) -> Result<Map> {
        let means = plan.global_avg_pool(x);
        let h = self.fc1.plan(plan, means, Activation::Relu)?;
        let o = self.fc2.plan(plan, h, Activation::Identity)?;
        match self.gate {
            Gate::Sigmoid => Ok(plan.sigmoid(o)),
            Gate::Softmax => plan.softmax(o, temperature),
        }
    }
}
