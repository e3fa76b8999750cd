//! What the sites of a block have in common: one layer on the means of the block's input, evaluated once.

use gatefold_autograd::Var;
use gatefold_tensor::plan::{Builder, Map};
use gatefold_tensor::{Error, Real, Result};
use serde::{Deserialize, Serialize};

use crate::sites::Cost;
use crate::{Activation, Cx, Entry, EntryMut, Init, Linear, Module, Walk, join};

/// Who has the layer that reads the means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Share {
    /// Each site has its own, on its own input.
    #[default]
    Site,
    /// The sites of a block share one, on the block's input.
    Block,
}

/// `F GAP(x) + f`, through a sigmoid where its values are gates: the router of CondConv, the layer R of WeightNet. Its keys
/// are those of the fully connected layer.
#[derive(Debug, Clone)]
pub struct PooledLinear<T: Real> {
    /// F `[O,Cin]` and f `[O]`.
    pub linear: Linear<T>,
    gates: bool,
}

impl<T: Real> PooledLinear<T> {
    /// From `cin` channels to `outputs` values.
    pub fn new(cin: usize, outputs: usize, init: &Init) -> Self {
        PooledLinear { linear: Linear::new(cin, outputs, init), gates: false }
    }

    /// The same with the sigmoid behind it.
    #[must_use]
    pub fn gates(self) -> Self {
        PooledLinear { gates: true, ..self }
    }

    /// The multiply-accumulates of one sample: Cin·O.
    pub fn macs(&self) -> usize {
        self.linear.weight.value.len()
    }

    /// The number of values that are gates: O or none.
    pub fn coefficients(&self) -> usize {
        if self.gates { self.linear.bias.value.len() } else { 0 }
    }

    /// Adds it to a plan: `x` → `[O, 1, 1]`.
    ///
    /// # Errors
    /// As [`forward`](Module::forward).
    pub fn plan(&self, plan: &mut Builder<T>, x: Map) -> Result<Map> {
        let means = plan.global_avg_pool(x);
        let y = self.linear.plan(plan, means, Activation::Identity)?;
        Ok(if self.gates { plan.sigmoid(y) } else { y })
    }

    /// The values of a site: of its own layer on `x`, or those that its block has made.
    pub(crate) fn of_site(own: Option<&Self>, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>> {
        match own {
            Some(layer) => layer.forward(cx, x),
            None => cx.shared().ok_or_else(without_block),
        }
    }

    /// The same in a plan.
    pub(crate) fn plan_of_site(own: Option<&Self>, plan: &mut Builder<T>, x: Map) -> Result<Map> {
        match own {
            Some(layer) => layer.plan(plan, x),
            None => plan.shared().ok_or_else(without_block),
        }
    }
}

fn without_block() -> Error {
    Error::invalid("site", "it shares a layer with the sites of its block, and no block runs it")
}

impl<T: Real> Module<T> for PooledLinear<T> {
    /// `x [N,Cin,H,W]` → `[N,O]`.
    fn forward(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>> {
        let y = self.linear.forward(cx, &x.global_avg_pool()?)?;
        Ok(if self.gates { y.sigmoid() } else { y })
    }
}

impl<T: Real> Walk<T> for PooledLinear<T> {
    fn walk<'a>(&'a self, prefix: &str, visit: &mut dyn FnMut(&str, Entry<'a, T>)) {
        self.linear.walk(prefix, visit);
    }

    fn walk_mut<'a>(&'a mut self, prefix: &str, visit: &mut dyn FnMut(&str, EntryMut<'a, T>)) {
        self.linear.walk_mut(prefix, visit);
    }
}

/// The layer of a block, under the name that it has in its kind.
#[derive(Debug, Clone)]
pub struct Shared<T: Real> {
    name: &'static str,
    /// The layer.
    pub layer: PooledLinear<T>,
}

impl<T: Real> Shared<T> {
    pub(crate) fn new(name: &'static str, layer: PooledLinear<T>) -> Self {
        Shared { name, layer }
    }

    /// What it costs for one sample.
    pub fn cost(&self) -> Cost {
        Cost {
            parameters: self.parameters(),
            macs: self.layer.macs(),
            coefficients: self.layer.coefficients(),
            generated: 0,
        }
    }
}

impl<T: Real> Walk<T> for Shared<T> {
    fn walk<'a>(&'a self, prefix: &str, visit: &mut dyn FnMut(&str, Entry<'a, T>)) {
        self.layer.walk(&join(prefix, self.name), visit);
    }

    fn walk_mut<'a>(&'a mut self, prefix: &str, visit: &mut dyn FnMut(&str, EntryMut<'a, T>)) {
        self.layer.walk_mut(&join(prefix, self.name), visit);
    }
}
