//! What sites fold to: one convolution with bias, or a compact dynamic site that generates its kernel per sample.

use gatefold_autograd::Var;
use gatefold_tensor::plan::{Builder, Kernels, Map};
use gatefold_tensor::{Real, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::multi_layer::{Parts, branch_macs, compose_macs, generated_conv};
use super::{Cost, FoldedGenerated, Site, SiteSpec};
use crate::{Activation, Attention, Conv2d, Cx, Entry, EntryMut, Module, Walk, walk_fields};

/// A folded site.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a network has a handful of sites, moved once")]
pub enum Folded<T: Real> {
    /// One convolution with bias.
    Conv(FoldedConv<T>),
    /// One convolution whose kernel is composed for each sample: MDConv.
    Dynamic(CompactDynamic<T>),
    /// One convolution whose kernel another kind generates for each sample.
    Generated(FoldedGenerated<T>),
}

/// `y = W * x + b`.
#[derive(Debug, Clone)]
pub struct FoldedConv<T: Real> {
    spec: SiteSpec,
    /// W and b.
    pub conv: Conv2d<T>,
}

walk_fields!(impl<T> FoldedConv<T> { conv });

impl<T: Real> FoldedConv<T> {
    pub(crate) fn new(spec: SiteSpec, w: Tensor<T>, b: Tensor<T>) -> Self {
        FoldedConv { spec, conv: Conv2d::from_values(w, Some(b), spec.geometry()) }
    }
}

impl<T: Real> Site<T> for FoldedConv<T> {
    fn spec(&self) -> &SiteSpec {
        &self.spec
    }

    fn forward(&self, cx: &Cx<T>, x: &Var<T>, activation: Activation) -> Result<Var<T>> {
        self.conv.forward_activated(cx, x, activation)
    }

    fn cost(&self, input: [usize; 2]) -> Result<Cost> {
        Ok(Cost { parameters: self.parameters(), macs: self.spec.macs(input)?, ..Cost::default() })
    }

    fn plan(&self, plan: &mut Builder<T>, x: Map, activation: Activation) -> Result<Option<Map>> {
        self.conv.plan(plan, x, activation).map(Some)
    }
}

/// How a compact dynamic site computes. The results are the same function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Evaluation {
    /// Whichever of the two costs fewer multiply-accumulates for the map at hand (paper 2.9).
    #[default]
    Auto,
    /// One kernel generated for each sample.
    Compact,
    /// The two convolutions of the branch beside the bypass, batch norms folded.
    Expanded,
}

/// `y = (W_b + W_2 A(x) W_1) * x + b + W_2 A(x) b_1` (paper 2.5), every batch norm folded in.
#[derive(Debug, Clone)]
pub struct CompactDynamic<T: Real> {
    spec: SiteSpec,
    /// How it computes.
    pub evaluation: Evaluation,
    /// W_b and b.
    pub bypass: Option<FoldedBypass<T>>,
    /// W_1, b_1 and W_2; b is here where there is no bypass.
    pub branch: FoldedBranch<T>,
    /// a = F(x).
    pub attention: Attention<T>,
}

walk_fields!(impl<T> CompactDynamic<T> { bypass, branch, attention });

/// The folded bypass.
#[derive(Debug, Clone)]
pub struct FoldedBypass<T: Real> {
    /// W_b, and b = b_b + b_2.
    pub conv: Conv2d<T>,
}

walk_fields!(impl<T> FoldedBypass<T> { conv });

/// The folded branch.
#[derive(Debug, Clone)]
pub struct FoldedBranch<T: Real> {
    /// W_1 and b_1.
    pub conv1: Conv2d<T>,
    /// W_2.
    pub conv2: Conv2d<T>,
}

walk_fields!(impl<T> FoldedBranch<T> { conv1, conv2 });

impl<T: Real> CompactDynamic<T> {
    pub(super) fn new(spec: SiteSpec, parts: Parts<T>, attention: Attention<T>) -> Self {
        let Parts { base, w1, b1, w2, b } = parts;
        let (of_bypass, of_branch) = if base.is_some() { (Some(b), None) } else { (None, Some(b)) };
        let second = spec.second(b1.len()).geometry();
        CompactDynamic {
            spec,
            evaluation: Evaluation::Auto,
            bypass: base.map(|w| FoldedBypass { conv: Conv2d::from_values(w, of_bypass, spec.geometry()) }),
            branch: FoldedBranch {
                conv1: Conv2d::from_values(w1, Some(b1), spec.geometry()),
                conv2: Conv2d::from_values(w2, of_branch, second),
            },
            attention,
        }
    }

    fn m(&self) -> usize {
        self.branch.conv1.weight.value.shape()[0]
    }

    /// Whether one generated kernel costs less here than the branch beside the bypass.
    // ANCHOR: evaluation
    fn runs_compact(&self, input: [usize; 2]) -> Result<bool> {
        Ok(match self.evaluation {
            Evaluation::Compact => true,
            Evaluation::Expanded => false,
            Evaluation::Auto => self.compact_macs(input)? <= self.expanded_macs(input)?,
        })
    }
    // ANCHOR_END: evaluation

    fn compact_macs(&self, input: [usize; 2]) -> Result<usize> {
        Ok(compose_macs(&self.spec, self.m()) + self.spec.macs(input)?)
    }

    fn expanded_macs(&self, input: [usize; 2]) -> Result<usize> {
        let bypass = if self.bypass.is_some() { self.spec.macs(input)? } else { 0 };
        Ok(branch_macs(&self.spec, self.m(), true, input)? + bypass)
    }
}

impl<T: Real> Site<T> for CompactDynamic<T> {
    fn spec(&self) -> &SiteSpec {
        &self.spec
    }

    fn forward(&self, cx: &Cx<T>, x: &Var<T>, activation: Activation) -> Result<Var<T>> {
        let [_, _, h, w] = x.value().dims("mdconv", "x")?;
        let a = self.attention.forward(cx, x)?;
        let FoldedBranch { conv1, conv2 } = &self.branch;
        let bypass = self.bypass.as_ref().map(|bypass| &bypass.conv);
        if self.runs_compact([h, w])? {
            let b1 = conv1.bias.as_ref().expect("a folded branch has b_1").var(cx);
            let b = bypass.unwrap_or(conv2).bias.as_ref().expect("a folded site has b").var(cx);
            let base = bypass.map(|conv| conv.weight.var(cx));
            let kernels = (base.as_ref(), &conv1.weight.var(cx), &conv2.weight.var(cx));
            generated_conv(x, Some(&a), kernels, Some((&b1, &b)), &self.spec, activation)
        } else {
            let [n, m] = a.value().dims("mdconv", "a")?;
            let u = conv1.forward(cx, x)?.mul(&a.reshape([n, m, 1, 1])?)?;
            let y = conv2.forward(cx, &u)?;
            Ok(activation.apply(match bypass {
                Some(conv) => conv.forward(cx, x)?.add(&y)?,
                None => y,
            }))
        }
    }

    fn cost(&self, input: [usize; 2]) -> Result<Cost> {
        let compact = self.runs_compact(input)?;
        let kernel: usize = self.spec.weight_shape().iter().product();
        Ok(Cost {
            parameters: self.parameters(),
            macs: self.attention.macs() + if compact { self.compact_macs(input)? } else { self.expanded_macs(input)? },
            coefficients: self.m(),
            generated: if compact { kernel + self.spec.cout } else { 0 },
        })
    }

    fn plan(&self, plan: &mut Builder<T>, x: Map, activation: Activation) -> Result<Option<Map>> {
        let [_, h, w] = plan.shape(x);
        let a = self.attention.plan(plan, x)?;
        let FoldedBranch { conv1, conv2 } = &self.branch;
        let bypass = self.bypass.as_ref().map(|bypass| &bypass.conv);
        // A step composes kernels in one group; in several the branch beside the bypass is the same function.
        if self.spec.groups == 1 && self.runs_compact([h, w])? {
            let kernels = Kernels {
                base: bypass.map(|conv| &conv.weight.value),
                b: &bypass.unwrap_or(conv2).bias.as_ref().expect("a folded site has b").value,
                w1: &conv1.weight.value,
                b1: &conv1.bias.as_ref().expect("a folded branch has b_1").value,
                w2: &conv2.weight.value,
            };
            return plan.generated_conv(x, a, &kernels, &self.spec.geometry(), activation.into()).map(Some);
        }
        let t = conv1.plan(plan, x, Activation::Identity)?;
        let u = plan.scale(t, a)?;
        let Some(bypass) = bypass else { return conv2.plan(plan, u, activation).map(Some) };
        let y = conv2.plan(plan, u, Activation::Identity)?;
        let of_bypass = bypass.plan(plan, x, Activation::Identity)?;
        plan.add(of_bypass, y, activation.into()).map(Some)
    }
}

impl<T: Real> Folded<T> {
    fn site(&self) -> &dyn Site<T> {
        match self {
            Folded::Conv(site) => site,
            Folded::Dynamic(site) => site,
            Folded::Generated(site) => site,
        }
    }
}

impl<T: Real> Walk<T> for Folded<T> {
    fn walk<'a>(&'a self, prefix: &str, visit: &mut dyn FnMut(&str, Entry<'a, T>)) {
        self.site().walk(prefix, visit);
    }

    fn walk_mut<'a>(&'a mut self, prefix: &str, visit: &mut dyn FnMut(&str, EntryMut<'a, T>)) {
        match self {
            Folded::Conv(site) => site.walk_mut(prefix, visit),
            Folded::Dynamic(site) => site.walk_mut(prefix, visit),
            Folded::Generated(site) => site.walk_mut(prefix, visit),
        }
    }
}

impl<T: Real> Site<T> for Folded<T> {
    fn spec(&self) -> &SiteSpec {
        self.site().spec()
    }

    fn forward(&self, cx: &Cx<T>, x: &Var<T>, activation: Activation) -> Result<Var<T>> {
        self.site().forward(cx, x, activation)
    }

    fn cost(&self, input: [usize; 2]) -> Result<Cost> {
        self.site().cost(input)
    }

    fn plan(&self, plan: &mut Builder<T>, x: Map, activation: Activation) -> Result<Option<Map>> {
        self.site().plan(plan, x, activation)
    }
}
