//! What each kind adds to a network, held to the counts of the paper (2.13, 6.5).

use gatefold_layers::{ConvKind, Dcd};

use crate::testing::{model, named};
use crate::{Backbone, Summary};

/// Parameters and operations of a trained network, and its coefficients.
fn total(backbone: Backbone, conv: &ConvKind, [width, side, classes]: [f64; 3]) -> [usize; 3] {
    let model = model(backbone, conv, width, side as usize, classes as usize).unwrap();
    let cost = Summary::of(&model).unwrap().trained();
    [cost.parameters, cost.macs, cost.coefficients]
}

#[test]
fn kinds_add_the_parameters_of_the_paper() {
    let dcd = |squeeze| ConvKind::Dcd(Dcd { squeeze });
    let kinds = [named("dyconv"), dcd(8), dcd(16)];
    for (backbone, of, extra) in [
        (Backbone::SmallNet, [1.0, 32.0, 10.0], [8_924, 6_672, 3_936]),
        (Backbone::MobileNetV2, [1.0, 224.0, 1000.0], [6_315_140, 3_768_752, 2_036_196]),
        (Backbone::MobileNetV2, [0.35, 32.0, 10.0], [793_980, 411_252, 242_643]),
        (Backbone::ShuffleNetV2, [0.5, 224.0, 1000.0], [416_222, 108_768, 74_537]),
        (Backbone::ShuffleNetV2, [1.0, 224.0, 1000.0], [2_408_529, 500_053, 304_144]),
        (Backbone::ResNet18, [1.0, 224.0, 1000.0], [33_244_368, 2_883_132, 2_883_132]),
    ] {
        let [fixed, ..] = total(backbone, &named("static"), of);
        let found = kinds.each_ref().map(|kind| total(backbone, kind, of)[0] - fixed);
        assert_eq!(found, extra, "{} {of:?}", backbone.name());
    }
}

#[test]
fn squeeze_and_excitation_adds_the_parameters_of_the_paper() {
    for (backbone, extra) in [(Backbone::MobileNetV2, 2_380_232), (Backbone::ResNet18, 701_120)] {
        let of = [1.0, 224.0, 1000.0];
        let [[fixed, ..], [gated, ..]] = ["static", "se"].map(|kind| total(backbone, &named(kind), of));
        assert_eq!(gated - fixed, extra, "{}", backbone.name());
    }
}

#[test]
fn operations_and_coefficients_are_the_papers() {
    let of = |conv: &ConvKind| {
        let [_, macs, coefficients] = total(Backbone::MobileNetV2, conv, [1.0, 224.0, 1000.0]);
        ((macs + 50_000) / 100_000, coefficients)
    };
    assert_eq!(of(&named("dyconv")), (3088, 132));
    assert_eq!(of(&ConvKind::Dcd(Dcd { squeeze: 8 })), (4095, 22_752));
    assert_eq!(of(&ConvKind::Dcd(Dcd { squeeze: 16 })).0, 4077);
}

/// That MDConv takes fewer parameters, operations and coefficients than DCD. The first holds where channels are many or DCD
/// squeezes little, the second in use, where MDConv is compact, and the last everywhere.
#[test]
fn mdconv_beside_dcd() {
    let kinds = [named("mdconv"), ConvKind::Dcd(Dcd { squeeze: 8 }), ConvKind::Dcd(Dcd { squeeze: 16 })];
    let photos = [1.0, 224.0, 1000.0];
    let compare = |backbone, of: [f64; 3]| {
        let trained = kinds.each_ref().map(|kind| total(backbone, kind, of));
        let in_use = kinds.each_ref().map(|kind| {
            let model = model(backbone, kind, of[0], of[1] as usize, of[2] as usize).unwrap();
            Summary::of(&model).unwrap().folded().unwrap().macs
        });
        let fewer = |which: usize| [1, 2].map(|dcd| trained[0][which] < trained[dcd][which]);
        assert_eq!(fewer(2), [true, true], "coefficients in {} {of:?}", backbone.name());
        let operations = [1, 2].map(|dcd| in_use[0] < in_use[dcd]);
        (fewer(0), fewer(1), operations)
    };
    let [yes, no] = [[true; 2], [false; 2]];
    assert_eq!(compare(Backbone::MobileNetV2, photos), (yes, no, yes));
    assert_eq!(compare(Backbone::MobileNetV2, [0.35, 32.0, 10.0]).0, [true, false]);
    assert_eq!(compare(Backbone::ShuffleNetV2, [0.5, 224.0, 1000.0]).0, no);
}
