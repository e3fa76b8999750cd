//! ACNet's training checkpoints of ResNet18, whose 3x3 convolutions are asymmetric blocks: [`acnet`](gatefold_layers::sites::AcNet)
//! sites. Three ways to name the network are read, with the blocks' own names in each: that of ACNet's authors
//! (`DingXiaoH/ACNet`, `base_model/resnet.py`, network `sres18`), that of their later code (`DingXiaoH/DiverseBranchBlock`,
//! block type `ACB`), and torchvision's.
//!
//! ```text
//! ACNet                                  DiverseBranchBlock           torchvision
//! conv1.conv.weight                      stage0.conv1.conv.weight     conv1.weight                 stem.conv.weight
//! conv1.bn.bias                          stage0.conv1.bn.bias         bn1.bias                     stem.bn.bias
//! stage1.0.conv1.acb.square_conv.weight  stage1.0.conv1.square_conv…  layer1.0.conv1.square_conv…  blocks.0.first.square.conv…
//! stage1.0.conv2.ver_bn.bias             stage1.0.conv2.ver_bn.bias   layer1.0.conv2.ver_bn.bias   blocks.0.second.vertical.bn…
//! stage2.0.shortcut.conv.weight          stage2.0.shortcut.conv…      layer2.0.downsample.0…       blocks.2.shortcut.conv.weight
//! linear.weight                          linear.weight                fc.weight                    classifier.weight
//! ```
//! `acb` is where a block stands that a rectifier follows. The stem is a plain convolution in all three: the authors' code
//! leaves kernels of 7x7 alone.

use super::{DEPLOYED, Layout, exchange, numbered};
use crate::resnet18;

pub(super) const RESNET18: Layout = Layout {
    name: "ACNet's ResNet18",
    conv: "acnet",
    mark: |name| name.contains("square_conv.") || name.contains("fused_conv."),
    rename: |_| Box::new(rename),
    refusal: |name| match () {
        () if name.contains("fused_conv.") => Some(DEPLOYED),
        () if in_block(name).is_some_and(|(_, rest)| rest.starts_with("bn")) => {
            Some("a batch norm behind the sum of a block is not part of ACNet, and is not read")
        }
        () => Some("of the networks with its blocks ResNet18 is read, with a plain convolution as its stem"),
    },
    stem: "stem",
    network: super::resnet18::network,
};

const ENDS: &[(&str, &str)] = &[
    ("conv1.conv.weight", "stem.conv.weight"),
    ("conv1.bn.", "stem.bn."),
    ("stage0.conv1.conv.weight", "stem.conv.weight"),
    ("stage0.conv1.bn.", "stem.bn."),
    ("conv1.weight", "stem.conv.weight"),
    ("bn1.", "stem.bn."),
    ("linear.", "classifier."),
    ("fc.", "classifier."),
];
const SHORTCUT: &[(&str, &str)] = &[
    ("shortcut.conv.", "shortcut.conv."),
    ("shortcut.bn.", "shortcut.bn."),
    ("shortcut.0.", "shortcut.conv."),
    ("shortcut.1.", "shortcut.bn."),
    ("downsample.0.", "shortcut.conv."),
    ("downsample.1.", "shortcut.bn."),
];
const SITES: &[(&str, &str)] =
    &[("conv1.acb.", "first."), ("conv1.", "first."), ("conv2.acb.", "second."), ("conv2.", "second.")];
const SITE: &[(&str, &str)] = &[
    ("square_conv.weight", "square.conv.weight"),
    ("square_bn.", "square.bn."),
    ("ver_conv.weight", "vertical.conv.weight"),
    ("ver_bn.", "vertical.bn."),
    ("hor_conv.weight", "horizontal.conv.weight"),
    ("hor_bn.", "horizontal.bn."),
];

/// The basic block, counted through all stages, and the rest.
fn in_block(name: &str) -> Option<(usize, &str)> {
    let (stage, rest) = numbered(name, "stage").or_else(|| numbered(name, "layer"))?;
    let (block, rest) = numbered(rest, "")?;
    let (stages, blocks) = (resnet18::STAGES.len(), resnet18::BLOCKS);
    ((1..=stages).contains(&stage) && block < blocks).then(|| ((stage - 1) * blocks + block, rest))
}

fn rename(name: &str) -> Option<String> {
    let Some((block, rest)) = in_block(name) else { return exchange(name, ENDS) };
    let of_site =
        |(theirs, ours): &(&str, &str)| Some(format!("{ours}{}", exchange(rest.strip_prefix(theirs)?, SITE)?));
    let key = exchange(rest, SHORTCUT).or_else(|| SITES.iter().find_map(of_site))?;
    Some(format!("blocks.{block}.{key}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use gatefold_layers::{ConvKind, Init, SiteSpec, Walk};

    use super::*;

    /// The names of an asymmetric convolution block.
    fn block(path: &str) -> Vec<String> {
        let mut names = Vec::new();
        for branch in ["square", "ver", "hor"] {
            names.push(format!("{path}{branch}_conv.weight"));
            let norm = ["weight", "bias", "running_mean", "running_var"];
            names.extend(norm.map(|value| format!("{path}{branch}_bn.{value}")));
        }
        names
    }

    fn keys(names: &[String]) -> Result<Vec<String>, String> {
        RESNET18.keys(&names.iter().map(String::as_str).collect::<Vec<_>>())
    }

    #[test]
    fn official_names_are_the_keys_of_our_sites() {
        let kind = ConvKind::named("acnet").unwrap();
        let site = kind.build::<f32>(SiteSpec::same(3, 4, 3, 1), &Init::new(0)).unwrap();
        let site: Vec<_> = site.state().into_keys().collect();
        let at = |path: &str| site.iter().map(|key| format!("{path}{key}")).collect::<BTreeSet<_>>();
        for (theirs, ours) in [
            ("stage1.0.conv1.acb.", "blocks.0.first."),
            ("stage1.0.conv1.", "blocks.0.first."),
            ("stage3.1.conv2.", "blocks.5.second."),
            ("layer2.0.conv1.", "blocks.2.first."),
            ("layer4.1.conv2.acb.", "blocks.7.second."),
        ] {
            let keys = keys(&block(theirs)).unwrap();
            assert_eq!(keys.len(), site.len());
            assert_eq!(keys.into_iter().collect::<BTreeSet<_>>(), at(ours), "{theirs}");
        }
    }

    #[test]
    fn what_is_no_block_has_three_names() {
        for (ours, theirs) in [
            ("stem.conv.weight", ["conv1.conv.weight", "stage0.conv1.conv.weight", "conv1.weight"]),
            ("stem.bn.running_var", ["conv1.bn.running_var", "stage0.conv1.bn.running_var", "bn1.running_var"]),
            (
                "blocks.2.shortcut.conv.weight",
                ["stage2.0.shortcut.conv.weight", "layer2.0.shortcut.0.weight", "layer2.0.downsample.0.weight"],
            ),
            (
                "blocks.6.shortcut.bn.bias",
                ["stage4.0.shortcut.bn.bias", "stage4.0.shortcut.1.bias", "layer4.0.downsample.1.bias"],
            ),
            ("classifier.bias", ["linear.bias", "linear.bias", "fc.bias"]),
        ] {
            assert!(theirs.iter().all(|name| rename(name).as_deref() == Some(ours)), "{ours}");
        }
        let twice = keys(&["fc.bias", "linear.bias"].map(str::to_owned)).unwrap_err();
        assert!(twice.contains("`fc.bias` and `linear.bias`, which are both `classifier.bias` here"), "{twice}");
    }

    #[test]
    fn other_names_are_listed() {
        let why = |name: &str| keys(&["linear.bias", name].map(str::to_owned)).unwrap_err();
        for wrong in [
            "stage1.0.conv1.square_conv.bias",
            "stage1.0.conv1.diag_bn.weight",
            "stage1.2.conv1.square_conv.weight",
            "stage1.block0.conv1.acb.square_conv.weight",
            "stage5.0.conv1.square_conv.weight",
            "stage1.0.conv3.hor_bn.weight",
            "stage1.0.macb.square_conv.weight",
            "conv1.square_conv.weight",
            "weight",
        ] {
            let why = why(wrong);
            assert!(
                why.contains(&format!("no tensor `{wrong}`; of the networks")) && !why.contains("`linear"),
                "{why}"
            );
        }
        assert!(why("stage1.0.conv1.acb.fused_conv.bias").contains("deployment"));
        assert!(why("layer1.0.bn1.weight").contains("`layer1.0.bn1.weight`; a batch norm behind the sum"));
    }
}
