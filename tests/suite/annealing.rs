//! DYConv's annealed temperature: set by the epoch, and kept in the files.

use safetensors::SafeTensors;

use super::cifar10;
use super::program::Folder;

/// The temperature of every replaced site of SmallNet in a file.
fn temperatures(folder: &Folder, file: &str) -> Vec<f32> {
    let bytes = folder.read(file);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let of = |block| {
        let view = file.tensor(&format!("blocks.{block}.pointwise.temperature")).unwrap();
        f32::from_le_bytes(view.data().try_into().unwrap())
    };
    (0..3).map(of).collect()
}

#[test]
fn an_epoch_has_its_temperature() {
    let folder = Folder::new();
    cifar10::write(&folder, 8); // two batches of 20 an epoch
    let train = "train cifar10 --data-dir . --conv dyconv --batch-size 20 --epochs 4";
    let anneal = "--set conv.temperature=9 --set conv.anneal=2";
    for (steps, temperature) in [(2, 9.0), (3, 5.0), (4, 5.0), (5, 1.0), (8, 1.0)] {
        let said = folder.run(&format!("{train} {anneal} --steps {steps} --out run-{steps}"));
        assert!(said.out.lines().last().unwrap().starts_with("EQUAL"), "{}", said.out);
        for file in ["model.safetensors", "folded/model.safetensors", "checkpoints/last.safetensors"] {
            assert_eq!(
                temperatures(&folder, &format!("run-{steps}/{file}")),
                [temperature; 3],
                "{file}, {steps} steps"
            );
        }
    }
}
