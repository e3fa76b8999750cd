use std::fs;
use std::path::PathBuf;

use std::path::Path;

use super::*;
use crate::{ErrorKind, load};

const PLANE: usize = 32 * 32;
const RECORD: usize = 1 + 3 * PLANE;

/// A record whose planes count up from `first`, so that every channel and place differs.
fn record(label: u8, first: u8) -> Vec<u8> {
    let plane = |c: u8| (0..PLANE).map(move |i| first.wrapping_add(c * 50).wrapping_add(i as u8));
    std::iter::once(label).chain((0..3).flat_map(plane)).collect()
}

/// A folder with a small set in the official layout: `images` records a file, labels and first pixels count up.
fn small_set(images: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(FOLDER)).unwrap();
    for (file, name) in TRAIN.iter().chain(&TEST).enumerate() {
        let records: Vec<u8> =
            (0..images).flat_map(|i| record(((file + i) % 10) as u8, (file * images + i) as u8)).collect();
        fs::write(dir.path().join(FOLDER).join(name), records).unwrap();
    }
    dir
}

fn file(dir: &tempfile::TempDir, name: &str) -> PathBuf {
    dir.path().join(FOLDER).join(name)
}

fn failure(dir: &Path) -> (ErrorKind, String) {
    let error = load(Kind::Cifar10, dir, None).unwrap_err();
    (error.kind(), error.to_string())
}

#[test]
fn records_come_in_file_order_with_interleaved_channels() {
    let dir = small_set(3);
    let loaded = load(Kind::Cifar10, dir.path(), None).unwrap();
    let (train, test) = (&loaded.split.train, &loaded.split.test);
    assert_eq!((train.len(), test.len()), (15, 3));
    assert_eq!(train.labels(), [0, 1, 2, 1, 2, 3, 2, 3, 4, 3, 4, 5, 4, 5, 6]);
    assert_eq!(test.labels(), [5, 6, 7]);
    assert_eq!(train.image(4).unwrap()[..6], [4, 54, 104, 5, 55, 105]); // image 1 of data_batch_2, red, green, blue
    assert_eq!(train.image(4).unwrap()[3 * 33], 37); // row 1, column 1
    assert_eq!(test.image(2).unwrap()[0], 17);
    assert_eq!(loaded.remarks.len(), 6, "a short set is remarked on: {:?}", loaded.remarks);
}

#[test]
fn a_limit_keeps_the_first_of_both_and_the_normalisation_of_all() {
    let dir = small_set(3);
    let (whole, cut) = (load(Kind::Cifar10, dir.path(), None), load(Kind::Cifar10, dir.path(), Some(2)));
    let (whole, cut) = (whole.unwrap(), cut.unwrap());
    assert_eq!((cut.split.train.len(), cut.split.test.len()), (2, 2));
    assert_eq!(cut.split.test.image(1).unwrap(), whole.split.test.image(1).unwrap());
    assert_eq!(cut.normalisation, whole.normalisation);
    assert_ne!(cut.split.train.checksum(), whole.split.train.checksum());
}

#[test]
fn a_missing_set_names_the_command_that_fetches_it() {
    let dir = tempfile::tempdir().unwrap();
    let (kind, text) = failure(dir.path());
    assert_eq!(kind, ErrorKind::Data);
    assert!(text.contains("data_batch_1.bin` does not exist") && text.contains("gatefold data get cifar10"), "{text}");
}

#[test]
fn the_folder_of_the_set_itself_is_told_from_the_data_folder() {
    let dir = small_set(1);
    let (kind, text) = failure(&dir.path().join(FOLDER));
    assert_eq!(kind, ErrorKind::Data);
    assert!(text.contains(&format!("give `{}`", dir.path().display())), "{text}");
}

#[test]
fn a_truncated_file_is_named_with_its_record() {
    let dir = small_set(3);
    fs::write(file(&dir, "data_batch_4.bin"), &record(0, 0).repeat(2)[..RECORD + 100]).unwrap();
    let (kind, text) = failure(dir.path());
    assert_eq!(kind, ErrorKind::Data);
    assert!(text.contains("data_batch_4.bin`, record 1: 3173 bytes"), "{text}");
}

#[test]
fn an_empty_file_and_one_too_long_are_refused() {
    let dir = small_set(1);
    fs::write(file(&dir, "test_batch.bin"), []).unwrap();
    assert!(failure(dir.path()).1.contains("test_batch.bin`, record 0: 0 bytes"));
    // Sparse: takes no space on the disk, and must take none in memory.
    let long = fs::File::create(file(&dir, "test_batch.bin")).unwrap();
    long.set_len(RECORD as u64 * 1_000_000_000).unwrap();
    let (kind, text) = failure(dir.path());
    assert_eq!(kind, ErrorKind::Data);
    assert!(text.contains("the official file has 30730000"), "{text}");
}

#[test]
fn a_label_out_of_range_is_named_with_its_record() {
    let dir = small_set(3);
    fs::write(file(&dir, "data_batch_2.bin"), [record(9, 0), record(10, 0), record(0, 0)].concat()).unwrap();
    let (kind, text) = failure(dir.path());
    assert_eq!(kind, ErrorKind::Data);
    assert!(text.contains("data_batch_2.bin`, record 1: label 10 is none of 0..=9"), "{text}");
}

#[test]
fn a_path_below_a_regular_file_names_that_file() {
    let dir = tempfile::tempdir().unwrap();
    let regular = dir.path().join("regular");
    fs::write(&regular, "text").unwrap();
    let (kind, text) = failure(&regular);
    assert_eq!(kind, ErrorKind::Io);
    assert!(text.contains(&format!("`{}` is a file, not a folder", regular.display())), "{text}");
}

#[test]
fn a_folder_in_place_of_a_file_is_refused() {
    let dir = small_set(1);
    fs::remove_file(file(&dir, "test_batch.bin")).unwrap();
    fs::create_dir(file(&dir, "test_batch.bin")).unwrap();
    let (kind, text) = failure(dir.path());
    assert_eq!(kind, ErrorKind::Data);
    assert!(text.contains("no regular file"), "{text}");
}

/// The official files, where somebody has put them beside the project.
#[test]
fn the_official_files_have_their_known_mean_and_deviation() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if !dir.join(FOLDER).exists() {
        println!("NOT RUN: `{}` is absent", dir.join(FOLDER).display());
        return;
    }
    let loaded = load(Kind::Cifar10, &dir, Some(100)).unwrap();
    assert!(loaded.remarks.is_empty(), "{:?}", loaded.remarks); // the first 100 show all classes
    assert_eq!((loaded.split.train.len(), loaded.split.test.len()), (100, 100));
    assert_eq!(loaded.split.train.labels()[..10], [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]);
    let known = [(0.4914, 0.2470), (0.4822, 0.2435), (0.4465, 0.2616)];
    for ((m, s), (mean, std)) in loaded.normalisation.mean.iter().zip(&loaded.normalisation.std).zip(known) {
        assert!((m - mean).abs() < 5e-5 && (s - std).abs() < 5e-5, "{:?}", loaded.normalisation);
    }
}
