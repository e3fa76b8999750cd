//! The convolution layer.

use gatefold_autograd::{BatchNormStats, Var};
use gatefold_tensor::kernels::conv::Geometry;
use gatefold_tensor::plan::{Builder, Map};
use gatefold_tensor::{Real, Result, Tensor};

use crate::{Activation, Cx, Init, Module, Param, SiteSpec, walk_fields};

/// A convolution, (conv.1).
#[derive(Debug, Clone)]
pub struct Conv2d<T: Real> {
    /// `[O, C/g, k, k]`, starts in U(±1/√fan_in), or as [`Init::kaiming_fan_out`] says.
    pub weight: Param<T>,
    /// `[O]`, starts in U(±1/√fan_in); absent where a batch norm follows.
    pub bias: Option<Param<T>>,
    /// Stride, padding, dilation and groups.
    pub geometry: Geometry,
}

walk_fields!(impl<T> Conv2d<T> { weight, bias });

impl<T: Real> Conv2d<T> {
    /// The convolution of a site, from `cin` to `cout` channels.
    pub fn new(spec: &SiteSpec, bias: bool, init: &Init) -> Self {
        let fan_in = spec.cin / spec.groups * spec.kernel * spec.kernel;
        Conv2d {
            weight: Param::new(init.kernels(spec.weight_shape())),
            bias: bias.then(|| Param::new(init.uniform([spec.cout], fan_in))),
            geometry: spec.geometry(),
        }
    }

    /// With given values: what folding makes.
    pub fn from_values(weight: Tensor<T>, bias: Option<Tensor<T>>, geometry: Geometry) -> Self {
        Conv2d { weight: Param::new(weight), bias: bias.map(Param::new), geometry }
    }

    /// The output with its statistics over the batch, gathered while it is written.
    ///
    /// # Errors
    /// As [`forward`](Module::forward), and if a channel has a single value.
    pub fn forward_with_statistics(&self, cx: &Cx<T>, x: &Var<T>) -> Result<(Var<T>, BatchNormStats<T>)> {
        let bias = self.bias.as_ref().map(|b| b.var(cx));
        x.conv2d_with_statistics(&self.weight.var(cx), bias.as_ref(), &self.geometry)
    }

    /// The output with the activation behind it, applied while it is written.
    ///
    /// # Errors
    /// As [`forward`](Module::forward).
    pub fn forward_activated(&self, cx: &Cx<T>, x: &Var<T>, activation: Activation) -> Result<Var<T>> {
        let bias = self.bias.as_ref().map(|b| b.var(cx));
        x.conv2d_rectified(&self.weight.var(cx), bias.as_ref(), &self.geometry, activation.into())
    }
}

impl<T: Real> Conv2d<T> {
    /// Adds it to a plan, with the activation behind it.
    ///
    /// # Errors
    /// As [`forward`](Module::forward).
    pub fn plan(&self, plan: &mut Builder<T>, x: Map, activation: Activation) -> Result<Map> {
        let bias = self.bias.as_ref().map(|b| &b.value);
        plan.conv(x, &self.weight.value, bias, &self.geometry, activation.into())
    }
}

impl<T: Real> Module<T> for Conv2d<T> {
    fn forward(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>> {
        self.forward_activated(cx, x, Activation::Identity)
    }
}
