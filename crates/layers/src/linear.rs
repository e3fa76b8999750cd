//! The fully connected layer.

use gatefold_autograd::Var;
use gatefold_tensor::plan::{Builder, Map};
use gatefold_tensor::{Real, Result};

use crate::{Activation, Cx, Init, Module, Param, walk_fields};

/// y = x wᵀ + b.
#[derive(Debug, Clone)]
pub struct Linear<T: Real> {
    /// `[O, I]`, starts in U(±1/√I).
    pub weight: Param<T>,
    /// `[O]`, starts in U(±1/√I).
    pub bias: Param<T>,
}

walk_fields!(impl<T> Linear<T> { weight, bias });

impl<T: Real> Linear<T> {
    /// From `inputs` to `outputs` values.
    pub fn new(inputs: usize, outputs: usize, init: &Init) -> Self {
        Linear {
            weight: Param::new(init.uniform([outputs, inputs], inputs)),
            bias: Param::new(init.uniform([outputs], inputs)),
        }
    }
}

impl<T: Real> Linear<T> {
    /// Adds it to a plan, with the activation behind it.
    ///
    /// # Errors
    /// As [`forward`](Module::forward).
    pub fn plan(&self, plan: &mut Builder<T>, x: Map, activation: Activation) -> Result<Map> {
        plan.linear(x, &self.weight.value, Some(&self.bias.value), activation.into())
    }
}

impl<T: Real> Module<T> for Linear<T> {
    fn forward(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>> {
        x.linear(&self.weight.var(cx), Some(&self.bias.var(cx)))
    }
}
