//! Input that is broken: each kind ends with its own status, and with a message that says what, where and why, and what to do.

use std::process::Command;

use super::cifar10::{self, RECORD};
use super::program::{Folder, SAME_BITS, Said, assert_same_run, names};

const CIFAR: &str = "train cifar10 --data-dir . --conv static --steps 1 --out run";

#[test]
fn a_data_file_that_is_cut_off_is_named_with_the_record() {
    let folder = Folder::new();
    cifar10::write(&folder, 4);
    let file = cifar10::file("data_batch_2.bin");
    let whole = folder.read(&file);
    folder.write(&file, &whole[..3 * RECORD + 1000]);
    let said = folder.fails(CIFAR, 3, &["data_batch_2.bin`, record 3", "cut off", "`gatefold data get cifar10"]);
    assert_eq!(said.out, "");
    folder.write(&file, []);
    folder.fails(CIFAR, 3, &["data_batch_2.bin", "0 bytes"]);
    std::fs::remove_file(folder.path(&file)).unwrap();
    folder.fails(CIFAR, 3, &["data_batch_2.bin", "does not exist", "`gatefold data get cifar10"]);
    assert!(!folder.path("run").exists());
}

#[test]
fn a_label_out_of_range_is_named_with_its_record() {
    let folder = Folder::new();
    cifar10::write(&folder, 4);
    let file = cifar10::file("test_batch.bin");
    let mut bytes = folder.read(&file);
    bytes[2 * RECORD] = 10;
    folder.write(&file, bytes);
    folder.fails(CIFAR, 3, &["test_batch.bin`, record 2", "label 10", "0..=9"]);
}

#[test]
fn a_short_data_file_is_remarked_on() {
    let folder = Folder::new();
    cifar10::write(&folder, 4);
    let train = folder.run(CIFAR);
    let eval = folder.run("eval run --data-dir .");
    for said in [train, eval] {
        assert!(said.err.contains("note: ") && said.err.contains("test_batch.bin` has 4 images"), "{}", said.err);
        assert!(!said.out.contains("note: "), "{}", said.out);
    }
}

/// A folder with a run that is over.
fn with_run() -> Folder {
    let folder = Folder::new();
    folder.run("train --conv maconv --limit 64 --epochs 1 --out run");
    folder
}

/// The commands that read the weights of a run, and the file of the run that each reads.
const READERS: [(&str, &str); 5] = [
    ("resume run", "checkpoints/last.safetensors"),
    ("eval run", "model.safetensors"),
    ("fold run --out folded.safetensors", "model.safetensors"),
    ("verify run run/folded/model.safetensors", "folded/model.safetensors"),
    ("summary run", "model.safetensors"),
];

/// Breaks the file that each reader reads, and mends it again.
fn readers_fail(change: impl Fn(&mut Vec<u8>), parts: &[&str]) {
    let folder = with_run();
    for (words, file) in READERS {
        let path = format!("run/{file}");
        let whole = folder.read(&path);
        let mut broken = whole.clone();
        change(&mut broken);
        assert_ne!(broken, whole);
        folder.write(&path, &broken);
        folder.fails(words, 4, &[&[file], parts].concat());
        assert_eq!(folder.read(&path), broken, "`{words}` changes what it cannot read");
        folder.write(&path, &whole);
    }
}

/// Replaces a text of the header by another one, and mends the header's length.
fn in_header(bytes: &mut Vec<u8>, from: &str, to: &str) {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&bytes[8..8 + length]).unwrap();
    assert!(header.contains(from), "`{from}` is not in {header}");
    let header = header.replacen(from, to, 1);
    *bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[8 + length..]].concat();
}

#[test]
fn a_header_that_lies_about_its_length_is_refused() {
    for length in [u64::MAX, 1 << 40, 10] {
        readers_fail(|bytes| bytes[..8].copy_from_slice(&length.to_le_bytes()), &["not a valid safetensors file"]);
    }
}

#[test]
fn a_file_that_is_cut_off_is_refused() {
    readers_fail(|bytes| bytes.truncate(bytes.len() - 1), &["not a valid safetensors file"]);
    readers_fail(|bytes| bytes.truncate(5), &["not a valid safetensors file"]);
}

#[test]
fn a_tensor_that_is_missing_or_unknown_is_named() {
    // The same name with another letter is both.
    readers_fail(|bytes| in_header(bytes, "\"classifier.bias\"", "\"classifier.bios\""), &["classifier.bi"]);
}

#[test]
fn a_tensor_of_another_shape_is_named() {
    readers_fail(|bytes| in_header(bytes, "\"shape\":[10,64]", "\"shape\":[64,10]"), &["classifier.weight", "64"]);
}

#[test]
fn a_description_that_makes_no_network_is_refused() {
    let change = |from: &'static str, to: &'static str| move |bytes: &mut Vec<u8>| in_header(bytes, from, to);
    readers_fail(change(r#"\"m\":20"#, r#"\"m\":0"#), &["m"]);
    readers_fail(change(r#"\"width\":1.0"#, r#"\"width\":1e300"#), &["width"]);
    readers_fail(change(r#"\"input\":[1,8,8]"#, r#"\"input\":[1,0,8]"#), &["1 x 0 x 8"]);
    readers_fail(change(r#"\"dataset\""#, r#"\"datenset\""#), &["datenset"]);
    readers_fail(change("\"gatefold\"", "\"other\""), &["no description"]);
}

#[test]
fn a_model_is_no_checkpoint() {
    let folder = with_run();
    std::fs::copy(folder.path("run/model.safetensors"), folder.path("run/checkpoints/last.safetensors")).unwrap();
    folder.fails("resume run", 4, &["last.safetensors", "not a checkpoint", "best.safetensors"]);
    // What the remedy says helps.
    let best = folder.path("run/checkpoints/best.safetensors");
    std::fs::copy(best, folder.path("run/checkpoints/last.safetensors")).unwrap();
    folder.run("resume run");
}

#[test]
fn what_is_not_there_is_named() {
    let folder = Folder::new();
    for words in ["resume nowhere", "eval nowhere", "fold nowhere --out f", "verify nowhere nowhere", "summary nowhere"]
    {
        folder.fails(words, 6, &["nowhere"]);
    }
}

#[test]
fn a_run_below_a_file_is_refused() {
    let folder = Folder::new();
    folder.write("file", "mine");
    folder.fails("train --limit 64 --steps 1 --out file/run", 6, &["file/run", "`file` is a file"]);
    folder.fails("train --limit 64 --steps 1 --out file", 2, &["`file` exists", "--out"]);
    assert_eq!(folder.read("file"), b"mine");
    assert_eq!(names(&folder.path("")), ["file"]);
}

#[test]
fn a_run_is_never_overwritten() {
    let folder = with_run();
    let before = SAME_BITS.map(|file| folder.read(&format!("run/{file}")));
    folder.fails("train --limit 64 --steps 1 --out run", 2, &["`run` exists", "gatefold resume run"]);
    folder.fails("fold run --out run/model.safetensors", 2, &["run/model.safetensors"]);
    assert_eq!(SAME_BITS.map(|file| folder.read(&format!("run/{file}"))), before);
}

/// A limit on the size of a file stands for a full disk: the write fails half way. The signal that comes with it is ignored,
/// as a full disk sends none.
#[test]
fn a_write_that_fails_leaves_the_checkpoint_before_it() {
    let folder = Folder::new();
    let train = "train --conv mdconv --limit 64 --batch-size 16 --epochs 3";
    folder.run(&format!("{train} --out whole"));
    folder.run(&format!("{train} --steps 4 --out run"));
    let config = String::from_utf8(folder.read("run/config.toml")).unwrap();
    folder.write("run/config.toml", config.replace("steps = 4\n", ""));
    let before = SAME_BITS.map(|file| folder.read(&format!("run/{file}")));
    // In blocks of 512 bytes: room for metrics and plots, but not for a checkpoint.
    let size = folder.read("run/checkpoints/last.safetensors").len();
    let blocks = size / 512 / 2;
    let mut shell = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_gatefold");
    shell.args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec '{program}' resume run")]);
    let said = Said::of(folder.inside(shell)).ends(6, "resume with little room");
    said.explains(&["safetensors", "too large", "make room"]);
    assert_eq!(SAME_BITS.map(|file| folder.read(&format!("run/{file}"))), before, "the old files are still there");
    for place in ["run", "run/checkpoints", "run/folded"] {
        let left: Vec<_> = names(&folder.path(place)).into_iter().filter(|name| name.contains("tmp")).collect();
        assert!(left.is_empty(), "{place}: {left:?}");
    }
    assert_eq!(folder.json("run/run.json")["status"], "failed");
    folder.run("resume run");
    assert_same_run(&folder, "whole", "run");
}
