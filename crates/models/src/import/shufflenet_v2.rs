//! torchvision's `shufflenet_v2_x0_5`, `x1_0`, `x1_5` and `x2_0`: modules counted in each branch, activations included.

use super::{Layout, Renamed, exchange, numbered, outputs};
use crate::{Backbone, shufflenet_v2};

pub(super) const TORCHVISION: Layout = Layout {
    name: "torchvision's shufflenet_v2",
    conv: "static",
    mark: |name| name == "stage2.0.branch1.0.weight",
    rename: |_| Box::new(rename),
    refusal: |_| None,
    stem: "stem",
    network: |tensors| Ok((Backbone::ShuffleNetV2, width(tensors))),
};

const ENDS: &[(&str, &str)] = &[
    ("conv1.0.", "stem.conv."),
    ("conv1.1.", "stem.bn."),
    ("conv5.0.", "head.conv."),
    ("conv5.1.", "head.bn."),
    ("fc.", "classifier."),
];
const UNIT: &[(&str, &str)] = &[
    ("branch1.0.", "left.depthwise.conv."),
    ("branch1.1.", "left.depthwise.bn."),
    ("branch1.2.", "left.pointwise.conv."),
    ("branch1.3.", "left.pointwise.bn."),
    ("branch2.0.", "right.pointwise1.conv."),
    ("branch2.1.", "right.pointwise1.bn."),
    ("branch2.3.", "right.depthwise.conv."),
    ("branch2.4.", "right.depthwise.bn."),
    ("branch2.5.", "right.pointwise2.conv."),
    ("branch2.6.", "right.pointwise2.bn."),
];

fn rename(name: &str) -> Option<String> {
    let Some((stage, rest)) = numbered(name, "stage") else { return exchange(name, ENDS) };
    let (unit, rest) = numbered(rest, "")?;
    let stage = stage.checked_sub(2)?;
    let units = shufflenet_v2::UNITS.get(stage).filter(|units| unit < **units);
    let before: usize = units.map(|_| shufflenet_v2::UNITS[..stage].iter().sum())?;
    Some(format!("blocks.{}.{}", before + unit, exchange(rest, UNIT)?))
}

fn width(tensors: &Renamed) -> Option<f64> {
    let half = outputs(tensors, "blocks.0.left.pointwise")?;
    let found = shufflenet_v2::WIDTHS.iter().find(|(_, stages, _)| stages[0] / 2 == half);
    found.map(|(width, ..)| *width)
}
