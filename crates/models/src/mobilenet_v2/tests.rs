use super::*;
use crate::testing::{
    self, Keys, Totals, assert_all_folds, assert_all_gradients, assert_keys, assert_totals, named, tenths,
};
use crate::{Backbone, Summary};

#[test]
fn widths_are_rounded_as_published() {
    assert_eq!(channels(1.0), [32, 16, 24, 32, 64, 96, 160, 320]);
    assert_eq!(channels(0.75), [24, 16, 24, 24, 48, 72, 120, 240]);
    assert_eq!(channels(0.5), [16, 8, 16, 16, 32, 48, 80, 160]);
    assert_eq!(channels(0.35), [16, 8, 8, 16, 24, 32, 56, 112]);
    assert_eq!(channels(0.1), [8, 8, 8, 8, 8, 16, 16, 32]);
    assert_eq!(channels(1.4), [48, 24, 32, 48, 88, 136, 224, 448]);
}

#[test]
fn the_totals_of_the_paper() {
    let row = |width, side, classes, [parameters, macs, mdconv, expanded, compact, maconv]: [usize; 6]| Totals {
        width,
        side,
        classes,
        parameters,
        macs,
        mdconv,
        expanded,
        compact,
        maconv,
    };
    // Paper 2.13 and 7.1; operations in tenths of a million, by the formulas of 2.9. Two figures of the table are a tenth
    // larger: 106.3M of the compact form of width 0.5 on photos, and 29.7M of the expanded form on CIFAR-100.
    for row in [
        row(1.0, 224, 1000, [3_504_872, 3008, 1_560_828, 4383, 3366, 357_096]),
        row(0.75, 224, 1000, [2_636_424, 2091, 964_720, 3306, 2295, 272_856]),
        row(0.5, 224, 1000, [1_968_680, 971, 496_274, 1720, 1062, 181_560]),
        row(0.35, 224, 1000, [1_677_128, 593, 293_428, 1170, 639, 131_112]),
        row(1.0, 32, 10, [2_236_682, 880, 1_560_828, 1237, 1238, 357_096]),
        row(0.75, 32, 10, [1_368_234, 593, 964_720, 900, 797, 272_856]),
        row(0.5, 32, 10, [700_490, 280, 496_274, 476, 371, 181_560]),
        row(0.35, 32, 10, [408_938, 156, 293_428, 295, 202, 131_112]),
        row(0.35, 32, 100, [524_228, 157, 293_428, 296, 203, 131_112]),
    ] {
        assert_totals(Backbone::MobileNetV2, &row);
    }
}

#[test]
fn mdconv_folds_to_the_cheaper_form_of_each_site() {
    // Paper 2.8 and 2.9: parameters added when deployed, and operations, in tenths of a million.
    let summary = |kind: &str, width, side, classes| {
        Summary::of(&testing::model(Backbone::MobileNetV2, &named(kind), width, side, classes).unwrap()).unwrap()
    };
    for (width, side, classes, extra, dearer) in
        [(1.0, 224, 1000, 198, 7), (1.0, 32, 10, 134, 13), (0.35, 32, 10, 25, 7)]
    {
        let (fixed, dynamic) = (summary("static", width, side, classes), summary("mdconv", width, side, classes));
        let added = dynamic.folded().unwrap().macs - fixed.folded().unwrap().macs;
        assert_eq!(tenths(added), extra, "{width} {side}");
        let expanded = dynamic.rows.iter().filter_map(|row| row.folded).filter(|cost| cost.coefficients > 0);
        assert_eq!(expanded.filter(|cost| cost.generated == 0).count(), dearer, "{width} {side}");
        assert_eq!(dynamic.folded().unwrap().coefficients, 660);
    }
    let deployed = |kind: &str| summary(kind, 1.0, 224, 1000).folded().unwrap().parameters;
    assert_eq!(deployed("mdconv") - deployed("static"), 1_542_952);
}

#[test]
fn the_kind_replaces_the_pointwise_convolutions_of_the_bottlenecks() {
    let model = testing::model(Backbone::MobileNetV2, &named("mdconv"), 0.35, 32, 10).unwrap();
    let sites = model.network.sites();
    assert_eq!(sites.len(), 1 + 16 + 17 + 17 + 1);
    for (path, site) in &sites {
        let within = path.ends_with("expand") || path.ends_with("project");
        assert_eq!(site.spec().replaceable, within, "{path}");
        assert_eq!(site.state().keys().any(|key| key.starts_with("attention")), within, "{path}");
    }
    assert_eq!(sites.iter().filter(|(_, site)| site.spec().replaceable).count(), 33);
}

#[test]
fn the_keys_are_pinned() {
    let sites = [
        ("stem", [32, 3, 3, 3]),
        ("blocks.0.depthwise", [32, 1, 3, 3]),
        ("blocks.0.project", [16, 32, 1, 1]),
        ("blocks.2.expand", [144, 24, 1, 1]),
        ("blocks.2.depthwise", [144, 1, 3, 3]),
        ("blocks.2.project", [24, 144, 1, 1]),
        ("blocks.16.expand", [960, 160, 1, 1]),
        ("blocks.16.depthwise", [960, 1, 3, 3]),
        ("blocks.16.project", [320, 960, 1, 1]),
        ("head", [1280, 320, 1, 1]),
    ];
    let parts = ["stem.", "blocks.0.", "blocks.2.", "blocks.16.", "head."];
    assert_keys(Backbone::MobileNetV2, &Keys { side: 32, parts: &parts, sites: &sites, features: 1280, count: 52 });
}

fn tiny(conv: &ConvKind, resolution: Resolution) -> Box<dyn Network<f64>> {
    Box::new(MobileNetV2::new(conv, resolution, 3, 3, 0.1, Init::new(1)).unwrap())
}

#[test]
fn maps_shrink_as_published() {
    for (resolution, side, last) in [(Resolution::Imagenet, 224, 7), (Resolution::Cifar, 32, 4)] {
        let layers = tiny(&named("static"), resolution).layers([side, side]).unwrap();
        let head = layers.iter().find(|layer| layer.path == "head").unwrap();
        assert_eq!(head.output, [1280, last, last]);
    }
    assert_eq!(Resolution::of([64, 64]), Resolution::Cifar);
    assert_eq!(Resolution::of([32, 65]), Resolution::Imagenet);
}

#[test]
fn gradients_are_central_differences() {
    assert_all_gradients(&tiny, [16, 18], [64, 35]);
}

#[test]
fn a_folded_network_is_the_trained_one() {
    assert_all_folds(&tiny);
}

#[test]
fn initial_values_are_torchvisions() {
    let network = MobileNetV2::<f64, _>::new(&named("static"), Resolution::Cifar, 3, 10, 1.0, Init::new(1)).unwrap();
    let state = network.state();
    // Deviations of 1,280·320 and 144·9 values: within four standard errors of what was drawn from.
    for (key, expected) in [
        ("head.conv.weight", (2.0f64 / 1280.0).sqrt()),
        ("blocks.2.depthwise.conv.weight", (2.0f64 / (9.0 * 144.0)).sqrt()),
        ("classifier.weight", 0.01),
    ] {
        let values = state[key].to_vec();
        let n = values.len() as f64;
        let deviation = (values.iter().map(|v| v * v).sum::<f64>() / n).sqrt();
        assert!((deviation / expected - 1.0).abs() < 4.0 / (2.0 * n).sqrt(), "{key}: {deviation}, not {expected}");
    }
    assert_eq!(state["classifier.bias"].max_abs(), 0.0);
}

#[test]
fn a_width_without_sense_is_an_error() {
    for width in [0.0, -1.0, f64::NAN, 4.1, f64::INFINITY] {
        let made = MobileNetV2::<f32, _>::new(&named("static"), Resolution::Cifar, 3, 10, width, Init::new(1));
        assert!(made.err().unwrap().to_string().contains("the width"), "{width}");
    }
}
