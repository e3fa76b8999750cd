//! Convolution sites: the places of a backbone where a convolution with its normalisation stands, and the systems that
//! can stand there.
//!
//! A new system is one file here and one line in the list of kinds.

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
pub use expandnet::{ExpandNet, ExpandedConv, Padding, RowForm};
pub use folded::{CompactDynamic, Evaluation, Folded, FoldedConv};
pub use generated::{Experts, FoldedGenerated, Generated, Generator, Planned};
pub use multi_layer::{BranchActivation, Form, MaConv, MdConv, MultiLayer};
pub use parallel::ConvBn;
pub use repvgg::{Identity, RepVgg, RepVggBlock};
pub use se::{Se, SqueezeExcite};
pub use spec::{Cost, SiteSpec};
pub use static_conv::{Static, StaticConv};
pub use weightnet::{Grouped, WeightNet, Weights};

use crate::{Activation, Cx, Init, Shared, Walk};

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

/// What a kind of convolution says of itself; its options implement it.
trait Kind: Default {
    /// Checks the options that no place can make right.
    ///
    /// # Errors
    /// What is wrong, in words.
    fn check(&self) -> Result<(), String>;

    /// A new site; the options are checked.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the options do not fit the place.
    fn build<T: Real>(&self, spec: SiteSpec, init: &Init) -> Result<Box<dyn TrainedSite<T>>>;

    /// What the sites of a block share whose input has `cin` channels, if they do.
    fn shared<T: Real>(&self, cin: usize, init: &Init) -> Option<Shared<T>> {
        let _ = (cin, init);
        None
    }

    /// The least extent of a kernel that it can replace.
    fn smallest_kernel(&self) -> usize {
        1
    }

    /// Sets what changes from epoch to epoch in the network that this kind was built in.
    fn begin_epoch<T: Real>(&self, epoch: usize, network: &mut (impl Walk<T> + ?Sized)) {
        let _ = (epoch, network);
    }
}

/// Writes [`ConvKind`] and whatever goes through all kinds.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:literal => $kind:ident,)+) => {
        /// The kind of convolution at the replaceable sites of a backbone, with its options.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "kind")]
        pub enum ConvKind {
            $($(#[$doc])* #[serde(rename = $name)] $kind($kind),)+
        }

        impl ConvKind {
            /// The names of all kinds, as the command line takes them.
            pub const NAMES: &[&str] = &[$($name),+];

            /// The kind of that name with its default options; `None` if there is none.
            pub fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(ConvKind::$kind($kind::default())),)+
                    _ => None,
                }
            }

            /// The name.
            pub fn name(&self) -> &'static str {
                match self { $(ConvKind::$kind(_) => $name,)+ }
            }

            /// Checks the options that no place can make right.
            ///
            /// # Errors
            /// What is wrong, in words.
            pub fn check(&self) -> Result<(), String> {
                match self { $(ConvKind::$kind(options) => options.check(),)+ }
            }

            /// The least extent of a kernel that this kind can replace.
            pub fn smallest_kernel(&self) -> usize {
                match self { $(ConvKind::$kind(options) => options.smallest_kernel(),)+ }
            }

            /// A site at a replaceable place.
            fn build_replaced<T: Real>(&self, spec: SiteSpec, init: &Init) -> Result<Box<dyn TrainedSite<T>>> {
                match self { $(ConvKind::$kind(options) => options.build(spec, init),)+ }
            }

            /// What the sites of a block share whose input has `cin` channels, if they do.
            pub fn shared<T: Real>(&self, cin: usize, init: &Init) -> Option<Shared<T>> {
                match self { $(ConvKind::$kind(options) => options.shared(cin, init),)+ }
            }

            /// Sets what a kind changes from epoch to epoch in the network that it was built in: the temperature of an
            /// annealed DYConv. Epochs count from 0.
            pub fn begin_epoch<T: Real>(&self, epoch: usize, network: &mut (impl Walk<T> + ?Sized)) {
                match self { $(ConvKind::$kind(options) => options.begin_epoch(epoch, network),)+ }
            }
        }
    };
}

kinds! {
    /// A plain convolution and a batch norm.
    "static" => Static,
    /// The paper's multi-layer asymmetric convolution.
    "maconv" => MaConv,
    /// The paper's multi-layer dynamic convolution.
    "mdconv" => MdConv,
    /// A sum of kernels weighed by attention.
    "dyconv" => DyConv,
    /// A sum of kernels weighed by a router.
    "condconv" => CondConv,
    /// A kernel from a small network.
    "weightnet" => WeightNet,
    /// Dynamic convolution by decomposition.
    "dcd" => Dcd,
    /// Every value of the kernel from a network.
    "dynamicfilter" => DynamicFilter,
    /// Squeeze-and-excitation behind the convolution.
    "se" => Se,
    /// ExpandNet's row of three convolutions.
    "expandnet" => ExpandNet,
    /// ACNet's square, column and row.
    "acnet" => AcNet,
    /// RepVGG's k x k, 1 x 1 and identity.
    "repvgg" => RepVgg,
}

impl ConvKind {
    /// A new site of this kind, or a static one where the place is not replaceable.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the options do not fit the place.
    pub fn build<T: Real>(&self, spec: SiteSpec, init: &Init) -> Result<Box<dyn TrainedSite<T>>> {
        spec.check()?;
        if !spec.replaceable {
            return Static {}.build(spec, init);
        }
        self.check().map_err(|why| Error::invalid(self.name(), why))?;
        self.build_replaced(spec, init)
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
