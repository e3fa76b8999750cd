//! Layers, convolution sites and folds.
//!
//! A *layer* ([`Conv2d`], [`BatchNorm2d`], [`Linear`], [`Attention`]) owns parameters; a *site* is a place in a backbone
//! where a convolution with its normalisation stands, and [`ConvKind`] says which of the paper's systems stands there.
//! Every site [`fold`](TrainedSite::fold)s, where a fold exists, to another type: one convolution with bias, or a compact
//! dynamic site that generates its kernel per sample.
//!
//! Field names are the state-dict keys, as PyTorch writes them.

mod activation;
mod attention;
mod batch_norm;
mod conv;
mod cx;
pub mod fold;
mod init;
mod linear;
mod module;
mod param;
mod shared;
pub mod sites;

pub use activation::Activation;
pub use attention::{Attention, Gate};
pub use batch_norm::BatchNorm2d;
pub use conv::Conv2d;
pub use cx::{Cx, Mode, ParamGradients, Statistics};
pub use init::Init;
pub use linear::Linear;
pub use module::{Entry, EntryMut, LoadError, Module, Walk, join};
pub use param::{Buffer, Id, Param};
pub use shared::{PooledLinear, Share, Shared};
pub use sites::{
    BranchActivation, CondConv, ConvKind, Cost, Dcd, DyConv, DynamicFilter, Evaluation, FoldError, Folded, Form,
    MaConv, MdConv, Se, Site, SiteSpec, TrainedSite, WeightNet,
};
