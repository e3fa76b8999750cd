//! `--init`: plain safetensors files, as PyTorch writes them, are what training starts from.

use std::collections::BTreeMap;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::cifar10;
use super::program::Folder;

/// Type, shape and bytes of a tensor.
type Plain = (Dtype, Vec<usize>, Vec<u8>);

/// Without metadata.
fn write(folder: &Folder, name: &str, tensors: &BTreeMap<String, Plain>) {
    let view = |(dtype, shape, bytes): &'_ Plain| (*dtype, shape.clone(), bytes.clone());
    let owned: Vec<_> = tensors.iter().map(|(key, tensor)| (key, view(tensor))).collect();
    let views =
        owned.iter().map(|(key, (dtype, shape, bytes))| (*key, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    folder.write(name, safetensors::serialize(views, None).unwrap());
}

/// The tensors of a file below a prefix, without it.
fn read(bytes: &[u8], prefix: &str) -> BTreeMap<String, Plain> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let below = file.iter().filter_map(|(key, view)| {
        let plain = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        Some((key.strip_prefix(prefix)?.to_owned(), plain))
    });
    below.collect()
}

fn numbers((dtype, _, bytes): &Plain) -> Vec<f32> {
    assert_eq!(*dtype, Dtype::F32);
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// PyTorch's initial values of SmallNet.
fn pytorchs(kind: &str) -> BTreeMap<String, Plain> {
    let path = format!("{}/tests/golden/smallnet-{kind}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let initial = read(&std::fs::read(path).unwrap(), "initial/");
    assert!(initial.len() > 20);
    initial
}

/// So small a step that every f32 stays what it is; a zero moves by less than 1e-25.
const STANDSTILL: &str = "--lr 1e-30 --steps 1";

#[test]
fn training_starts_from_pytorchs_values() {
    let folder = Folder::new();
    cifar10::write(&folder, 8);
    for kind in ["static", "maconv", "mdconv"] {
        let mut values = pytorchs(kind);
        write(&folder, "plain.safetensors", &values);
        // A state dict has counters beside its statistics.
        let counters: Vec<String> =
            values.keys().filter_map(|key| key.strip_suffix("running_var")).map(str::to_owned).collect();
        for prefix in counters {
            let counter = (Dtype::I64, vec![], 0_i64.to_le_bytes().to_vec());
            values.insert(format!("{prefix}num_batches_tracked"), counter);
        }
        write(&folder, "counted.safetensors", &values);
        values.retain(|key, _| !key.contains("num_batches_tracked"));

        for file in ["plain", "counted"] {
            let out = format!("{kind}-{file}");
            folder.run(&format!(
                "train cifar10 --data-dir . --conv {kind} --init {file}.safetensors {STANDSTILL} --out {out}"
            ));
            let trained = read(&folder.read(&format!("{out}/model.safetensors")), "");
            assert!(trained.keys().eq(values.keys()), "{kind}: {:?}", trained.keys());
            // A step moves the statistics, whatever its length.
            for (key, after) in trained.iter().filter(|(key, _)| !key.contains("running_")) {
                let (before, after) = (numbers(&values[key]), numbers(after));
                assert_eq!(before.len(), after.len(), "{kind}: {key}");
                assert!(
                    before.iter().zip(&after).all(|(a, b)| (a - b).abs() <= 1e-25),
                    "{kind}: {key} is not the file's"
                );
            }
        }
        // Statistics are taken over too: one that is far away is still seen after a step.
        let variance = "stem.bn.running_var";
        let (_, shape, bytes) = &values[variance];
        let far = vec![1000_f32; shape[0]].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        assert_eq!(far.len(), bytes.len());
        values.insert(variance.to_owned(), (Dtype::F32, shape.clone(), far));
        write(&folder, "far.safetensors", &values);
        folder.run(&format!(
            "train cifar10 --data-dir . --conv {kind} --init far.safetensors {STANDSTILL} --out {kind}-far"
        ));
        let after = numbers(&read(&folder.read(&format!("{kind}-far/model.safetensors")), "")[variance]);
        assert!(after.iter().all(|&variance| variance > 900.0), "{after:?}");
    }
}

#[test]
fn names_and_shapes_have_to_be_those_of_the_network() {
    let folder = Folder::new();
    cifar10::write(&folder, 8);
    let fails = |change: &dyn Fn(&mut BTreeMap<String, Plain>), parts: &[&str]| {
        let mut values = pytorchs("mdconv");
        change(&mut values);
        write(&folder, "init.safetensors", &values);
        let parts = [&["init.safetensors"], parts].concat();
        folder.fails("train cifar10 --data-dir . --init init.safetensors --steps 1 --out run", 4, &parts);
        assert!(!folder.path("run").exists(), "a run that cannot begin leaves no directory");
    };
    fails(&|values| drop(values.remove("stem.bn.weight")), &["stem.bn.weight"]);
    fails(&|values| drop(values.remove("stem.bn.running_var")), &["stem.bn.running_var"]);
    fails(
        &|values| drop(values.insert("stem.bn.wight".to_owned(), values["stem.bn.weight"].clone())),
        &["stem.bn.wight"],
    );
    let flat = |values: &mut BTreeMap<String, Plain>| values.get_mut("classifier.weight").unwrap().1 = vec![640];
    fails(&flat, &["classifier.weight", "640"]);
    let halves = |values: &mut BTreeMap<String, Plain>| {
        let (dtype, _, bytes) = values.get_mut("stem.bn.weight").unwrap();
        *dtype = Dtype::F16;
        bytes.truncate(bytes.len() / 2);
    };
    fails(&halves, &["stem.bn.weight", "F16"]);
    folder.fails("train cifar10 --data-dir . --init nowhere.safetensors --out run", 6, &["nowhere.safetensors"]);
}
