//! RepVGG's training checkpoints by the names of its authors' code (`DingXiaoH/RepVGG`, `repvgg.py`): a network of
//! [`repvgg`](gatefold_layers::sites::RepVgg) sites.
//!
//! ```text
//! stage0.rbr_dense.conv.weight      stem.dense.conv.weight
//! stage2.1.rbr_1x1.bn.bias          blocks.N.pointwise.bn.bias      N: blocks of stage 1, and 1
//! stage2.1.rbr_identity.weight      blocks.N.identity.bn.weight
//! linear.bias                       classifier.bias
//! ```
//! Stages have as many blocks as the names say. Which variant (A0 to B3g4) it is say the number of blocks, the channels of
//! each stage, and the groups of the second block.

use super::{DEPLOYED, Found, Layout, Renamed, exchange, numbered, shape, weight};
use crate::Backbone;
use crate::repvgg::Variant;

pub(super) const OFFICIAL: Layout = Layout {
    name: "RepVGG",
    conv: "repvgg",
    mark: |name| name.contains("rbr_"),
    rename: |names| {
        let blocks = blocks(names);
        Box::new(move |name| rename(name, &blocks))
    },
    refusal: |name| match () {
        () if name.contains("rbr_reparam.") => Some(DEPLOYED),
        () if name.contains(".se.") => Some("a variant with squeeze-and-excitation has no fold, and is not read"),
        () => None,
    },
    stem: "stem.dense",
    network,
};

const STAGES: usize = 4;
const BLOCK: &[(&str, &str)] = &[
    ("rbr_dense.conv.weight", "dense.conv.weight"),
    ("rbr_dense.bn.", "dense.bn."),
    ("rbr_1x1.conv.weight", "pointwise.conv.weight"),
    ("rbr_1x1.bn.", "pointwise.bn."),
    ("rbr_identity.", "identity.bn."),
];

/// Blocks in each stage.
fn blocks(names: &[&str]) -> [usize; STAGES] {
    let mut blocks = [0; STAGES];
    for (stage, block, _) in names.iter().filter_map(|name| in_stage(name)) {
        blocks[stage - 1] = blocks[stage - 1].max(block.saturating_add(1));
    }
    blocks
}

/// The stage, 1 to 4, the block in it, and the rest.
fn in_stage(name: &str) -> Option<(usize, usize, &str)> {
    let (stage, rest) = numbered(name, "stage")?;
    let (block, rest) = numbered(rest, "")?;
    (1..=STAGES).contains(&stage).then_some((stage, block, rest))
}

fn rename(name: &str, blocks: &[usize; STAGES]) -> Option<String> {
    if let Some((stage, block, rest)) = in_stage(name) {
        let before = blocks[..stage - 1].iter().fold(0, |sum: usize, n| sum.saturating_add(*n));
        return Some(format!("blocks.{}.{}", before.saturating_add(block), exchange(rest, BLOCK)?));
    }
    match name.strip_prefix("stage0.") {
        Some(rest) => Some(format!("stem.{}", exchange(rest, BLOCK)?)),
        None => exchange(name, &[("linear.", "classifier.")]),
    }
}

/// The variant and its width. Some widths of one are the network of another: that of width 1 comes first.
fn network(tensors: &Renamed) -> Found {
    let dense = |site: &str| shape(tensors, &weight(&format!("{site}.dense")));
    let block = |i: usize| dense(&format!("blocks.{i}"));
    let count = tensors.keys().filter_map(|key| numbered(key, "blocks.")).map(|(i, _)| i.saturating_add(1)).max();
    let count = count.unwrap_or(0);
    let variants = Variant::ALL.into_iter().filter(|variant| variant.blocks().iter().sum::<usize>() == count);
    let Some(first) = variants.clone().next() else {
        return Err(format!("no variant has {count} blocks behind the stem: A0 to A2 have 21, B0 to B3 27"));
    };
    let mut channels = vec![dense("stem")?[0]];
    let mut last = 0;
    for blocks in first.blocks() {
        last += blocks;
        channels.push(block(last - 1)?[0]);
    }
    let groups = block(0)?[0].checked_div(block(1)?[1]).unwrap_or(0);
    let fits = |variant: Variant, width: f64| variant.groups() == groups && variant.channels(width)[..] == channels[..];
    let published = variants.clone().map(|variant| (variant, 1.0));
    let scaled = variants.map(|variant| (variant, variant.width(channels[1])));
    let found = published.chain(scaled).find(|(variant, width)| fits(*variant, *width));
    let (variant, width) = found.ok_or_else(|| {
        format!(
            "no variant has {channels:?} channels in the stem and the stages, and {groups} groups in every second block"
        )
    })?;
    Ok((Backbone::RepVgg(variant), Some(width)))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use gatefold_layers::{ConvKind, Init, SiteSpec, Walk};

    use super::*;

    fn keys<S: AsRef<str>>(names: &[S]) -> Result<BTreeMap<&str, String>, String> {
        let names: Vec<_> = names.iter().map(AsRef::as_ref).collect();
        Ok(names.iter().copied().zip(OFFICIAL.keys(&names)?).collect())
    }

    const NORM: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];

    /// The names of a RepVGG with so many blocks in its stages: only the first block of a stage has another shape than
    /// its input and no identity.
    fn names(stages: [usize; STAGES]) -> Vec<String> {
        let block = |path: &str, identity: bool| {
            let mut names = Vec::new();
            for branch in ["rbr_dense", "rbr_1x1"] {
                names.push(format!("{path}.{branch}.conv.weight"));
                names.extend(NORM.map(|value| format!("{path}.{branch}.bn.{value}")));
            }
            let norm = NORM.map(|value| format!("{path}.rbr_identity.{value}"));
            names.extend(norm.into_iter().filter(|_| identity));
            names
        };
        let mut names = block("stage0", false);
        for (stage, blocks) in stages.into_iter().enumerate() {
            names.extend((0..blocks).flat_map(|i| block(&format!("stage{}.{i}", stage + 1), i > 0)));
        }
        names.extend(["linear.weight".to_owned(), "linear.bias".to_owned()]);
        names
    }

    /// The keys of RepVGG sites, as this program writes them.
    fn expected(stages: [usize; STAGES]) -> BTreeSet<String> {
        let kind = ConvKind::named("repvgg").unwrap();
        let mut keys = BTreeSet::from(["classifier.weight".to_owned(), "classifier.bias".to_owned()]);
        let mut site = |path: String, spec| {
            let site = kind.build::<f32>(spec, &Init::new(0)).unwrap();
            keys.extend(site.state().into_keys().map(|key| format!("{path}.{key}")));
        };
        site("stem".to_owned(), SiteSpec::same(3, 4, 3, 2));
        let firsts: Vec<_> = stages.iter().scan(0, |at, n| Some(std::mem::replace(at, *at + n))).collect();
        for block in 0..stages.iter().sum() {
            let stride = if firsts.contains(&block) { 2 } else { 1 };
            site(format!("blocks.{block}"), SiteSpec::same(4, 4, 3, stride));
        }
        keys
    }

    #[test]
    fn official_names_are_the_keys_of_our_sites() {
        for stages in [[2, 4, 14, 1], [4, 6, 16, 1]] {
            let names = names(stages);
            let keys = keys(&names).unwrap();
            assert_eq!(keys.len(), names.len());
            assert_eq!(keys.into_values().collect::<BTreeSet<_>>(), expected(stages));
        }
        let names = names([2, 4, 14, 1]);
        let keys = keys(&names).unwrap();
        assert_eq!(keys["stage0.rbr_1x1.bn.running_var"], "stem.pointwise.bn.running_var");
        assert_eq!(keys["stage1.1.rbr_identity.weight"], "blocks.1.identity.bn.weight");
        assert_eq!(keys["stage4.0.rbr_dense.conv.weight"], "blocks.20.dense.conv.weight");
    }

    #[test]
    fn other_names_are_listed() {
        for wrong in ["stage5.0.rbr_dense.bn.bias", "stage1.01.rbr_dense.bn.bias", "stage0.se.down.weight", "fc.bias"] {
            let why = keys(&["linear.bias", wrong]).unwrap_err();
            assert!(why.contains(&format!("no tensor `{wrong}`")) && !why.contains("linear"), "{why}");
            assert_eq!(why.contains("squeeze-and-excitation has no fold"), wrong.contains(".se."), "{why}");
        }
        let why = keys(&["stage0.rbr_reparam.weight"]).unwrap_err();
        assert!(why.contains("deployment"), "{why}");
    }
}
