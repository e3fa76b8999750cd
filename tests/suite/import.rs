//! `import`: torchvision's names become a model, and what is not such a state dict is refused with its names.

use std::collections::HashMap;

use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize};
use serde_json::{Value, json};

use super::program::Folder;

/// The names of a network of torchvision, with shapes, from the golden file.
fn names(network: &str) -> Vec<(String, Vec<usize>)> {
    let golden: Value = serde_json::from_str(include_str!("../golden/import.json")).unwrap();
    let names = golden[network]["names"].as_object().unwrap();
    names.iter().map(|(name, shape)| (name.clone(), serde_json::from_value(shape.clone()).unwrap())).collect()
}

/// A safetensors file of those names, every value 0.25, and the counters that PyTorch keeps beside them.
fn state_dict(names: &[(String, Vec<usize>)]) -> Vec<u8> {
    let longest = names.iter().map(|(_, shape)| shape.iter().product::<usize>()).max().unwrap();
    let (values, counter) = (0.25f32.to_le_bytes().repeat(longest), 1i64.to_le_bytes());
    let mut views: HashMap<String, TensorView<'_>> = HashMap::new();
    for (name, shape) in names {
        let bytes = &values[..4 * shape.iter().product::<usize>()];
        views.insert(name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap());
        if let Some(norm) = name.strip_suffix("running_var") {
            let counter = TensorView::new(Dtype::I64, vec![], &counter).unwrap();
            views.insert(format!("{norm}num_batches_tracked"), counter);
        }
    }
    serialize(views, None).unwrap()
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
