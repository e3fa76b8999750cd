//! Convolution sites: the places of a backbone where a convolution with its normalisation stands, and the systems that
//! can stand there.
//!
//! A new system is one file here, one variant of [`ConvKind`] and one line in each of its two lists.

mod acnet;
mod condconv;
mod dcd;
mod dyconv;
mod dynamicfilter;
mod expandnet;
mod folded;
mod generated;
mod multi_layer;
mod parallel;
mod repvgg;
mod se;
mod spec;
mod static_conv;
mod weightnet;

use gatefold_autograd::Var;
use gatefold_tensor::plan::{Builder, Map};
use gatefold_tensor::{Error, Real, Result};
use serde::{Deserialize, Serialize};

pub use acnet::{AcBlock, AcNet};
pub use condconv::{CondConv, Routed};
pub use dcd::{Dcd, Decomposed, DecomposedKernel, Head, Projection};
pub use dyconv::{DyConv, Kernels};
pub use dynamicfilter::{DynamicFilter, Filters};
pub use expandnet::{ExpandNet, ExpandedConv, Padding};
pub use folded::{CompactDynamic, Evaluation, Folded, FoldedConv};
pub use generated::{Experts, FoldedGenerated, Generated, Generator};
pub use multi_layer::{BranchActivation, Form, MaConv, MdConv, MultiLayer};
pub use parallel::ConvBn;
pub use repvgg::{Identity, RepVgg, RepVggBlock};
pub use se::{Se, SqueezeExcite};
pub use spec::{Cost, SiteSpec};
pub use static_conv::StaticConv;
pub use weightnet::{Grouped, WeightNet, Weights};

use crate::{Activation, Cx, Init, Walk};

/// A convolution with its normalisation, in the place that a backbone declares.
pub trait Site<T: Real>: Walk<T> {
    /// The place: channels, kernel, stride, padding, dilation, groups.
    fn spec(&self) -> &SiteSpec;

    /// The normalised output, with the activation that follows it.
    ///
    /// # Shapes
    /// `x [N,Cin,H,W]` → `[N,Cout,OH,OW]`.
    /// # Errors
    /// [`Error::Shape`] if `x` does not fit the place.
    fn forward(&self, cx: &Cx<T>, x: &Var<T>, activation: Activation) -> Result<Var<T>>;

    /// What one sample of `[H, W]` positions costs.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the kernel is larger than the padded input.
    fn cost(&self, input: [usize; 2]) -> Result<Cost>;

    /// Adds the steps of [`forward`](Self::forward) in eval mode to a plan; `None` from a site that has no such steps.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn plan(&self, plan: &mut Builder<T>, x: Map, activation: Activation) -> Result<Option<Map>> {
        let _ = (plan, x, activation);
        Ok(None)
    }
}

/// A site as it is trained; it folds into another type, if a fold exists.
pub trait TrainedSite<T: Real>: Site<T> {
    /// The folded site, by the running statistics. A pure function: this site is left alone.
    ///
    /// # Errors
    /// [`FoldError::NotFoldable`] says why there is no fold.
    fn fold(&self) -> Result<Folded<T>, FoldError>;
}

/// Why a site has no folded form.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FoldError {
    /// No fold exists.
    #[error("{0}")]
    NotFoldable(String),
    /// A fold exists and failed.
    #[error(transparent)]
    Op(#[from] Error),
}

/// The kind of convolution at the replaceable sites of a backbone, with its options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ConvKind {
    /// A plain convolution and a batch norm.
    Static(Static),
    /// The paper's multi-layer asymmetric convolution.
    MaConv(MaConv),
    /// The paper's multi-layer dynamic convolution.
    MdConv(MdConv),
    /// A sum of kernels weighed by attention.
    DyConv(DyConv),
    /// A sum of kernels weighed by a router.
    CondConv(CondConv),
    /// A kernel from a small network.
    WeightNet(WeightNet),
    /// Dynamic convolution by decomposition.
    Dcd(Dcd),
    /// Every value of the kernel from a network.
    DynamicFilter(DynamicFilter),
    /// Squeeze-and-excitation behind the convolution.
    Se(Se),
    /// ExpandNet's row of three convolutions.
    ExpandNet(ExpandNet),
    /// ACNet's square, column and row.
    AcNet(AcNet),
    /// RepVGG's k x k, 1 x 1 and identity.
    RepVgg(RepVgg),
}

/// The static convolution has no options.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Static {}

impl ConvKind {
    /// The names of all kinds, as the command line takes them.
    pub const NAMES: &[&str] = &[
        "static",
        "maconv",
        "mdconv",
        "dyconv",
        "condconv",
        "weightnet",
        "dcd",
        "dynamicfilter",
        "se",
        "expandnet",
        "acnet",
        "repvgg",
    ];

    /// The kind of that name with its default options; `None` if there is none.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "static" => ConvKind::Static(Static {}),
            "maconv" => ConvKind::MaConv(MaConv::default()),
            "mdconv" => ConvKind::MdConv(MdConv::default()),
            "dyconv" => ConvKind::DyConv(DyConv::default()),
            "condconv" => ConvKind::CondConv(CondConv::default()),
            "weightnet" => ConvKind::WeightNet(WeightNet::default()),
            "dcd" => ConvKind::Dcd(Dcd::default()),
            "dynamicfilter" => ConvKind::DynamicFilter(DynamicFilter::default()),
            "se" => ConvKind::Se(Se::default()),
            "expandnet" => ConvKind::ExpandNet(ExpandNet::default()),
            "acnet" => ConvKind::AcNet(AcNet::default()),
            "repvgg" => ConvKind::RepVgg(RepVgg::default()),
            _ => return None,
        })
    }

    /// The name.
    pub fn name(&self) -> &'static str {
        match self {
            ConvKind::Static(_) => "static",
            ConvKind::MaConv(_) => "maconv",
            ConvKind::MdConv(_) => "mdconv",
            ConvKind::DyConv(_) => "dyconv",
            ConvKind::CondConv(_) => "condconv",
            ConvKind::WeightNet(_) => "weightnet",
            ConvKind::Dcd(_) => "dcd",
            ConvKind::DynamicFilter(_) => "dynamicfilter",
            ConvKind::Se(_) => "se",
            ConvKind::ExpandNet(_) => "expandnet",
            ConvKind::AcNet(_) => "acnet",
            ConvKind::RepVgg(_) => "repvgg",
        }
    }

    /// Checks the options that no place can make right.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self) -> Result<(), String> {
        match self {
            ConvKind::Static(_) => Ok(()),
            ConvKind::MaConv(options) => options.check(),
            ConvKind::MdConv(options) => options.check(),
            ConvKind::DyConv(options) => options.check(),
            ConvKind::CondConv(options) => options.check(),
            ConvKind::WeightNet(options) => options.check(),
            ConvKind::Dcd(options) => options.check(),
            ConvKind::DynamicFilter(options) => options.check(),
            ConvKind::Se(options) => options.check(),
            ConvKind::ExpandNet(options) => options.check(),
            ConvKind::AcNet(options) => options.check(),
            ConvKind::RepVgg(options) => options.check(),
        }
    }

    /// The least extent of a kernel that this kind can replace.
    pub fn smallest_kernel(&self) -> usize {
        if matches!(self, ConvKind::AcNet(_) | ConvKind::RepVgg(_)) { 3 } else { 1 }
    }

    /// A new site of this kind, or a static one where the place is not replaceable.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the options do not fit the place.
    pub fn build<T: Real>(&self, spec: SiteSpec, init: &Init) -> Result<Box<dyn TrainedSite<T>>> {
        spec.check()?;
        Ok(match self {
            ConvKind::MaConv(options) if spec.replaceable => Box::new(options.build(spec, init)?),
            ConvKind::MdConv(options) if spec.replaceable => Box::new(options.build(spec, init)?),
            ConvKind::DyConv(options) if spec.replaceable => Box::new(options.build(spec, init)?),
            ConvKind::CondConv(options) if spec.replaceable => Box::new(options.build(spec, init)?),
            ConvKind::WeightNet(options) if spec.replaceable => Box::new(options.build(spec, init)?),
            ConvKind::Dcd(options) if spec.replaceable => Box::new(options.build(spec, init)?),
            ConvKind::DynamicFilter(options) if spec.replaceable => Box::new(options.build(spec, init)?),
            ConvKind::Se(options) if spec.replaceable => Box::new(options.build(spec, init)?),
            ConvKind::ExpandNet(options) if spec.replaceable => Box::new(options.build(spec, init)?),
            ConvKind::AcNet(options) if spec.replaceable => Box::new(options.build(spec, init)?),
            ConvKind::RepVgg(options) if spec.replaceable => Box::new(options.build(spec, init)?),
            _ => Box::new(StaticConv::new(spec, init)),
        })
    }
}

impl ConvKind {
    /// Sets what a kind changes from epoch to epoch in the network that it was built in: the temperature of an annealed
    /// DYConv. Epochs count from 0.
    pub fn begin_epoch<T: Real>(&self, epoch: usize, network: &mut (impl Walk<T> + ?Sized)) {
        if let ConvKind::DyConv(options) = self {
            options.begin_epoch(epoch, network);
        }
    }
}

/// The width of a hidden layer over its input channels.
fn check_hidden(hidden: f64) -> Result<(), String> {
    if hidden > 0.0 && hidden <= 1024.0 {
        Ok(())
    } else {
        Err(format!("the hidden ratio {hidden} is not in (0, 1024]"))
    }
}

impl<T: Real, S: Site<T> + ?Sized> Site<T> for Box<S> {
    fn spec(&self) -> &SiteSpec {
        (**self).spec()
    }

    fn forward(&self, cx: &Cx<T>, x: &Var<T>, activation: Activation) -> Result<Var<T>> {
        (**self).forward(cx, x, activation)
    }

    fn cost(&self, input: [usize; 2]) -> Result<Cost> {
        (**self).cost(input)
    }

    fn plan(&self, plan: &mut Builder<T>, x: Map, activation: Activation) -> Result<Option<Map>> {
        (**self).plan(plan, x, activation)
    }
}
