//! ACNet's training checkpoints by the names of its authors' code (`DingXiaoH/ACNet`, `acnet/acb.py` and `builder.py`),
//! renamed to the keys of [`acnet`](gatefold_layers::sites::AcNet) sites.
//!
//! ```text
//! stage1.block0.conv1.acb.square_conv.weight      stage1.block0.conv1.square.conv.weight
//! stage1.block0.conv2.ver_bn.running_mean         stage1.block0.conv2.vertical.bn.running_mean
//! stage1.projection.conv.weight                   stage1.projection.conv.weight
//! linear.bias                                     classifier.bias
//! ```
//! The authors put blocks into any network, so that only what stands at a site is renamed; `acb` is where a block stands
//! that a rectifier follows. A convolution that is no block already has our names.

use std::collections::BTreeMap;

use super::{exchange, list};

/// Of the authors' deployed blocks, which are folded already.
const DEPLOYED: &str = "fused_conv.";
const BLOCK: &[(&str, &str)] = &[
    ("square_conv.weight", "square.conv.weight"),
    ("square_bn.", "square.bn."),
    ("ver_conv.weight", "vertical.conv.weight"),
    ("ver_bn.", "vertical.bn."),
    ("hor_conv.weight", "horizontal.conv.weight"),
    ("hor_bn.", "horizontal.bn."),
];
const CLASSIFIERS: [&str; 2] = ["linear.", "fc."];

/// Our key for each of `names`.
///
/// # Errors
/// In words, the names that a training checkpoint of ACNet does not have.
pub fn keys<'n>(names: impl IntoIterator<Item = &'n str>) -> Result<BTreeMap<&'n str, String>, String> {
    let (mut keys, mut unknown) = (BTreeMap::new(), Vec::new());
    for name in names {
        match rename(name) {
            Some(key) => drop(keys.insert(name, key)),
            None => unknown.push(format!("`{name}`")),
        }
    }
    if unknown.is_empty() {
        return Ok(keys);
    }
    let deployed = unknown.iter().any(|name| name.contains(DEPLOYED));
    let why = if deployed { "; it was converted for deployment, and only training checkpoints are read" } else { "" };
    Err(format!("a training checkpoint of ACNet has no tensor {}{why}", list(&unknown)))
}

fn rename(name: &str) -> Option<String> {
    if let Some(rest) = CLASSIFIERS.iter().find_map(|classifier| name.strip_prefix(classifier)) {
        return ["weight", "bias"].contains(&rest).then(|| format!("classifier.{rest}"));
    }
    let (module, value) = name.rsplit_once('.')?;
    let (path, layer) = module.rsplit_once('.').unwrap_or(("", module));
    if ["conv", "bn"].contains(&layer) {
        return Some(name.to_owned());
    }
    let block = exchange(&format!("{layer}.{value}"), BLOCK)?;
    let site = if path == "acb" { "" } else { path.strip_suffix(".acb").unwrap_or(path) };
    Some(if site.is_empty() { block } else { format!("{site}.{block}") })
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

    fn renamed(names: &[String]) -> BTreeSet<String> {
        let keys = keys(names.iter().map(String::as_str)).unwrap();
        assert_eq!(keys.len(), names.len());
        keys.into_values().collect()
    }

    #[test]
    fn official_names_are_the_keys_of_our_sites() {
        let kind = ConvKind::named("acnet").unwrap();
        let site = kind.build::<f32>(SiteSpec::same(3, 4, 3, 1), &Init::new(0)).unwrap();
        let keys: Vec<_> = site.state().into_keys().collect();
        let at = |path: &str| keys.iter().map(|key| format!("{path}{key}")).collect::<BTreeSet<_>>();
        assert_eq!(renamed(&block("")), at(""));
        assert_eq!(renamed(&block("acb.")), at(""), "a block and a rectifier");
        assert_eq!(renamed(&block("stage1.block0.conv2.")), at("stage1.block0.conv2."));
        assert_eq!(renamed(&block("stage1.block0.conv1.acb.")), at("stage1.block0.conv1."));
        assert_eq!(renamed(&block("macb.")), at("macb."), "another module that ends alike");
    }

    #[test]
    fn what_is_no_block_keeps_its_name_or_is_the_classifier() {
        let keys =
            keys(["stage2.projection.conv.weight", "stage2.projection.bn.running_var", "linear.bias", "fc.weight"]);
        let expected = [
            ("fc.weight", "classifier.weight"),
            ("linear.bias", "classifier.bias"),
            ("stage2.projection.bn.running_var", "stage2.projection.bn.running_var"),
            ("stage2.projection.conv.weight", "stage2.projection.conv.weight"),
        ];
        assert_eq!(keys.unwrap(), expected.map(|(name, key)| (name, key.to_owned())).into());
    }

    #[test]
    fn other_names_are_listed() {
        for wrong in ["conv1.square_conv.bias", "conv1.diag_bn.weight", "linear.conv.weight", "weight"] {
            let why = keys(["linear.bias", wrong]).unwrap_err();
            assert!(why.contains(&format!("no tensor `{wrong}`")) && !why.contains("`linear.bias"), "{why}");
        }
        let why = keys(["conv1.fused_conv.bias"]).unwrap_err();
        assert!(why.contains("deployment"), "{why}");
    }
}
