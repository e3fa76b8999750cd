use super::*;
use crate::Backbone;
use crate::testing::{self, Keys, Totals, assert_all_folds, assert_all_gradients, assert_keys, assert_totals, named};

#[test]
fn the_totals_of_the_paper() {
    let row = |width, [parameters, macs, mdconv, expanded, compact, maconv]: [usize; 6]| Totals {
        width,
        side: 224,
        classes: 1000,
        parameters,
        macs,
        mdconv,
        expanded,
        compact,
        maconv,
    };
    // Paper 2.13 and 7.3; operations in tenths of a million.
    for row in [
        row(0.5, [1_366_792, 405, 123_510, 596, 431, 81_032]),
        row(1.0, [2_278_604, 1449, 401_073, 1882, 1601, 192_484]),
    ] {
        assert_totals(Backbone::ShuffleNetV2, &row);
    }
}

#[test]
fn the_other_widths_are_torchvisions() {
    for (width, parameters) in [(1.5, 3_503_624), (2.0, 7_393_996)] {
        let model = testing::model(Backbone::ShuffleNetV2, &named("static"), width, 224, 1000).unwrap();
        assert_eq!(model.network.parameters(), parameters);
    }
    for width in [0.0, 0.35, 1.25, f64::NAN] {
        let error = testing::model(Backbone::ShuffleNetV2, &named("static"), width, 224, 1000).err().unwrap();
        assert!(error.to_string().contains("width"), "{error}");
    }
}

#[test]
fn the_kind_replaces_the_pointwise_convolutions_of_the_units() {
    let model = testing::model(Backbone::ShuffleNetV2, &named("mdconv"), 0.5, 32, 10).unwrap();
    let sites = model.network.sites();
    assert_eq!(sites.len(), 1 + 3 * 5 + 13 * 3 + 1);
    for (path, site) in &sites {
        let within = path.contains("pointwise");
        assert_eq!(site.spec().replaceable, within, "{path}");
        assert_eq!(site.state().keys().any(|key| key.starts_with("attention")), within, "{path}");
    }
    assert_eq!(sites.iter().filter(|(_, site)| site.spec().replaceable).count(), 35);
}

#[test]
fn maps_shrink_as_published() {
    for (side, stem, head) in [(224, 112, 7), (32, 32, 4)] {
        let model = testing::model(Backbone::ShuffleNetV2, &named("static"), 1.0, side, 10).unwrap();
        let layers = model.network.layers([side, side]).unwrap();
        assert_eq!(layers[0].output, [24, stem, stem]);
        assert_eq!(layers[layers.len() - 2].output, [1024, head, head]);
    }
}

#[test]
fn the_keys_are_pinned() {
    let sites = [
        ("stem", [24, 3, 3, 3]),
        ("blocks.0.left.depthwise", [24, 1, 3, 3]),
        ("blocks.0.left.pointwise", [58, 24, 1, 1]),
        ("blocks.0.right.pointwise1", [58, 24, 1, 1]),
        ("blocks.0.right.depthwise", [58, 1, 3, 3]),
        ("blocks.0.right.pointwise2", [58, 58, 1, 1]),
        ("blocks.1.right.pointwise1", [58, 58, 1, 1]),
        ("blocks.1.right.depthwise", [58, 1, 3, 3]),
        ("blocks.1.right.pointwise2", [58, 58, 1, 1]),
        ("head", [1024, 464, 1, 1]),
    ];
    let parts = ["stem.", "blocks.0.", "blocks.1.", "head."];
    assert_keys(Backbone::ShuffleNetV2, &Keys { side: 224, parts: &parts, sites: &sites, features: 1024, count: 56 });
}

fn tiny(conv: &ConvKind, resolution: Resolution) -> Box<dyn Network<f64>> {
    Box::new(ShuffleNetV2::new(conv, resolution, 3, 3, 0.5, &Init::new(1)).unwrap())
}

#[test]
fn gradients_are_central_differences() {
    assert_all_gradients(&tiny, [9, 12], [33, 40]);
}

#[test]
fn a_folded_network_is_the_trained_one() {
    assert_all_folds(&tiny);
}
