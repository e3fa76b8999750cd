use std::fs;
use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::*;
use crate::{ErrorKind, Loaded, Request, SetOptions, load};

/// The parts of a MAT-file, each of which a test may spoil.
struct Mat {
    magic: &'static [u8; 4],
    arrays: Vec<Vec<u8>>,
    compressed: bool,
}

impl Mat {
    fn write(&self) -> Vec<u8> {
        let mut file = b"MATLAB 5.0 MAT-file, written by a test".to_vec();
        file.resize(124, b' ');
        file.extend(self.magic);
        for array in &self.arrays {
            if self.compressed {
                let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
                zlib.write_all(array).unwrap();
                let bytes = zlib.finish().unwrap();
                file.extend(tag(15, bytes.len()));
                file.extend(bytes);
            } else {
                file.extend(array);
            }
        }
        file
    }
}

fn tag(kind: u32, length: usize) -> Vec<u8> {
    [kind.to_le_bytes(), (length as u32).to_le_bytes()].concat()
}

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// A matrix as MATLAB writes it: a short name is a small element.
fn array(name: &str, class: u8, kind: u32, dimensions: &[i32], values: &[u8]) -> Vec<u8> {
    let sizes: Vec<u8> = dimensions.iter().flat_map(|d| d.to_le_bytes()).collect();
    let name_element = match name.len() {
        1..=4 => {
            let mut small = ((name.len() as u32) << 16 | 1).to_le_bytes().to_vec();
            small.extend(name.bytes());
            padded(small)
        }
        length => [tag(1, length), padded(name.as_bytes().to_vec())].concat(),
    };
    let data = match values.len() {
        0..=4 => {
            let mut small = ((values.len() as u32) << 16 | kind).to_le_bytes().to_vec();
            small.extend(values);
            padded(small)
        }
        length => [tag(kind, length), padded(values.to_vec())].concat(),
    };
    let body =
        [tag(6, 8), vec![class, 0, 0, 0, 0, 0, 0, 0], tag(5, sizes.len()), padded(sizes), name_element, data].concat();
    [tag(14, body.len()), body].concat()
}

/// The value at (image, row, column, channel).
fn pixel(n: usize, row: usize, column: usize, channel: usize) -> u8 {
    (n * 91 + row * 7 + column * 3 + channel * 50) as u8
}

fn x(count: usize) -> Vec<u8> {
    let mut values = Vec::new();
    for (n, channel, column) in (0..count).flat_map(|n| (0..3).flat_map(move |ch| (0..32).map(move |c| (n, ch, c)))) {
        values.extend((0..32).map(|row| pixel(n, row, column, channel)));
    }
    array("X", 9, 2, &[32, 32, 3, count as i32], &values)
}

fn y(labels: &[u8]) -> Vec<u8> {
    array("y", 9, 2, &[labels.len() as i32, 1], labels)
}

fn good(labels: &[u8]) -> Mat {
    Mat { magic: b"\x00\x01IM", arrays: vec![x(labels.len()), y(labels)], compressed: true }
}

fn set(train: &[u8], test: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(FOLDER)).unwrap();
    fs::write(dir.path().join(FOLDER).join(TRAIN), train).unwrap();
    fs::write(dir.path().join(FOLDER).join(TEST), test).unwrap();
    dir
}

fn loaded(dir: &Path, extra: bool) -> Result<Loaded> {
    let options = SetOptions { extra: Some(extra), ..SetOptions::default() };
    load(Kind::Svhn, dir, Request { options, ..Request::default() })
}

fn failure(train: &[u8]) -> String {
    let dir = set(train, &good(&[1]).write());
    let error = loaded(dir.path(), false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    let text = error.to_string();
    assert!(text.contains(TRAIN) && text.contains("gatefold data get svhn"), "{text}");
    text
}

#[test]
fn columns_become_rows_and_ten_becomes_zero() {
    let train = [9, 10, 1, 2, 3, 10];
    let dir = set(&good(&train).write(), &good(&[5]).write()); // one image: y is a small element
    let Loaded { split, remarks, .. } = loaded(dir.path(), false).unwrap();
    assert_eq!((split.train.labels(), split.test.labels()), (&[9, 0, 1, 2, 3, 0][..], &[5][..]));
    for n in 0..train.len() {
        let image = split.train.image(n).unwrap();
        for (row, column, channel) in [(0, 0, 0), (0, 1, 0), (1, 0, 0), (31, 5, 2), (17, 31, 1)] {
            assert_eq!(image[(row * 32 + column) * 3 + channel], pixel(n, row, column, channel));
        }
    }
    assert_eq!(remarks.len(), 2, "a short set is remarked on: {remarks:?}");
}

#[test]
fn the_order_of_arrays_others_between_them_and_plain_ones_are_no_matter() {
    let text = array("note", 4, 4, &[1, 6], b"abcdef");
    let other = array("a_longer_name", 6, 9, &[1, 1], &[0; 8]);
    for compressed in [true, false] {
        let arrays = vec![text.clone(), y(&[1, 2]), other.clone(), x(2)];
        let file = Mat { arrays, compressed, ..good(&[]) }.write();
        let train = loaded(set(&file, &good(&[1]).write()).path(), false).unwrap().split.train;
        assert_eq!(train.labels(), [1, 2]);
        assert_eq!(train.image(1).unwrap()[3], pixel(1, 0, 1, 0));
    }
}

#[test]
fn extra_images_come_behind_the_others_where_asked_for() {
    let dir = set(&good(&[1, 2]).write(), &good(&[3]).write());
    let missing = loaded(dir.path(), true).unwrap_err().to_string();
    assert!(missing.contains(EXTRA), "{missing}");
    fs::write(dir.path().join(FOLDER).join(EXTRA), good(&[4, 10, 6]).write()).unwrap();
    assert_eq!(loaded(dir.path(), true).unwrap().split.train.labels(), [1, 2, 4, 0, 6]);
    assert_eq!(loaded(dir.path(), false).unwrap().split.train.labels(), [1, 2]);
}

#[test]
fn what_is_wrong_in_a_file_is_said() {
    let with = |arrays| Mat { arrays, ..good(&[]) }.write();
    let shape = |dimensions: &[i32]| array("X", 9, 2, dimensions, &[0; 64]);
    let mut complex = y(&[1]);
    complex[17] = 8;
    let cases = [
        (with(vec![x(2), y(&[1, 11])]), "label 11 of image 1 is none of 1..=10"),
        (with(vec![x(2), y(&[1, 0])]), "label 0 of image 1"),
        (with(vec![x(2), y(&[1, 2, 3])]), "2 images in `X` and 3 labels in `y`"),
        (with(vec![x(2)]), "there is no array `y`"),
        (with(vec![y(&[1])]), "there is no array `X`"),
        (with(vec![x(1), x(1), y(&[1])]), "`X` is there twice"),
        (with(vec![]), "there is no array `X`"),
        (with(vec![shape(&[28, 28, 3, 1])]), "`X` has shape [28, 28, 3, 1]"),
        (with(vec![shape(&[32, 32, 3, 2])]), "64 bytes follow for 2 x 3072 values of `X`"),
        (with(vec![shape(&[32, 32, 3, i32::MAX])]), "64 bytes follow for 2147483647 x 3072"),
        (with(vec![shape(&[32, 32, 3, -1])]), "negative dimension"),
        (with(vec![x(1), array("y", 6, 9, &[1, 1], &[0; 8])]), "the values of `y` are no bytes"),
        (with(vec![x(1), complex]), "`y` is complex"),
        (with(vec![[tag(14, 16), vec![0; 16]].concat()]), "for the flags"),
        (Mat { magic: b"\x01\x00MI", ..good(&[1]) }.write(), "big-endian"),
        (Mat { magic: b"\x00\x02IM", ..good(&[1]) }.write(), "no MAT-file of level 5"),
        (b"MATLAB 7.3 MAT-file, Platform: GLNXA64".iter().chain(&[b' '; 200]).copied().collect(), "-v7"),
        (b"<html>not found</html>".repeat(20), "no MAT-file of level 5"),
        (Vec::new(), "the file is cut off"),
    ];
    for (file, part) in cases {
        let text = failure(&file);
        assert!(text.contains(part), "expected `{part}`: {text}");
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let whole = good(&[1, 2, 3]).write();
    for length in (0..whole.len()).step_by(37).chain([127, 128, 129, 136, whole.len() - 1]) {
        failure(&whole[..length]);
    }
}

#[test]
fn a_damaged_byte_is_an_error_or_changes_nothing_of_importance() {
    let whole = good(&[1, 2, 3]).write();
    for at in (128..whole.len()).step_by(11) {
        let mut file = whole.clone();
        file[at] ^= 0x55;
        // Never a panic; deflate's checksum shows nearly all of it.
        let dir = set(&file, &good(&[1]).write());
        let _ = loaded(dir.path(), false);
    }
    // In the middle of the compressed images it shows.
    let mut file = whole.clone();
    let middle = 128 + 8 + 300;
    file[middle] ^= 0x55;
    failure(&file);
}

#[test]
fn a_header_that_promises_more_than_the_file_can_hold_is_refused_before_memory_is_taken() {
    // A matrix of a few bytes that is said to hold 4 GB.
    let mut lie = x(1);
    let at = lie.len() - 3072 - 4;
    lie[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let text = failure(&Mat { arrays: vec![lie], ..good(&[]) }.write());
    assert!(text.contains("`X` is said to have 4294967295 bytes"), "{text}");
    // An element that is said to reach behind the end of the file.
    let mut file = good(&[1]).write();
    file[132..136].copy_from_slice(&u32::MAX.to_le_bytes());
    let text = failure(&file);
    assert!(text.contains("the file ends at"), "{text}");
}

#[test]
fn zeros_that_unpack_without_end_are_not_unpacked() {
    // 200 MB of zeros in 200 kB, behind a header that asks for none of them.
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
    let mut bomb = array("X", 9, 2, &[32, 32, 3, 1], &[0; 3072]);
    bomb.extend(vec![0; 200 << 20]);
    zlib.write_all(&bomb).unwrap();
    let bytes = zlib.finish().unwrap();
    let mut file = Mat { arrays: vec![], ..good(&[]) }.write();
    file.extend(tag(15, bytes.len()));
    file.extend(bytes);
    let text = failure(&file);
    assert!(text.contains("there is no array `y`"), "{text}");
}

/// A part of the official files, where somebody has put it beside the project.
#[test]
fn a_part_of_the_official_files_is_read() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if !dir.join(FOLDER).exists() {
        println!("NOT RUN: `{}` is absent", dir.join(FOLDER).display());
        return;
    }
    let Loaded { split, normalisation, .. } = loaded(&dir, false).unwrap();
    let counts = |data: &Dataset| {
        let mut counts = [0; 10];
        data.labels().iter().for_each(|&label| counts[label] += 1);
        counts
    };
    assert_eq!(counts(&split.train), [50, 183, 111, 101, 92, 86, 58, 55, 68, 56]);
    assert_eq!(counts(&split.test), [16, 44, 30, 33, 18, 26, 20, 15, 10, 11]);
    let known = [(0.4565, 0.2032), (0.4615, 0.2092), (0.4858, 0.2074)];
    for ((m, s), (mean, std)) in normalisation.mean.iter().zip(&normalisation.std).zip(known) {
        assert!((m - mean).abs() < 6e-5 && (s - std).abs() < 6e-5, "{normalisation:?}");
    }
}
