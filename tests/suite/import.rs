//! `import`: the names of others become a model that folds, and what is not such a state dict is refused with its names.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize};
use serde_json::{Value, json};

use super::program::{Folder, Said};

/// The names of a network, with shapes, from the golden file.
fn names(network: &str) -> Vec<(String, Vec<usize>)> {
    let golden: Value = serde_json::from_str(include_str!("../golden/import.json")).unwrap();
    let names = golden[network]["names"].as_object().unwrap();
    names.iter().map(|(name, shape)| (name.clone(), serde_json::from_value(shape.clone()).unwrap())).collect()
}

/// A safetensors file of those names, with values as after training, and the counters that PyTorch keeps beside them.
fn state_dict(names: &[(String, Vec<usize>)]) -> Vec<u8> {
    state_dict_but(names, "")
}

/// The same, with other values under one name.
fn state_dict_but(names: &[(String, Vec<usize>)], other: &str) -> Vec<u8> {
    let seed = |name: &str| if name == other { 2 } else { 1 };
    let tensors: Vec<_> = names.iter().map(|(name, shape)| (name, shape, values(name, shape, seed(name)))).collect();
    let counter = 1i64.to_le_bytes();
    let mut views: HashMap<String, TensorView<'_>> = HashMap::new();
    for (name, shape, bytes) in &tensors {
        views.insert((*name).clone(), TensorView::new(Dtype::F32, (*shape).clone(), bytes).unwrap());
        if let Some(norm) = name.strip_suffix("running_var") {
            let counter = TensorView::new(Dtype::I64, vec![], &counter).unwrap();
            views.insert(format!("{norm}num_batches_tracked"), counter);
        }
    }
    serialize(views, None).unwrap()
}

/// Xorshift, seeded with the name and a number.
fn values(name: &str, shape: &[usize], seed: u64) -> Vec<u8> {
    let (low, high) = match shape {
        [_] if name.ends_with("running_var") => (4.0, 8.0),
        [_] if name.ends_with("weight") => (0.5, 1.5),
        [_, fan_in @ ..] if !fan_in.is_empty() => {
            let bound = (6.0 / fan_in.iter().product::<usize>() as f32).sqrt();
            (-bound, bound)
        }
        _ => (-0.3, 0.3),
    };
    let hash = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let mut state = name.bytes().fold(seed, hash) | 1;
    let uniform = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 24) as f32
    });
    uniform.take(shape.iter().product()).flat_map(|u| (low + (high - low) * u).to_le_bytes()).collect()
}

#[test]
fn a_state_dict_becomes_a_model_that_commands_take() {
    let folder = Folder::new();
    folder.write("theirs.safetensors", state_dict(&names("mobilenet_v2 x0.1")));
    folder.write("classes.txt", "a\nb\nc\nd\ne\nf\ng\n");
    let said = folder.run("import theirs.safetensors --out ours.safetensors --input 3x32x32 --classes classes.txt");
    assert!(said.out.contains("torchvision's mobilenet_v2: mobilenetv2 static"), "{}", said.out);
    assert!(said.out.contains("7 classes"), "{}", said.out);
    let summary: Value = serde_json::from_str(&folder.run("summary ours.safetensors --json").out).unwrap();
    let model = &summary["model"];
    assert_eq!((&model["backbone"], &model["classes"][6]), (&json!("mobilenetv2"), &json!("g")), "{summary}");

    let ours = folder.read("ours.safetensors");
    let again = "import theirs.safetensors --out ours.safetensors";
    folder.fails(again, 2, &["`ours.safetensors` exists", "`--out`"]);
    assert!(folder.read("ours.safetensors") == ours);
    folder.fails("import ours.safetensors --out more.safetensors", 4, &["gatefold's own"]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let folder = Folder::new();
    let mut names = names("shufflenet_v2_x0_5");
    let import = "import theirs.safetensors --out ours.safetensors";
    folder.write("theirs.safetensors", state_dict(&names));
    folder.fails(&format!("{import} --input 1x32x32"), 2, &["1 channels", "`--input 3x32x32`"]);
    folder.fails(&format!("{import} --width 1"), 4, &["blocks.0.left.pointwise.conv.weight"]);
    folder.fails(&format!("{import} --classes theirs.safetensors"), 2, &["`theirs.safetensors` is no text"]);
    folder.fails(&format!("{import} --classes nothing.txt"), 6, &["nothing.txt"]);
    folder.write("classes.txt", "a\nb\n");
    folder.fails(&format!("{import} --classes classes.txt"), 2, &["has 2 names, the network 7 classes"]);
    folder.fails(&format!("{import} --mean 0.5"), 2, &["--mean takes 3 numbers"]);
    names.push(("stage2.4.branch2.0.weight".to_owned(), vec![24, 24, 1, 1]));
    folder.write("theirs.safetensors", state_dict(&names));
    folder.fails(import, 4, &["torchvision's shufflenet_v2, which has no tensor `stage2.4.branch2.0.weight`"]);
    names.retain(|(name, _)| name.starts_with("fc."));
    folder.write("theirs.safetensors", state_dict(&names));
    folder.fails(import, 4, &["no architecture that is known here"]);
    folder.write("theirs.safetensors", "no tensors");
    folder.fails(import, 4, &["not a valid safetensors file"]);
    folder.fails("import nothing --out ours.safetensors", 6, &["nothing"]);
    assert!(!folder.path("ours.safetensors").exists());
}

/// A folder of photos, seven classes of one image.
fn photos(folder: &Folder) {
    let images = ["photo.jpg", "rgb.png", "progressive.jpg", "wide.bmp", "lossless.webp", "halved.jpg", "palette.png"];
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images");
    for (class, image) in images.into_iter().enumerate() {
        for split in ["train", "val"] {
            let of_class = folder.path(&format!("photos/{split}/{class}"));
            fs::create_dir_all(&of_class).unwrap();
            fs::copy(golden.join(image), of_class.join(image)).unwrap();
        }
    }
}

#[test]
fn training_checkpoints_are_imported_folded_and_verified() {
    for (network, says, branch) in [
        ("RepVGG-B1g4 x0.25", "RepVGG: repvgg-b1g4 repvgg, width 0.25, 7 classes", "stage2.1.rbr_1x1.bn.running_mean"),
        (
            "ACNet ResNet18 x0.25, torchvision",
            "ACNet's ResNet18: resnet18 acnet, width 0.25",
            "layer1.0.conv2.ver_bn.bias",
        ),
    ] {
        let folder = Folder::new();
        photos(&folder);
        let import = "--data folder --input 3x96x96 --out";
        folder.write("theirs.safetensors", state_dict(&names(network)));
        let said = folder.run(&format!("import theirs.safetensors {import} ours.safetensors"));
        assert!(said.out.contains(says), "{}", said.out);
        let verify = "verify ours.safetensors folded.safetensors --data-dir photos";
        for words in ["fold ours.safetensors --out folded.safetensors --data-dir photos", verify] {
            let said = folder.run(words);
            let last = said.out.lines().last().unwrap_or_default();
            assert!(last.starts_with("EQUAL over 7 images"), "{network}, `{words}`: {last}");
        }
        // One branch of one block differs, and the networks do.
        folder.write("theirs.safetensors", state_dict_but(&names(network), branch));
        folder.run(&format!("import theirs.safetensors {import} others.safetensors"));
        let verify = verify.replace("ours", "others");
        let said = Said::of(folder.command(&verify)).ends(1, &verify);
        assert!(said.out.lines().last().unwrap_or_default().starts_with("NOT EQUAL"), "{}", said.out);
    }
}

#[test]
fn checkpoints_that_are_not_read_say_why() {
    let folder = Folder::new();
    let refused = |name: &str, parts: &[&str]| {
        let names = ["linear.weight", name].map(|name| (name.to_owned(), vec![8, 8]));
        folder.write("theirs.safetensors", state_dict(&names));
        let said = folder.fails("import theirs.safetensors --out ours.safetensors", 4, parts);
        said.explains(&[&format!("no tensor `{name}`; ")]);
    };
    refused("stage0.rbr_reparam.weight", &["RepVGG", "only training checkpoints are read"]);
    refused("stage1.0.conv2.fused_conv.weight", &["ACNet's ResNet18", "only training checkpoints are read"]);
    // ResNet34, and the authors' ResNet56.
    refused("stage1.2.conv1.acb.square_conv.weight", &["ACNet's ResNet18", "ResNet18 is read"]);
    refused("stage1.block0.conv1.acb.square_conv.weight", &["ACNet's ResNet18", "ResNet18 is read"]);
    assert!(!folder.path("ours.safetensors").exists());
}
