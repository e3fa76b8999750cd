//! WeightNet (Ma et al., ECCV 2020, arXiv 2007.11823): a small network that puts out the kernel itself.
//!
//! ```text
//! r = R GAP(x) + r_0 ∈ R^{C_g},  C_g = max(16, ⌊Cin/16⌋)                           (wn.1)
//! α = σ(W_α r + b_α) ∈ R^{M·Cout}                                                  (wn.2)
//! W[o,e] = Σ_j V[o,e,j] α[(o·G + ⌊e·G/E⌋)·M/G + j],  j < M/G,  E = Cin/g·k²        (wn.3)
//! y = BN(W(x) * x)
//! ```
//! (wn.3) is a fully connected layer in G·Cout groups without bias: each group makes a G-th of one output's kernel. A
//! depthwise site is the authors' depthwise variant, M/G coefficients and one group a channel. Each site has a layer R of its
//! own, on its own input, or shares one, on the input of its block, whose channels then count in C_g, as the authors do.
//!
//! Folds to the same network with scaled V and a bias.

use gatefold_autograd::Var;
use gatefold_tensor::kernels::conv::Geometry;
use gatefold_tensor::kernels::pending::Rectifier;
use gatefold_tensor::plan::{Builder, Map};
use gatefold_tensor::{Error, Real, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::generated::{Generated, Generator, Planned};
use super::{Cost, Kind, SiteSpec, TrainedSite};
use crate::{Activation, Cx, Init, Linear, Module, Param, PooledLinear, Share, Shared, fold, walk_fields};

/// The options of WeightNet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WeightNet {
    /// M, coefficients an output channel.
    pub m: usize,
    /// G, groups of the second layer an output channel; it divides M.
    pub g: usize,
    /// Who has a layer R.
    pub share: Share,
}

impl Default for WeightNet {
    fn default() -> Self {
        WeightNet { m: 2, g: 2, share: Share::Site }
    }
}

/// More coefficients than this are nobody's site; a file could ask for any number.
const MAX_M: usize = 1024;

/// C_g, from so many channels.
fn squeezed(channels: usize) -> usize {
    (channels / 16).max(16)
}

fn reduce<T: Real>(channels: usize, init: &Init) -> PooledLinear<T> {
    PooledLinear::new(channels, squeezed(channels), init)
}

impl Kind for WeightNet {
    fn check(&self) -> Result<(), String> {
        let WeightNet { m, g, .. } = *self;
        if !(1..=MAX_M).contains(&m) {
            return Err(format!("m = {m} is not in 1 ..= {MAX_M}"));
        }
        if g == 0 || m % g > 0 {
            return Err(format!("g = {g} does not divide m = {m}"));
        }
        Ok(())
    }

    fn build<T: Real>(&self, spec: SiteSpec, init: &Init) -> Result<Box<dyn TrainedSite<T>>> {
        let depthwise = spec.groups > 1 && [spec.cin, spec.cout] == [spec.groups; 2];
        let (m, g) = if depthwise { (self.m / self.g, 1) } else { (self.m, self.g) };
        let [o, i, kh, kw] = spec.weight_shape();
        let each = i * kh * kw;
        if each % g > 0 {
            let why = format!("g = {g} does not divide the {each} weights of an output channel of {spec}");
            return Err(Error::invalid("weightnet", why));
        }
        let (own, channels) = match self.share {
            Share::Site => (Some(reduce(spec.cin, init)), spec.cin),
            Share::Block => (None, spec.block),
        };
        Ok(Box::new(Generated::new(
            spec,
            Weights {
                kernels: [o, i, kh, kw],
                groups: g * o,
                reduce: own,
                fc1: Linear::new(squeezed(channels), m * o, init),
                fc2: Grouped { weight: Param::new(init.uniform([o * each, m / g], spec.cin)) },
            },
        )))
    }

    fn shared<T: Real>(&self, cin: usize, init: &Init) -> Option<Shared<T>> {
        (self.share == Share::Block).then(|| Shared::new("reduce", reduce(cin, init)))
    }
}

/// W(x) of WeightNet. Keys: `reduce.{weight,bias}` where the site has its own, `fc1.{weight,bias}`, `fc2.weight`.
#[derive(Debug, Clone)]
pub struct Weights<T: Real> {
    /// `[Cout, Cin/g, k, k]`.
    kernels: [usize; 4],
    /// G·Cout.
    groups: usize,
    /// R `[C_g,Cin]` and r_0; none where the block has them.
    pub reduce: Option<PooledLinear<T>>,
    /// W_α `[M·Cout,C_g]` and b_α.
    pub fc1: Linear<T>,
    /// V.
    pub fc2: Grouped<T>,
}

walk_fields!(impl<T> Weights<T> { reduce, fc1, fc2 });

/// A fully connected layer in groups, without bias.
#[derive(Debug, Clone)]
pub struct Grouped<T: Real> {
    /// `[Cout·E, M/G]`, starts in U(±1/√Cin): so do the kernels, whose coefficients are at most 1.
    pub weight: Param<T>,
}

walk_fields!(impl<T> Grouped<T> { weight });

impl<T: Real> Weights<T> {
    /// (wn.3): `α [N,M·Cout]` → `[N·Cout,Cin/g,k,k]`.
    // ANCHOR: grouped
    fn weights(&self, cx: &Cx<T>, alpha: &Var<T>) -> Result<Var<T>> {
        let [o, i, kh, kw] = self.kernels;
        let (n, groups, terms) = (alpha.shape()[0], self.groups, self.fc2.weight.value.shape()[1]);
        let alpha = alpha.reshape([n, groups, terms])?;
        let v = self.fc2.weight.var(cx).reshape([1, groups, o * i * kh * kw / groups, terms])?;
        let mut w: Option<Var<T>> = None;
        for j in 0..terms {
            let v = v.narrow(3, j, 1)?.reshape([1, groups, o * i * kh * kw / groups])?;
            let term = alpha.narrow(2, j, 1)?.mul(&v)?;
            w = Some(match w {
                Some(w) => w.add(&term)?,
                None => term,
            });
        }
        w.expect("M/G is at least 1").reshape([n * o, i, kh, kw])
    }
    // ANCHOR_END: grouped
}

impl<T: Real> Generator<T> for Weights<T> {
    fn generate(&self, cx: &Cx<T>, x: &Var<T>) -> Result<(Var<T>, Option<Var<T>>)> {
        let r = PooledLinear::of_site(self.reduce.as_ref(), cx, x)?;
        let alpha = self.fc1.forward(cx, &r)?.sigmoid();
        Ok((self.weights(cx, &alpha)?, None))
    }

    /// `Cin·C_g + C_g·M·Cout + M/G·Cout·Cin/g·k²` multiply-accumulates, M·Cout coefficients.
    fn cost(&self) -> Cost {
        let reduce = self.reduce.as_ref().map_or(0, PooledLinear::macs);
        Cost {
            macs: reduce + self.fc1.weight.value.len() + self.fc2.weight.value.len(),
            coefficients: self.fc1.bias.value.len(),
            generated: self.kernels.iter().product(),
            ..Cost::default()
        }
    }

    fn scaled(&self, s: &Tensor<T>) -> Box<dyn Generator<T>> {
        let weight = fold::scale_kernels(&self.fc2.weight.value, s);
        Box::new(Weights { fc2: Grouped { weight: Param::new(weight) }, ..self.clone() })
    }

    fn boxed(&self) -> Box<dyn Generator<T>> {
        Box::new(self.clone())
    }

    fn plan(&self, plan: &mut Builder<T>, x: Map, site: &Planned<'_, T>) -> Result<Option<Map>> {
        let r = PooledLinear::plan_of_site(self.reduce.as_ref(), plan, x)?;
        let o = self.fc1.plan(plan, r, Activation::Identity)?;
        let alpha = plan.sigmoid(o);
        let [rows, terms] = self.fc2.weight.value.dims("weightnet", "fc2")?;
        let v = self.fc2.weight.value.reshape([rows, terms, 1, 1])?;
        let w = plan.conv(alpha, &v, None, &Geometry::default().groups(self.groups), Rectifier::Identity)?;
        let w = super::generated::plan_in_memory_order(plan, w, self.kernels)?;
        site.convolve(plan, x, w)
    }
}
