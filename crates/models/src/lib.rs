//! Backbones, generic in their convolution sites; what they cost; and the files they live in.

mod description;
pub mod file;
pub mod import;
mod inference;
pub mod mobilenet_v2;
mod model;
mod network;
pub mod repvgg;
pub mod resnet18;
#[cfg(test)]
mod sharing;
pub mod shufflenet_v2;
mod small_net;
mod summary;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod totals;

pub use description::{Backbone, Description, Normalisation};
pub use file::{FileError, Stored};
pub use inference::Inference;
pub use mobilenet_v2::MobileNetV2;
pub use model::Model;
pub use network::{BackboneSite, LayerCost, MaxPool, Network, NotFoldable, Resolution};
pub use repvgg::RepVgg;
pub use resnet18::ResNet18;
pub use shufflenet_v2::ShuffleNetV2;
pub use small_net::SmallNet;
pub use summary::{Row, Summary};
