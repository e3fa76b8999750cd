use gatefold_layers::{CondConv, Share, WeightNet};

use super::*;
use crate::testing::{self, Keys, assert_all_folds, assert_all_gradients, assert_folds, assert_gradients, assert_keys};
use crate::testing::{keys, named};
use crate::{Backbone, Summary};

/// Parameters as trained with `--conv repvgg` and as deployed, and the multiply-accumulates of the deployed network in
/// tenths of a million, by the definition.
fn counts(variant: Variant, side: usize, classes: usize) -> [usize; 3] {
    let [.., features] = variant.channels(1.0);
    let mut map = [side; 2];
    let mut counts = [(features + 1) * classes, (features + 1) * classes, features * classes];
    for place in variant.places(Resolution::of(map), 3, 1.0) {
        map = place.output(map).unwrap();
        let identity = place.cin == place.cout && place.stride == 1;
        let pairs = place.cin * place.cout / place.groups;
        counts[0] += 10 * pairs + 4 * place.cout + if identity { 2 * place.cin } else { 0 };
        counts[1] += 9 * pairs + place.cout;
        counts[2] += map[0] * map[1] * 9 * pairs;
    }
    [counts[0], counts[1], testing::tenths(counts[2])]
}

#[test]
fn the_counts_of_the_authors() {
    use Variant::*;
    // Millions of parameters as deployed, by tables 4 and 5 of the paper, whose operations are billions.
    for (variant, deployed, billions) in [
        (A0, 8.30, 1.4),
        (A1, 12.78, 2.4),
        (A2, 25.49, 5.1),
        (B0, 14.33, 3.1),
        (B1, 51.82, 11.8),
        (B1g2, 41.36, 8.8),
        (B1g4, 36.12, 7.3),
        (B2, 80.31, 18.4),
        (B2g4, 55.77, 11.3),
        (B3, 110.96, 26.2),
        (B3g4, 75.62, 16.1),
    ] {
        let [_, parameters, macs] = counts(variant, 224, 1000);
        assert!((parameters as f64 / 1e6 - deployed).abs() < 0.011, "{variant:?}: {parameters}");
        assert!((macs as f64 / 1e4 - billions).abs() < 0.1, "{variant:?}: {macs}");
    }
    // Exactly, trained and deployed, by PyTorch's count of `tests/golden/import.py`; the authors' figures are 9.11 -> 8.31,
    // 14.09 -> 12.78, 28.21 -> 25.49, 15.82 -> 14.33 and 57.42 -> 51.82 million.
    for (variant, exact) in [
        (A0, [9_108_968, 8_309_384]),
        (A1, [14_092_264, 12_789_864]),
        (A2, [28_210_600, 25_499_944]),
        (B0, [15_817_960, 14_339_048]),
        (B1, [57_415_016, 51_829_480]),
        (B1g2, [45_782_376, 41_360_104]),
        (B1g4, [39_966_056, 36_125_416]),
    ] {
        assert_eq!(counts(variant, 224, 1000)[..2], exact, "{variant:?}");
    }
}

#[test]
fn a_summary_counts_what_is_there() {
    let variant = Variant::A0;
    let of = |kind| Summary::of(&testing::model(Backbone::RepVgg(variant), &named(kind), 1.0, 224, 1000).unwrap());
    let (expanded, fixed) = (of("repvgg").unwrap(), of("static").unwrap());
    let [trained, deployed, macs] = counts(variant, 224, 1000);
    let folded = expanded.folded().unwrap();
    assert_eq!(
        (expanded.trained().parameters, folded.parameters, testing::tenths(folded.macs)),
        (trained, deployed, macs)
    );
    assert_eq!(fixed.folded(), Some(folded));
    let outputs: Vec<_> = expanded.rows.iter().map(|row| row.trained.output.clone()).collect();
    assert_eq!((outputs.len(), &outputs[0][..], &outputs[1][..]), (23, &[48, 112, 112][..], &[48, 56, 56][..]));
    assert_eq!(outputs[21], [1280, 7, 7]);
}

#[test]
fn the_cifar_form_keeps_the_map_in_the_first_stage() {
    let model = testing::model(Backbone::RepVgg(Variant::A0), &named("static"), 0.25, 32, 10).unwrap();
    let layers = model.network.layers([32, 32]).unwrap();
    let maps: Vec<_> = layers.iter().filter(|layer| layer.output.len() == 3).map(|layer| layer.output[1]).collect();
    let expected = [(32, 3), (16, 4), (8, 14), (4, 1)].map(|(side, count)| vec![side; count]);
    assert_eq!(maps, expected.concat());
}

#[test]
fn every_second_block_has_groups() {
    for (variant, groups) in [(Variant::B1, 1), (Variant::B2g2, 2), (Variant::B1g4, 4)] {
        let places = variant.places(Resolution::Imagenet, 3, 1.0);
        assert_eq!(places.len(), 28);
        let grouped = |layer: usize| layer > 0 && layer.is_multiple_of(2);
        assert!(places.iter().enumerate().all(|(i, place)| place.groups == if grouped(i) { groups } else { 1 }));
        assert!(places.iter().all(|place| place.replaceable));
        let strides: Vec<_> = (0..28).filter(|i| places[*i].stride == 2).collect();
        assert_eq!(strides, [0, 1, 5, 11, 27]);
    }
}

#[test]
fn the_width_multiplies_the_authors_multipliers() {
    assert_eq!(Variant::A0.channels(1.0), [48, 48, 96, 192, 1280]);
    assert_eq!(Variant::B1.channels(0.5), [64, 64, 128, 256, 1024]);
    assert_eq!(Variant::B1.channels(0.25), [32, 32, 64, 128, 512]);
    assert_eq!(Variant::B1g4.channels(0.3), [40, 40, 76, 152, 616]);
    for variant in Variant::ALL {
        for stage1 in 1..=2 * 192 {
            let stage1 = stage1 * variant.groups();
            assert_eq!(variant.channels(variant.width(stage1))[1], stage1, "{variant:?}");
        }
    }
    for width in [0.0, 0.001, -1.0, f64::NAN, 2.1] {
        let made = RepVgg::<f32, _>::new(Variant::A0, &named("static"), Resolution::Cifar, 3, 10, width, &Init::new(1));
        assert!(made.err().unwrap().to_string().contains("the width"), "{width}");
    }
}

#[test]
fn the_keys_are_pinned() {
    let sites = [
        ("stem", [48, 3, 3, 3]),
        ("blocks.0", [48, 48, 3, 3]),
        ("blocks.2", [96, 48, 3, 3]),
        ("blocks.20", [1280, 192, 3, 3]),
    ];
    let parts = ["stem.", "blocks.0.", "blocks.2.", "blocks.20."];
    let backbone = Backbone::RepVgg(Variant::A0);
    assert_keys(backbone, &Keys { side: 224, parts: &parts, sites: &sites, features: 1280, count: 22 });
    let shared = ConvKind::CondConv(CondConv { experts: 4, share: Share::Block });
    let model = testing::model(backbone, &shared, 0.25, 32, 10).unwrap();
    let of = |part: &str| keys(&*model.network, |key| key.starts_with(part) && !key.contains(".bn."));
    let kernels = "experts.weight [4, 12, 12, 3, 3]";
    let router = ["shared.router.bias [4]", "shared.router.weight [4, 12]"];
    assert_eq!(of("blocks.1."), [kernels, router[0], router[1]].map(|key| format!("blocks.1.{key}")));
    assert_eq!(of("stem.shared"), ["stem.shared.router.bias [4]", "stem.shared.router.weight [4, 3]"]);
}

fn tiny(conv: &ConvKind, resolution: Resolution) -> Box<dyn Network<f64>> {
    Box::new(RepVgg::new(Variant::A0, conv, resolution, 3, 3, 0.0625, &Init::new(1)).unwrap())
}

#[test]
fn gradients_are_central_differences() {
    assert_all_gradients(&tiny, [9, 12], [33, 40]);
    assert_gradients(tiny(&named("repvgg"), Resolution::Cifar), [9, 12]);
}

#[test]
fn a_folded_network_is_the_trained_one() {
    assert_all_folds(&tiny);
    for kind in ["repvgg", "acnet"] {
        assert_folds(tiny(&named(kind), Resolution::Cifar), [9, 12]);
    }
    let grouped = RepVgg::new(Variant::B1g4, &named("repvgg"), Resolution::Imagenet, 3, 3, 0.0625, &Init::new(1));
    assert_folds(Box::new(grouped.unwrap()), [37, 33]);
}

#[test]
fn every_kind_fits_the_stem_and_the_blocks() {
    for kind in ConvKind::NAMES {
        let conv = match named(kind) {
            // The 27 weights of an output channel of the stem have no half.
            ConvKind::WeightNet(options) => ConvKind::WeightNet(WeightNet { g: 1, ..options }),
            conv => conv,
        };
        let network = tiny(&conv, Resolution::Cifar);
        assert_eq!(network.sites().len(), 22);
        if *kind != "se" {
            assert_eq!(network.fold().unwrap().sites().len(), 22, "{kind}");
        }
    }
}
