//! torchvision's `resnet18`: four layers of two blocks, counted by two numbers.

use super::{Found, Layout, Renamed, exchange, numbered, outputs};
use crate::{Backbone, resnet18};

pub(super) const TORCHVISION: Layout = Layout {
    name: "torchvision's resnet18",
    conv: "static",
    mark: |name| name == "layer4.1.bn2.weight",
    rename: |_| Box::new(rename),
    refusal: |_| None,
    stem: "stem",
    network,
};

const ENDS: &[(&str, &str)] = &[("conv1.", "stem.conv."), ("bn1.", "stem.bn."), ("fc.", "classifier.")];
const BLOCK: &[(&str, &str)] = &[
    ("conv1.", "first.conv."),
    ("bn1.", "first.bn."),
    ("conv2.", "second.conv."),
    ("bn2.", "second.bn."),
    ("downsample.0.", "shortcut.conv."),
    ("downsample.1.", "shortcut.bn."),
];

fn rename(name: &str) -> Option<String> {
    let Some((layer, rest)) = numbered(name, "layer") else { return exchange(name, ENDS) };
    let (block, rest) = numbered(rest, "")?;
    let block = (block < resnet18::BLOCKS).then_some(layer.checked_sub(1)? * resnet18::BLOCKS + block)?;
    Some(format!("blocks.{block}.{}", exchange(rest, BLOCK)?))
}

/// Of any ResNet18, by its stem.
pub(super) fn network(tensors: &Renamed) -> Found {
    let width = outputs(tensors, "stem").map(|channels| channels as f64 / resnet18::STAGES[0] as f64);
    Ok((Backbone::ResNet18, width))
}
