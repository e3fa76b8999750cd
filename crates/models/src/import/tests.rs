use gatefold_data::{Kind, evaluation_input};
use gatefold_layers::Cx;
use gatefold_tensor::Tensor;
use serde_json::Value;

use super::*;
use crate::repvgg::Variant;
use crate::{Inference, Normalisation};

const IMAGES: [usize; 4] = [2, 3, 70, 66];

/// A golden file: what PyTorch makes of the formulas below, `tests/golden/import.py`.
fn golden_file(name: &str) -> BTreeMap<String, Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn golden() -> BTreeMap<String, Value> {
    golden_file("import.json")
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
        () if name.ends_with("running_var") && (name.contains("rbr_") || name.contains("_bn.")) => (4.0, 8.0),
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

fn state_dict(names: &Value) -> Contents {
    let names: BTreeMap<String, Vec<usize>> = serde_json::from_value(names.clone()).unwrap();
    let tensors = names.iter().map(|(name, shape)| (name.clone(), Stored::from(&values(name, shape))));
    Contents { metadata: None, tensors: tensors.collect() }
}

fn description(of: &Recognised, [_, c, h, w]: [usize; 4]) -> Description {
    Description {
        backbone: of.backbone,
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

/// The logits of `x` by the imported network and by its fold, against the expected ones.
fn assert_logits<T: Real>(name: &str, names: &Value, x: &Tensor<f64>, expected: &Value, limits: [f64; 2]) {
    let recognised = recognise(state_dict(names)).unwrap();
    let [n, c, h, w] = x.shape()[..] else { panic!() };
    let description = description(&recognised, [n, c, h, w]);
    let model: Model<T> = recognised.into_model(description, Path::new("weights")).unwrap();
    let expected: Vec<Vec<f64>> = serde_json::from_value(expected.clone()).unwrap();
    let expected: Tensor<f64> = Tensor::from_vec([n, 7], expected.concat()).unwrap();
    let x: Tensor<T> = x.cast();
    let cx = Cx::eval();
    let trained = model.network.forward(&cx, &cx.input(x.clone(), false)).unwrap().value().clone();
    let folded = model.fold().unwrap();
    let folded = Inference::new(&folded).unwrap().logits(&x).unwrap();
    for ((form, y), limit) in [("trained", trained), ("folded", folded)].into_iter().zip(limits) {
        let apart = y.cast::<f64>().max_abs_diff(&expected).unwrap() / expected.max_abs();
        println!("{name}, {form}: {apart:.1e}");
        assert!(apart <= limit, "{name}, {form}: {apart:e}");
    }
}

#[test]
fn imported_networks_are_the_originals() {
    let golden = golden();
    assert_eq!(golden.len(), 10);
    let x = values("images", &IMAGES).cast();
    for (name, golden) in &golden {
        let (names, expected) = (&golden["names"], &golden["logits"]);
        assert_logits::<f64>(name, names, &x, expected, [1e-11, 1e-10]);
        assert_logits::<f32>(name, names, &x, expected, [1e-5, 1e-4]);
    }
}

/// Photos as they lie in their files, where somebody has put them beside the project.
#[test]
fn photos_get_the_logits_that_torchvision_gives_them() {
    let photos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/imagenet-sample");
    if !photos.exists() {
        println!("NOT RUN: `{}` is absent", photos.display());
        return;
    }
    let (golden, of_photos) = (golden(), golden_file("photos.json"));
    let files: Vec<String> = serde_json::from_value(of_photos["photos"].clone()).unwrap();
    let pixels = files.iter().map(|file| evaluation_input(Kind::Imagenet, &photos.join(file), 224).unwrap());
    let norm = gatefold_data::Normalisation { mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225] };
    let x = norm.apply(&pixels.collect::<Vec<_>>().concat(), [files.len(), 3, 224, 224], u8::MAX).unwrap();
    let logits = of_photos["logits"].as_object().unwrap();
    assert_eq!((files.len(), logits.len()), (4, 4));
    for (name, expected) in logits {
        assert_logits::<f32>(name, &golden[name]["names"], &x, expected, [1e-4, 1e-4]);
    }
}

#[test]
fn backbone_kind_and_width_are_recognised() {
    let [a0, b1g4] = [Variant::A0, Variant::B1g4].map(Backbone::RepVgg);
    for (name, backbone, conv, width) in [
        ("mobilenet_v2 x0.1", Backbone::MobileNetV2, "static", 0.1),
        ("mobilenet_v2 x1", Backbone::MobileNetV2, "static", 1.0),
        ("shufflenet_v2_x0_5", Backbone::ShuffleNetV2, "static", 0.5),
        ("shufflenet_v2_x1_0", Backbone::ShuffleNetV2, "static", 1.0),
        ("resnet18", Backbone::ResNet18, "static", 1.0),
        ("RepVGG-A0", a0, "repvgg", 1.0),
        ("RepVGG-B1g4 x0.25", b1g4, "repvgg", 0.25),
        ("ACNet ResNet18", Backbone::ResNet18, "acnet", 1.0),
        ("ACNet ResNet18 x0.25, DiverseBranchBlock", Backbone::ResNet18, "acnet", 0.25),
        ("ACNet ResNet18 x0.25, torchvision", Backbone::ResNet18, "acnet", 0.25),
    ] {
        let of = recognise(state_dict(&golden()[name]["names"])).unwrap();
        let found = (of.backbone, of.layout.conv, of.channels, of.classes);
        assert_eq!(found, (backbone, conv, 3, 7), "{name}");
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
        assert_eq!(mobilenet_v2::width(&tensors), Some(width));
        tensors.insert("stem.conv.weight".to_owned(), weight(stem + 1));
        assert_eq!(mobilenet_v2::width(&tensors), None);
    }
}

#[test]
fn the_prefix_of_data_parallel_is_passed_over() {
    let mut contents = state_dict(&golden()["mobilenet_v2 x0.1"]["names"]);
    contents.tensors = contents.tensors.into_iter().map(|(name, value)| (format!("module.{name}"), value)).collect();
    assert_eq!(recognise(contents).unwrap().classes, 7);
}

/// What is said of the state dict of `network`, changed.
fn error(network: &str, change: &dyn Fn(&mut Contents)) -> String {
    let mut contents = state_dict(&golden()[network]["names"]);
    change(&mut contents);
    let recognised = match recognise(contents) {
        Ok(recognised) => recognised,
        Err(error) => return error.to_string(),
    };
    let description = description(&recognised, IMAGES);
    recognised.into_model::<f32>(description, Path::new("weights")).err().expect("an error").to_string()
}

fn with(network: &str, name: &str, shape: &[usize]) -> String {
    let tensor = || Stored::F32(Tensor::zeros(shape));
    error(network, &|contents| drop(contents.tensors.insert(name.to_owned(), tensor())))
}

fn without(network: &str, start: &str) -> String {
    error(network, &|contents| contents.tensors.retain(|name, _| !name.starts_with(start)))
}

#[test]
fn what_is_no_such_state_dict_is_an_error_that_names_it() {
    let insert = |name: &str| with("resnet18", name, &[1]);
    let remove = |name: &str| without("resnet18", name);
    // ResNet34 has a third block in its first layer.
    assert!(insert("layer1.2.conv1.weight").contains("resnet18, which has no tensor `layer1.2.conv1.weight`"));
    for name in ["layer0.0.conv1.weight", "layer01.0.conv1.weight", "layer1.0.conv3.weight", "features.0.0.weight"] {
        assert!(insert(name).contains(name), "{}", insert(name));
    }
    assert!(insert("layer5.0.conv1.weight").contains("blocks.8.first.conv.weight"));
    assert!(remove("layer2.0.bn1.bias").contains("blocks.2.first.bn.bias"));
    assert!(remove("fc.weight").contains("classifier.weight"));
    assert!(remove("layer4.1.bn2.weight").contains("no architecture that is known here: torchvision's mobilenet_v2, "));
    let own = error("resnet18", &|contents| contents.metadata = Some("{}".to_owned()));
    assert!(own.contains("gatefold's own"), "{own}");
    assert!(insert("layer1.0.conv1.weight").contains("blocks.0.first.conv.weight"), "a shape");
    assert!(insert("conv1.weight").contains("stem.conv.weight"), "a rank");
}

#[test]
fn what_is_no_checkpoint_of_repvgg_is_an_error_that_names_it() {
    let network = "RepVGG-B1g4 x0.25";
    let says = |error: String, part: &str| assert!(error.contains(part), "`{part}` is missing in: {error}");
    says(without(network, "stage3.5.rbr_1x1.bn.bias"), "missing: blocks.15.pointwise.bn.bias");
    says(without(network, "stage2.1.rbr_identity"), "missing: blocks.5.identity.bn.bias, blocks.5.identity.bn.running");
    says(without(network, "stage0.rbr_dense.conv"), "`stem.dense.conv.weight` here is not there");
    says(without(network, "linear.weight"), "`classifier.weight` here is not there");
    says(without(network, "stage4.0"), "no variant has 26 blocks behind the stem");
    says(with(network, "stage3.16.rbr_identity.bias", &[128]), "no variant has 28 blocks");
    // Another split of the same number of blocks.
    let moved = error(network, &|contents| {
        let moved = contents.tensors.clone().into_iter().map(|(name, value)| match name.strip_prefix("stage1.3.") {
            Some(rest) => (format!("stage2.6.{rest}"), value),
            None => (name, value),
        });
        contents.tensors = moved.collect();
    });
    says(moved, "no variant has [32, 64, 32, 128, 512] channels");
    says(
        with(network, "stage4.0.rbr_dense.conv.weight", &[500, 128, 3, 3]),
        "no variant has [32, 32, 64, 128, 500] channels",
    );
    says(with(network, "stage1.1.rbr_dense.conv.weight", &[32, 0, 3, 3]), "and 0 groups");
    says(
        with(network, "stage3.1.rbr_dense.conv.weight", &[128, 128, 3, 3]),
        "blocks.11.dense.conv.weight is [128, 128, 3, 3]",
    );
    says(with(network, "stage0.rbr_dense.conv.weight", &[32]), "`stem.dense.conv.weight` here is not there");
    says(with(network, "stage1.0.rbr_1x1.bn.bias", &[31]), "blocks.0.pointwise.bn.bias is [31], expected [32]");
    says(with(network, "stage1.0.se.down.weight", &[1]), "no tensor `stage1.0.se.down.weight`; a variant with squeeze");
    says(with(network, "stage99999999999999999999.0.rbr_dense.bn.bias", &[1]), "no tensor `stage999");
    says(
        with(network, "stage4.18446744073709551615.rbr_dense.bn.bias", &[1]),
        "no variant has 18446744073709551615 blocks",
    );
    let deployed = error(network, &|contents| {
        let folded =
            ["weight", "bias"].map(|value| (format!("stage0.rbr_reparam.{value}"), Stored::F32(Tensor::zeros([1]))));
        contents.tensors.retain(|name, _| name.starts_with("linear"));
        contents.tensors.extend(folded);
    });
    says(deployed, "no tensor `stage0.rbr_reparam.bias`, `stage0.rbr_reparam.weight`; it was converted for deployment");
}

#[test]
fn weights_of_the_other_form_are_an_error_that_names_the_form() {
    let recognised = recognise(state_dict(&golden()["RepVGG-B1g4 x0.25"]["names"])).unwrap();
    let small = description(&recognised, [1, 3, 64, 32]);
    let error = recognised.into_model::<f32>(small, Path::new("weights")).err().expect("an error").to_string();
    let form = "do not fit the network for images of up to 64 pixels a side, as 64x32: ";
    assert!(error.contains(form) && error.contains("blocks.0.identity"), "{error}");
}

#[test]
fn what_is_no_checkpoint_of_acnet_is_an_error_that_names_it() {
    let network = "ACNet ResNet18 x0.25, torchvision";
    let says = |error: String, part: &str| assert!(error.contains(part), "`{part}` is missing in: {error}");
    says(without(network, "layer2.0.conv1.hor_bn.bias"), "missing: blocks.2.first.horizontal.bn.bias");
    says(without(network, "conv1.weight"), "`stem.conv.weight` here is not there");
    let vertical = with(network, "layer1.0.conv2.ver_conv.weight", &[16, 16, 1, 3]);
    says(vertical, "blocks.0.second.vertical.conv.weight is [16, 16, 1, 3], expected [16, 16, 3, 1]");
    says(with(network, "layer1.0.bn1.weight", &[16]), "a batch norm behind the sum of a block");
    says(
        with(network, "linear.weight", &[7, 128]),
        "`fc.weight` and `linear.weight`, which are both `classifier.weight` here",
    );
    // ResNet34, and a stem that is a block.
    says(with(network, "layer1.2.conv1.square_conv.weight", &[1]), "of the networks with its blocks ResNet18 is read");
    says(with(network, "conv1.square_conv.weight", &[1]), "with a plain convolution as its stem");
    says(with(network, "layer1.0.conv1.fused_conv.bias", &[1]), "it was converted for deployment");
}
