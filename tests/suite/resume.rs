//! What `resume` keeps, and what it refuses.

use super::cifar10;
use super::program::Folder;

const TRAIN: &str = "train cifar10 --data-dir . --conv static --batch-size 16 --epochs 1";

#[test]
fn other_images_are_refused_with_both_checksums() {
    for changed in ["data_batch_3.bin", "test_batch.bin"] {
        let folder = Folder::new();
        cifar10::write(&folder, 8);
        folder.run(&format!("{TRAIN} --steps 2 --out run"));
        let record = folder.json("run/run.json");
        let part = if changed == "test_batch.bin" { 1 } else { 0 };
        let recorded = record["data_checksums"][part].as_str().unwrap();
        let mut bytes = folder.read(&cifar10::file(changed));
        bytes[100] ^= 1;
        folder.write(&cifar10::file(changed), &bytes);
        let parts = ["run", ["training images", "test images"][part], recorded, "gatefold train --config"];
        let said = folder.fails("resume run --data-dir .", 3, &parts);
        let sums = said.err.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() == 64);
        assert_eq!(sums.count(), 2, "{}", said.err);
        assert_eq!(folder.json("run/run.json"), record, "a refusal changes nothing");
        // A run that has recorded nothing has nothing to compare with.
        std::fs::remove_file(folder.path("run/run.json")).unwrap();
        folder.run("resume run --data-dir .");
        assert_ne!(folder.json("run/run.json")["data_checksums"][part], recorded);
    }
}

#[test]
fn a_run_that_is_over_says_the_same_again() {
    let folder = Folder::new();
    cifar10::write(&folder, 8);
    let said = folder.run(&format!("{TRAIN} --steps 2 --out run"));
    std::fs::create_dir_all(folder.path("copy/checkpoints")).unwrap();
    for file in ["metrics.csv", "metrics.jsonl", "checkpoints/last.safetensors", "checkpoints/best.safetensors"] {
        std::fs::copy(folder.path(&format!("run/{file}")), folder.path(&format!("copy/{file}"))).unwrap();
    }
    let before = folder.json("run/run.json");
    let again = folder.run("resume run --data-dir .");
    assert!(said.out.contains("test accuracy "), "{}", said.out);
    assert_eq!(again.out, said.out);
    for file in ["checkpoints/last.safetensors", "checkpoints/best.safetensors", "metrics.csv"] {
        assert!(folder.read(&format!("run/{file}")) == folder.read(&format!("copy/{file}")), "{file}");
    }
    let after = folder.json("run/run.json");
    for key in ["started", "seed", "version", "machine", "threads", "data_checksums", "data_dir"] {
        assert_eq!(after[key], before[key], "{key}");
    }
}

#[test]
fn another_network_than_the_checkpoints_is_refused() {
    let folder = Folder::new();
    cifar10::write(&folder, 8);
    folder.run(&format!("{TRAIN} --steps 1 --out run"));
    let config = String::from_utf8(folder.read("run/config.toml")).unwrap();
    folder.write("run/config.toml", config.replace("width = 1.0", "width = 2.0"));
    folder.fails("resume run --data-dir .", 4, &["last.safetensors", "width 1", "width 2"]);
}
