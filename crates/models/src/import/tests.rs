use gatefold_layers::Cx;
use gatefold_tensor::Tensor;
use serde_json::Value;

use super::*;
use crate::Normalisation;

const IMAGES: [usize; 4] = [2, 3, 70, 66];

/// What torchvision makes of the formulas below: `tests/golden/import.py`.
fn golden() -> BTreeMap<String, Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/import.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Multiples of 2⁻²⁴ in [0, 1): splitmix64, seeded with the FNV-1a hash of the name.
fn uniform(name: &str) -> impl Iterator<Item = f64> {
    let mut state = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |seed: u64, byte| (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 24)
    })
}

fn values(name: &str, shape: &[usize]) -> Tensor<f32> {
    let (low, high) = match () {
        () if name.ends_with("running_var") => (0.5, 2.0),
        () if shape.len() == 1 && name.ends_with("weight") => (0.5, 1.5),
        () if shape.len() == 1 => (-0.3, 0.3),
        () if name == "images" => (-2.0, 2.0),
        () => {
            let bound = (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt();
            (-bound, bound)
        }
    };
    let values = uniform(name).take(shape.iter().product()).map(|u| (low + (high - low) * u) as f32);
    Tensor::from_vec(shape, values.collect()).unwrap()
}

fn state_dict(golden: &Value) -> Contents {
    let names: BTreeMap<String, Vec<usize>> = serde_json::from_value(golden["names"].clone()).unwrap();
    let tensors = names.iter().map(|(name, shape)| (name.clone(), Stored::from(&values(name, shape))));
    Contents { metadata: None, tensors: tensors.collect() }
}

fn description(of: &Recognised, [_, c, h, w]: [usize; 4]) -> Description {
    Description {
        backbone: of.layout.backbone,
        width: of.width.expect("a width is found"),
        conv: of.conv(),
        folded: false,
        input: [c, h, w],
        classes: (0..of.classes).map(|class| class.to_string()).collect(),
        dataset: "imagenet".to_owned(),
        normalisation: Normalisation { maximum: 255, mean: vec![0.0; c], std: vec![1.0; c] },
    }
}

fn recognise(contents: Contents) -> Result<Recognised, FileError> {
    Recognised::of(contents, Path::new("weights"))
}

fn assert_logits<T: Real>(name: &str, golden: &Value, limit: f64) {
    let recognised = recognise(state_dict(golden)).unwrap();
    let description = description(&recognised, IMAGES);
    let model: Model<T> = recognised.into_model(description, Path::new("weights")).unwrap();
    let cx = Cx::eval();
    let y = model.network.forward(&cx, &cx.input(values("images", &IMAGES).cast(), false)).unwrap();
    let expected: Vec<Vec<f64>> = serde_json::from_value(golden["logits"].clone()).unwrap();
    let expected: Tensor<f64> = Tensor::from_vec([2, 7], expected.concat()).unwrap();
    let apart = y.value().cast::<f64>().max_abs_diff(&expected).unwrap() / expected.max_abs();
    assert!(apart <= limit, "{name}: {apart:e}");
}

#[test]
fn imported_networks_are_torchvisions() {
    let golden = golden();
    assert_eq!(golden.len(), 5);
    for (name, golden) in &golden {
        assert_logits::<f64>(name, golden, 1e-11);
        assert_logits::<f32>(name, golden, 1e-5);
    }
}

#[test]
fn backbone_and_width_are_recognised() {
    for (name, backbone, width) in [
        ("mobilenet_v2 x0.1", Backbone::MobileNetV2, 0.1),
        ("mobilenet_v2 x1", Backbone::MobileNetV2, 1.0),
        ("shufflenet_v2_x0_5", Backbone::ShuffleNetV2, 0.5),
        ("shufflenet_v2_x1_0", Backbone::ShuffleNetV2, 1.0),
        ("resnet18", Backbone::ResNet18, 1.0),
    ] {
        let of = recognise(state_dict(&golden()[name])).unwrap();
        assert_eq!((of.layout.backbone, of.channels, of.classes), (backbone, 3, 7), "{name}");
        // Other widths may have the same channels; the network is the same then.
        let found = of.width.unwrap();
        match backbone {
            Backbone::MobileNetV2 => {
                assert_eq!(crate::mobilenet_v2::channels(found), crate::mobilenet_v2::channels(width));
            }
            _ => assert_eq!(found, width),
        }
    }
}

#[test]
fn published_widths_of_mobilenet_are_found_as_published() {
    for width in [0.35, 0.5, 0.75, 1.0, 1.4] {
        let [stem, channels @ ..] = crate::mobilenet_v2::channels(width);
        let weight = |o: usize| Stored::F32(Tensor::zeros([o, 1, 1, 1]));
        let mut tensors = Renamed::from([("stem.conv.weight".to_owned(), weight(stem))]);
        for (block, o) in crate::mobilenet_v2::first_blocks().zip(channels) {
            tensors.insert(format!("blocks.{block}.project.conv.weight"), weight(o));
        }
        tensors.insert("head.conv.weight".to_owned(), weight(crate::mobilenet_v2::features(width)));
        assert_eq!((mobilenet_v2::TORCHVISION.width)(&tensors), Some(width));
        tensors.insert("stem.conv.weight".to_owned(), weight(stem + 1));
        assert_eq!((mobilenet_v2::TORCHVISION.width)(&tensors), None);
    }
}

#[test]
fn the_prefix_of_data_parallel_is_passed_over() {
    let mut contents = state_dict(&golden()["mobilenet_v2 x0.1"]);
    contents.tensors = contents.tensors.into_iter().map(|(name, value)| (format!("module.{name}"), value)).collect();
    assert_eq!(recognise(contents).unwrap().classes, 7);
}

#[test]
fn what_is_no_such_state_dict_is_an_error_that_names_it() {
    let error = |change: &dyn Fn(&mut Contents)| {
        let mut contents = state_dict(&golden()["resnet18"]);
        change(&mut contents);
        let recognised = match recognise(contents) {
            Ok(recognised) => recognised,
            Err(error) => return error.to_string(),
        };
        let description = description(&recognised, IMAGES);
        recognised.into_model::<f32>(description, Path::new("weights")).err().expect("an error").to_string()
    };
    let one = || Stored::F32(Tensor::zeros([1]));
    let insert = |name: &'static str| error(&|contents| drop(contents.tensors.insert(name.to_owned(), one())));
    let remove = |name: &'static str| error(&|contents| drop(contents.tensors.remove(name)));
    // ResNet34 has a third block in its first layer.
    assert!(insert("layer1.2.conv1.weight").contains("resnet18, which has no tensor `layer1.2.conv1.weight`"));
    for name in ["layer0.0.conv1.weight", "layer01.0.conv1.weight", "layer1.0.conv3.weight", "features.0.0.weight"] {
        assert!(insert(name).contains(name), "{}", insert(name));
    }
    assert!(insert("layer5.0.conv1.weight").contains("blocks.8.first.conv.weight"));
    assert!(remove("layer2.0.bn1.bias").contains("blocks.2.first.bn.bias"));
    assert!(remove("fc.weight").contains("classifier.weight"));
    assert!(remove("layer4.1.bn2.weight").contains("no architecture that is known here: torchvision's mobilenet_v2, "));
    assert!(error(&|contents| contents.metadata = Some("{}".to_owned())).contains("gatefold's own"));
    assert!(insert("layer1.0.conv1.weight").contains("blocks.0.first.conv.weight"), "a shape");
    assert!(insert("conv1.weight").contains("stem.conv.weight"), "a rank");
}
