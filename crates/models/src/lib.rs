//! Backbones, generic in their convolution sites; what they cost; and the files they live in.

mod description;
pub mod file;
mod inference;
mod model;
mod network;
mod small_net;
mod summary;

pub use description::{Backbone, Description, Normalisation};
pub use file::{FileError, Stored};
pub use inference::Inference;
pub use model::Model;
pub use network::{BackboneSite, LayerCost, Network, NotFoldable};
pub use small_net::SmallNet;
pub use summary::{Row, Summary};
