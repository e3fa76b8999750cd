//! Sets that come in a zip archive, whose files have no published checksums.

use std::io::Write;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::super::sums::KEPT;
use super::*;

fn zipped(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, contents) in entries {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(contents).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn good_zip() -> Vec<u8> {
    zipped(&[("gzip/one.bin", &first()), ("gzip/unknown.txt", b"nobody needs it"), ("gzip/two.bin", &second())])
}

fn files(sources: &[Source]) -> Files {
    let member = |name| Member { name, size: None, sha256: None };
    let archive = Download {
        file: "small.zip",
        form: Form::Zip { inside: "gzip" },
        sources: forever(sources.to_vec()),
        optional: false,
    };
    Files {
        folder: "Small/raw",
        downloads: forever(vec![archive]),
        members: forever(vec![member("one.bin"), member("two.bin")]),
        extras: &[],
    }
}

fn get(dir: &TempDir, sources: &[Source]) -> Result<Got> {
    get_files("small", &files(sources), dir.path(), false, &mut |_| {})
}

#[test]
fn the_checksums_of_its_files_are_kept_when_it_is_unpacked() {
    let (dir, file) = (tempdir().unwrap(), good_zip());
    let served = file.clone();
    let server = Server::start(move |_, start| Answer::from(&served, start));
    let sources = [source(server.url(), &file)];
    get(&dir, &sources).unwrap();
    let folder = dir.path().join("Small/raw");
    assert_eq!(fs::read(folder.join("two.bin")).unwrap(), second());
    let kept = fs::read_to_string(folder.join(KEPT)).unwrap();
    assert!(kept.contains(&format!("{}  one.bin\n", hex(&Sha256::digest(first())))), "{kept}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 3, "only expected files");
    assert_eq!(names(&dir), ["Small"]);

    let verdicts = || -> Vec<Result<Proof>> {
        verify_files("small", &files(&sources), dir.path()).into_iter().map(|(_, verdict)| verdict).collect()
    };
    assert!(verdicts().iter().all(|verdict| matches!(verdict, Ok(Proof::Kept))), "{:?}", verdicts());
    let mut changed = first();
    changed[7] ^= 1;
    fs::write(folder.join("one.bin"), changed).unwrap();
    assert!(matches!(&verdicts()[..], [Err(Error::Broken { .. }), Ok(Proof::Kept)]), "{:?}", verdicts());
    fs::remove_file(folder.join(KEPT)).unwrap();
    assert!(verdicts().iter().all(|verdict| matches!(verdict, Ok(Proof::Unknown))), "{:?}", verdicts());
}

#[test]
fn one_placed_by_hand_must_be_the_published_one() {
    let (dir, file) = (tempdir().unwrap(), good_zip());
    let by_hand = dir.path().join("small.zip");
    fs::write(&by_hand, zipped(&[("gzip/one.bin", &first()), ("gzip/two.bin", &first())])).unwrap();
    let error = get(&dir, &[source("http://127.0.0.1:9/small.zip".into(), &file)]).unwrap_err().to_string();
    assert!(error.contains("small.zip: is a wrong file: its SHA-256 is"), "{error}");
    fs::write(&by_hand, &file).unwrap();
    get(&dir, &[source("http://127.0.0.1:9/small.zip".into(), &file)]).unwrap();
    assert_eq!(fs::read(dir.path().join("Small/raw/one.bin")).unwrap(), first());
}

#[test]
fn a_hostile_one_writes_nothing() {
    let bad = |entries: &[(&str, &[u8])]| zipped(entries);
    let (one, two) = (first(), second());
    let whole = good_zip();
    let cases = [
        (bad(&[("../gzip/one.bin", &one), ("gzip/two.bin", &two)]), "does not hold `gzip/one.bin`"),
        (bad(&[("gzip/../one.bin", &one), ("gzip/two.bin", &two)]), "does not hold `gzip/one.bin`"),
        (bad(&[("/gzip/one.bin", &one), ("gzip/two.bin", &two)]), "does not hold `gzip/one.bin`"),
        (whole[..whole.len() / 2].to_vec(), "the archive is damaged"),
        (b"PK\x03\x04 and nothing else".to_vec(), "the archive is damaged"),
    ];
    for (file, part) in cases {
        let outer = tempdir().unwrap();
        let dir = tempfile::tempdir_in(outer.path()).unwrap();
        fs::write(dir.path().join("small.zip"), &file).unwrap();
        // Even where the checksum says that it is the published one.
        let error = get(&dir, &[source("http://127.0.0.1:9/small.zip".into(), &file)]).unwrap_err().to_string();
        assert!(error.contains(part), "expected `{part}`: {error}");
        assert_eq!(names(&dir), ["small.zip"], "{part}");
        assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1, "something was written beside the data folder");
    }
}
