//! The fully connected layer.

use gatefold_autograd::Var;
use gatefold_tensor::Real;
use gatefold_tensor::Result;

use crate::{Cx, Init, Module, Param, walk_fields};

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

impl<T: Real> Module<T> for Linear<T> {
    fn forward(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>> {
        x.linear(&self.weight.var(cx), Some(&self.bias.var(cx)))
    }
}
