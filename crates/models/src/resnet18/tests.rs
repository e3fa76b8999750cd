use super::*;
use crate::testing::{self, Keys, Totals, assert_all_folds, assert_all_gradients, assert_keys, assert_totals, named};
use crate::{Backbone, Summary};

#[test]
fn the_totals_of_the_paper() {
    // Paper 2.12, 2.13 and 7.4; the paper has operations in millions.
    assert_totals(
        Backbone::ResNet18,
        &Totals {
            width: 1.0,
            side: 224,
            classes: 1000,
            parameters: 11_689_512,
            macs: 18_141,
            mdconv: 997_456,
            expanded: 21_000,
            compact: 20_342,
            maconv: 695_680,
        },
    );
    let summary =
        |kind| Summary::of(&testing::model(Backbone::ResNet18, &named(kind), 1.0, 224, 1000).unwrap()).unwrap();
    let folded = |kind| summary(kind).folded().unwrap();
    assert_eq!(folded("mdconv").parameters - folded("static").parameters, 989_456);
    // Paper 2.9: eight of the sixteen sites cost less in the folded expanded form.
    assert_eq!((folded("mdconv").macs - folded("static").macs + 500_000) / 1_000_000, 67);
    let dynamic = summary("mdconv");
    let sites = dynamic.rows.iter().filter_map(|row| row.folded).filter(|cost| cost.coefficients > 0);
    assert_eq!(sites.clone().count(), 16);
    assert_eq!(sites.filter(|cost| cost.generated == 0).count(), 8);
}

#[test]
fn the_cifar_form_has_a_small_stem() {
    let model = testing::model(Backbone::ResNet18, &named("static"), 1.0, 32, 10).unwrap();
    let layers = model.network.layers([32, 32]).unwrap();
    assert_eq!(layers[0].output, [64, 32, 32]);
    assert_eq!(layers[layers.len() - 2].output, [512, 4, 4]);
    // The stem and the classifier aside, the network is the same.
    let imagenet = testing::model(Backbone::ResNet18, &named("static"), 1.0, 224, 1000).unwrap();
    let parameters = |model: &crate::Model<f32>| model.network.parameters();
    assert_eq!(parameters(&imagenet) - parameters(&model), 64 * 3 * (49 - 9) + 990 * 513);
    let layers = imagenet.network.layers([224, 224]).unwrap();
    assert_eq!(layers[layers.len() - 2].output, [512, 7, 7]);
}

#[test]
fn the_kind_replaces_the_3x3_convolutions_of_the_blocks() {
    let model = testing::model(Backbone::ResNet18, &named("mdconv"), 0.25, 32, 10).unwrap();
    let sites = model.network.sites();
    assert_eq!(sites.len(), 1 + 16 + 3);
    for (path, site) in &sites {
        let within = path.ends_with("first") || path.ends_with("second");
        assert_eq!(site.spec().replaceable, within, "{path}");
        assert_eq!(site.state().keys().any(|key| key.starts_with("attention")), within, "{path}");
    }
    assert_eq!(sites.iter().filter(|(_, site)| site.spec().replaceable).count(), 16);
}

#[test]
fn the_keys_are_pinned() {
    let sites = [
        ("stem", [64, 3, 7, 7]),
        ("blocks.0.first", [64, 64, 3, 3]),
        ("blocks.0.second", [64, 64, 3, 3]),
        ("blocks.2.first", [128, 64, 3, 3]),
        ("blocks.2.second", [128, 128, 3, 3]),
        ("blocks.2.shortcut", [128, 64, 1, 1]),
    ];
    let parts = ["stem.", "blocks.0.", "blocks.2."];
    assert_keys(Backbone::ResNet18, &Keys { side: 224, parts: &parts, sites: &sites, features: 512, count: 20 });
}

fn tiny(conv: &ConvKind, resolution: Resolution) -> Box<dyn Network<f64>> {
    Box::new(ResNet18::new(conv, resolution, 3, 3, 0.0625, Init::new(1)).unwrap())
}

#[test]
fn gradients_are_central_differences() {
    assert_all_gradients(&tiny, [9, 12], [33, 40]);
}

#[test]
fn a_folded_network_is_the_trained_one() {
    assert_all_folds(&tiny);
}

#[test]
fn a_width_without_sense_is_an_error() {
    for width in [0.0, 0.001, -1.0, f64::NAN, 4.1] {
        let made = ResNet18::<f32, _>::new(&named("static"), Resolution::Cifar, 3, 10, width, Init::new(1));
        assert!(made.err().unwrap().to_string().contains("the width"), "{width}");
    }
}
