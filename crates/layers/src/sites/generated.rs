//! Convolutions whose kernel is generated for each sample: what DYConv, CondConv, WeightNet and the dynamic filter have in
//! common, and what they fold to.
//!
//! ```text
//! trained   y = BN(W(x) * x)                                       (gen.1)
//! folded    y = W'(x) * x + b(x) + b',  W' = s W,  b' = β − s μ     (gen.2)
//! ```
//! Every generator here is linear in its last layer, so the scale s of the batch norm goes into that layer, and a folded
//! site is the same generator with other values. Only DCD, folded, generates biases b(x) too.

use std::fmt::Debug;

use gatefold_autograd::Var;
use gatefold_tensor::plan::{Builder, Map};
use gatefold_tensor::{Real, Result, Tensor};

use super::{Cost, FoldError, Folded, Site, SiteSpec, TrainedSite};
use crate::{Activation, BatchNorm2d, Cx, Entry, EntryMut, Init, Param, Walk, fold, join};

/// Makes the kernels of each sample.
pub trait Generator<T: Real>: Walk<T> + Debug {
    /// Kernels, and biases where samples have their own.
    ///
    /// # Shapes
    /// `x [N,Cin,H,W]` → `[N·Cout,Cin/g,k,k]` and `[N,Cout]`.
    /// # Errors
    /// [`gatefold_tensor::Error::Shape`] if `x` has other channels.
    fn generate(&self, cx: &Cx<T>, x: &Var<T>) -> Result<(Var<T>, Option<Var<T>>)>;

    /// What generating costs for one sample, without the parameters.
    fn cost(&self) -> Cost;

    /// The same generator with the kernels of output o times `s[o]`.
    fn scaled(&self, s: &Tensor<T>) -> Box<dyn Generator<T>>;

    /// A copy.
    fn boxed(&self) -> Box<dyn Generator<T>>;

    /// Adds the steps of (gen.2) for an image: for most, those of its kernels in memory order, and a
    /// [convolution](Planned::convolve) with them. `None` from a generator that has none.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    fn plan(&self, plan: &mut Builder<T>, x: Map, site: &Planned<'_, T>) -> Result<Option<Map>>;
}

/// What a plan needs to know of a folded site beside its generator.
pub struct Planned<'a, T: Real> {
    /// The place.
    pub spec: &'a SiteSpec,
    /// b' `[Cout]`.
    pub bias: &'a Tensor<T>,
    /// What follows.
    pub activation: Activation,
}

impl<T: Real> Planned<'_, T> {
    /// `W * x + b'` with the kernels `w` of an image in memory order, and the activation behind it.
    ///
    /// # Errors
    /// [`gatefold_tensor::Error::Shape`] if `x` or `w` are not those of the place.
    pub fn convolve(&self, plan: &mut Builder<T>, x: Map, w: Map) -> Result<Option<Map>> {
        let (kernels, geometry) = (self.spec.weight_shape(), self.spec.geometry());
        plan.conv_per_sample(x, (w, kernels), self.bias, &geometry, self.activation.into()).map(Some)
    }
}

/// A site with a generated kernel and a batch norm behind it, (gen.1). The generator's keys stand beside `bn`.
#[derive(Debug, Clone)]
pub struct Generated<T: Real, G> {
    spec: SiteSpec,
    /// W(x).
    pub generator: G,
    /// BN.
    pub bn: BatchNorm2d<T>,
}

impl<T: Real, G> Generated<T, G> {
    pub(super) fn new(spec: SiteSpec, generator: G) -> Self {
        Generated { spec, generator, bn: BatchNorm2d::new(spec.cout) }
    }
}

impl<T: Real, G: Generator<T>> Walk<T> for Generated<T, G> {
    fn walk<'a>(&'a self, prefix: &str, visit: &mut dyn FnMut(&str, Entry<'a, T>)) {
        self.generator.walk(prefix, visit);
        self.bn.walk(&join(prefix, "bn"), visit);
    }

    fn walk_mut<'a>(&'a mut self, prefix: &str, visit: &mut dyn FnMut(&str, EntryMut<'a, T>)) {
        self.generator.walk_mut(prefix, visit);
        self.bn.walk_mut(&join(prefix, "bn"), visit);
    }
}

impl<T: Real, G: Generator<T>> Site<T> for Generated<T, G> {
    fn spec(&self) -> &SiteSpec {
        &self.spec
    }

    // ANCHOR: trained
    fn forward(&self, cx: &Cx<T>, x: &Var<T>, activation: Activation) -> Result<Var<T>> {
        let (w, b) = self.generator.generate(cx, x)?;
        let y = x.conv2d_per_sample(&w, b.as_ref(), &self.spec.geometry(), Activation::Identity.into())?;
        self.bn.normalise(cx, &y, None, activation)
    }
    // ANCHOR_END: trained

    fn cost(&self, input: [usize; 2]) -> Result<Cost> {
        let cost = self.generator.cost();
        Ok(Cost { parameters: self.parameters(), macs: cost.macs + self.spec.macs(input)?, ..cost })
    }
}

impl<T: Real, G: Generator<T>> TrainedSite<T> for Generated<T, G> {
    // ANCHOR: fold
    fn fold(&self) -> Result<Folded<T>, FoldError> {
        let s = fold::scale(&self.bn)?;
        let shift = fold::shift(&self.bn, &Tensor::zeros([self.spec.cout]))?;
        Ok(Folded::Generated(FoldedGenerated::new(self.spec, self.generator.scaled(&s), shift)))
    }
    // ANCHOR_END: fold
}

/// One convolution whose kernel is generated for each sample, every batch norm folded in, (gen.2).
#[derive(Debug)]
pub struct FoldedGenerated<T: Real> {
    spec: SiteSpec,
    /// W'(x) and b(x).
    pub generator: Box<dyn Generator<T>>,
    /// b' `[Cout]`, of all samples.
    pub bias: Param<T>,
}

impl<T: Real> FoldedGenerated<T> {
    pub(super) fn new(spec: SiteSpec, generator: Box<dyn Generator<T>>, bias: Tensor<T>) -> Self {
        FoldedGenerated { spec, generator, bias: Param::new(bias) }
    }
}

impl<T: Real> Clone for FoldedGenerated<T> {
    fn clone(&self) -> Self {
        FoldedGenerated { spec: self.spec, generator: self.generator.boxed(), bias: self.bias.clone() }
    }
}

impl<T: Real> Walk<T> for FoldedGenerated<T> {
    fn walk<'a>(&'a self, prefix: &str, visit: &mut dyn FnMut(&str, Entry<'a, T>)) {
        self.generator.walk(prefix, visit);
        self.bias.walk(&join(prefix, "bias"), visit);
    }

    fn walk_mut<'a>(&'a mut self, prefix: &str, visit: &mut dyn FnMut(&str, EntryMut<'a, T>)) {
        self.generator.walk_mut(prefix, visit);
        self.bias.walk_mut(&join(prefix, "bias"), visit);
    }
}

impl<T: Real> Site<T> for FoldedGenerated<T> {
    fn spec(&self) -> &SiteSpec {
        &self.spec
    }

    fn forward(&self, cx: &Cx<T>, x: &Var<T>, activation: Activation) -> Result<Var<T>> {
        let (w, b) = self.generator.generate(cx, x)?;
        let b = b.unwrap_or_else(|| Var::constant(Tensor::zeros([x.shape()[0], self.spec.cout])));
        let b = b.add(&self.bias.var(cx))?;
        x.conv2d_per_sample(&w, Some(&b), &self.spec.geometry(), activation.into())
    }

    fn cost(&self, input: [usize; 2]) -> Result<Cost> {
        let cost = self.generator.cost();
        Ok(Cost { parameters: self.parameters(), macs: cost.macs + self.spec.macs(input)?, ..cost })
    }

    fn plan(&self, plan: &mut Builder<T>, x: Map, activation: Activation) -> Result<Option<Map>> {
        self.generator.plan(plan, x, &Planned { spec: &self.spec, bias: &self.bias.value, activation })
    }
}

/// K kernels of which each sample gets a weighted sum: the experts of CondConv, the kernels of DYConv.
///
/// ```text
/// W(x) = Σ_k a_k(x) W_k      (experts.1)
/// ```
#[derive(Debug, Clone)]
pub struct Experts<T: Real> {
    /// W_k, `[K,Cout,Cin/g,k,k]`; each starts as the kernels of a convolution of its own do.
    pub weight: Param<T>,
}

crate::walk_fields!(impl<T> Experts<T> { weight });

impl<T: Real> Experts<T> {
    pub(super) fn new(spec: &SiteSpec, count: usize, init: &Init) -> Self {
        let kernels: Vec<T> = (0..count).flat_map(|_| init.kernels::<T>(spec.weight_shape()).to_vec()).collect();
        let [o, i, kh, kw] = spec.weight_shape();
        let weight = Tensor::from_vec([count, o, i, kh, kw], kernels).expect("count kernels");
        Experts { weight: Param::new(weight) }
    }

    /// `[K, Cout, Cin/g, k, k]`.
    fn shape(&self) -> [usize; 5] {
        self.weight.value.dims("experts", "weight").expect("experts are made and loaded with five axes")
    }

    /// (experts.1): `a [N,K]` → `[N·Cout,Cin/g,k,k]`.
    // ANCHOR: mix
    pub(super) fn mix(&self, cx: &Cx<T>, a: &Var<T>) -> Result<Var<T>> {
        let [k, o, i, kh, kw] = self.shape();
        // In memory order, in which a convolution reads them: the few experts are rearranged, not the kernels of all samples.
        let experts = self.weight.var(cx).reshape([k * o, i, kh, kw])?.reshape_memory([k, o * i * kh * kw])?;
        a.matmul(&experts)?.reshape_memory([a.shape()[0] * o, i, kh, kw])
    }
    // ANCHOR_END: mix

    /// Of one sample: `K·Cout·Cin/g·k²` multiply-accumulates, K coefficients.
    pub(super) fn cost(&self) -> Cost {
        let [k, kernel @ ..] = self.shape();
        Cost { macs: self.weight.value.len(), coefficients: k, generated: kernel.iter().product(), ..Cost::default() }
    }

    pub(super) fn scaled(&self, s: &Tensor<T>) -> Self {
        let [_, _, i, kh, kw] = self.shape();
        let mut weight = self.weight.value.clone();
        let kernels = weight.as_mut_slice().chunks_exact_mut(i * kh * kw);
        kernels.zip(s.as_slice().iter().cycle()).for_each(|(kernel, &s)| kernel.iter_mut().for_each(|w| *w *= s));
        Experts { weight: Param::new(weight) }
    }

    /// The kernels of an image in memory order, from `a [K,1,1]`.
    pub(super) fn plan(&self, plan: &mut Builder<T>, a: Map) -> Result<Map> {
        let [k, o, i, kh, kw] = self.shape();
        let in_memory = self.weight.value.reshape([k * o, i, kh, kw])?;
        let (experts, len) = (in_memory.as_slice(), o * i * kh * kw);
        let rows = Tensor::from_fn([len, k], |at| experts[at[1] * len + at[0]]);
        plan.linear(a, &rows, None, Activation::Identity.into())
    }
}

/// The rows of `w [O·C·kh·kw, ..]`, one for each weight, from logical order `[O,C,kh,kw]` to memory order `[O,kh,kw,C]`.
pub(super) fn in_memory_order<T: Real>(w: &Var<T>, kernels: [usize; 4]) -> Result<Var<T>> {
    let [o, i, kh, kw] = kernels;
    if i == 1 || kh * kw == 1 {
        return Ok(w.clone());
    }
    let len = w.value().len() / (o * i * kh * kw);
    // Memory has the second axis of four last: that of the first shape goes behind the rows, that of the second before them.
    let channels_last = w.reshape([o, i, kh * kw, len])?.reshape_memory([o * kh * kw, i, 1, len])?;
    channels_last.reshape(*w.shape())
}

/// The kernels of an image, from logical order `[O,C,kh,kw]` to memory order `[O,kh,kw,C]`.
pub(super) fn plan_in_memory_order<T: Real>(plan: &mut Builder<T>, w: Map, kernels: [usize; 4]) -> Result<Map> {
    let [o, i, kh, kw] = kernels;
    if i == 1 || kh * kw == 1 {
        return Ok(w);
    }
    let taps = kh * kw;
    let logical = (0..o * taps * i).map(|at| (at / (taps * i) * i + at % i) * taps + at / i % taps);
    plan.gather(&logical.map(|at| (w, at)).collect::<Vec<_>>())
}
