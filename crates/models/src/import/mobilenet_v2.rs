//! torchvision's `mobilenet_v2`: `features` counted from the stem to the head, modules counted in each bottleneck.

use super::{Layout, Renamed, exchange, numbered, outputs};
use crate::{Backbone, mobilenet_v2};

pub(super) const TORCHVISION: Layout = Layout {
    name: "torchvision's mobilenet_v2",
    conv: "static",
    mark: |name| name == "features.1.conv.0.0.weight",
    rename: |_| Box::new(rename),
    refusal: |_| None,
    stem: "stem",
    network: |tensors| Ok((Backbone::MobileNetV2, width(tensors))),
};

/// Where the head stands, behind the stem and 17 bottlenecks.
const HEAD: usize = 18;

const FIRST: &[(&str, &str)] = &[
    ("conv.0.0.", "depthwise.conv."),
    ("conv.0.1.", "depthwise.bn."),
    ("conv.1.", "project.conv."),
    ("conv.2.", "project.bn."),
];
const EXPANDED: &[(&str, &str)] = &[
    ("conv.0.0.", "expand.conv."),
    ("conv.0.1.", "expand.bn."),
    ("conv.1.0.", "depthwise.conv."),
    ("conv.1.1.", "depthwise.bn."),
    ("conv.2.", "project.conv."),
    ("conv.3.", "project.bn."),
];
const SITE: &[(&str, &str)] = &[("0.", "conv."), ("1.", "bn.")];

fn rename(name: &str) -> Option<String> {
    let Some((at, rest)) = numbered(name, "features.") else {
        return exchange(name, &[("classifier.1.", "classifier.")]);
    };
    let (path, rest) = match at {
        0 => ("stem".to_owned(), exchange(rest, SITE)),
        1 => ("blocks.0".to_owned(), exchange(rest, FIRST)),
        2..HEAD => (format!("blocks.{}", at - 1), exchange(rest, EXPANDED)),
        HEAD => ("head".to_owned(), exchange(rest, SITE)),
        _ => return None,
    };
    Some(format!("{path}.{}", rest?))
}

/// Rounding gives many widths the same channels: the first of the quarters, then of the twentieths, then of the hundredths.
pub(super) fn width(tensors: &Renamed) -> Option<f64> {
    let project = |block: usize| outputs(tensors, &format!("blocks.{block}.project"));
    let mut found = vec![outputs(tensors, "stem")?];
    for block in mobilenet_v2::first_blocks() {
        found.push(project(block)?);
    }
    let head = outputs(tensors, "head")?;
    let fits = |width: &f64| mobilenet_v2::channels(*width)[..] == found[..] && mobilenet_v2::features(*width) == head;
    let widths = |parts: u32| (1..=4 * parts).map(move |n| f64::from(n) / f64::from(parts));
    [4, 20, 100].into_iter().flat_map(widths).find(fits)
}
