use std::fs::{self, File};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};
use tempfile::{TempDir, tempdir};

use super::fetch::get_files;
use super::server::{Answer, Server};
use super::sums::verify_files;
use super::*;
use crate::ErrorKind;

mod plain;
mod zipped;

const FOLDER: &str = "small-set";

/// Contents of some size that gzip cannot shrink.
fn contents(seed: u8, size: usize) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..size).map(|_| next()).collect()
}

fn first() -> Vec<u8> {
    contents(1, 200_000)
}

fn second() -> Vec<u8> {
    contents(2, 70_000)
}

/// What a catalogue keeps for as long as the program runs, here for as long as the tests run.
fn forever<T>(value: Vec<T>) -> &'static [T] {
    Box::leak(value.into_boxed_slice())
}

/// A set of two files, as the catalogue describes one, whose archive these sources serve.
fn files(sources: &[Source]) -> Files {
    let member = |name, contents: &[u8]| {
        let sha256: &'static str = Box::leak(hex(&Sha256::digest(contents)).into_boxed_str());
        Member { name, size: Some(contents.len() as u64), sha256: Some(sha256) }
    };
    let archive = Download {
        file: "small.tar.gz",
        form: Form::TarGz { inside: FOLDER },
        sources: forever(sources.to_vec()),
        optional: false,
    };
    Files {
        folder: FOLDER,
        downloads: forever(vec![archive]),
        members: forever(vec![member("one.bin", &first()), member("two.bin", &second())]),
        extras: &["names.txt"],
    }
}

/// Path, kind and contents of an entry, honest or not.
type Entry<'a> = (&'a str, EntryType, &'a [u8]);

fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, kind, contents) in entries {
        let mut header = Header::new_gnu();
        // Written past the checks of `set_path`: a hostile archive has none.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        if kind.is_symlink() || kind.is_hard_link() {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_entry_type(*kind);
        header.set_size(contents.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, *contents).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

fn good_archive() -> Vec<u8> {
    archive(&[
        ("small-set/", EntryType::Directory, b""),
        ("small-set/._one.bin", EntryType::Regular, b"a resource fork"),
        ("small-set/one.bin", EntryType::Regular, &first()),
        ("./small-set/two.bin", EntryType::Regular, &second()),
        ("small-set/names.txt", EntryType::Regular, b"a\nb\n"),
        ("small-set/notes.txt", EntryType::Regular, b"nobody needs them"),
    ])
}

fn source(url: String, archive: &[u8]) -> Source {
    Source { url: url.into(), size: archive.len() as u64, sha256: hex(&Sha256::digest(archive)).into() }
}

fn fetch(dir: &TempDir, sources: &[Source]) -> Result<Got> {
    get_files("small", &files(sources), dir.path(), false, &mut |_| {})
}

fn assert_in_place(dir: &TempDir) {
    let folder = dir.path().join(FOLDER);
    assert_eq!(fs::read(folder.join("one.bin")).unwrap(), first());
    assert_eq!(fs::read(folder.join("two.bin")).unwrap(), second());
    assert_eq!(fs::read(folder.join("names.txt")).unwrap(), b"a\nb\n");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 3, "only expected files");
}

/// Everything in the data folder, by name.
fn names(dir: &TempDir) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_download_is_checked_unpacked_and_leaves_nothing_else() {
    let (dir, file) = (tempdir().unwrap(), good_archive());
    let served = file.clone();
    let server = Server::start(move |_, start| Answer::from(&served, start));
    let mut events = Vec::new();
    let sources = [source(server.url(), &file)];
    let got = get_files("small", &files(&sources), dir.path(), false, &mut |event| events.push(format!("{event:?}")))
        .unwrap();
    assert_eq!(got, Got::Fetched { folder: dir.path().join(FOLDER), from: vec![server.url()], moved: vec![] });
    assert_in_place(&dir);
    assert_eq!(names(&dir), [FOLDER]);
    assert!(events[0].starts_with("Source") && events.last().unwrap() == "Unpacking", "{events:?}");
    assert!(events.contains(&format!("Bytes {{ done: {0}, total: {0} }}", file.len())), "{events:?}");

    // A second call finds the set and asks nobody.
    assert_eq!(fetch(&dir, &sources).unwrap(), Got::Present(dir.path().join(FOLDER)));
    assert_eq!(server.requests(), [None]);
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_stopped() {
    let (dir, file) = (tempdir().unwrap(), good_archive());
    let served = file.clone();
    let server = Server::start(move |_, start| Answer::from(&served, start).cut(100_000));
    fetch(&dir, &[source(server.url(), &file)]).unwrap();
    assert_in_place(&dir);
    let requests = server.requests();
    assert_eq!((requests.len(), requests[0]), (3, None));
    assert!(requests[1].is_some_and(|start| start > 90_000) && requests[2] > requests[1], "{requests:?}");
}

#[test]
fn a_later_call_goes_on_with_the_part_of_an_earlier_one() {
    let (dir, file) = (tempdir().unwrap(), good_archive());
    let served = file.clone();
    let server = Server::start(move |number, start| match number {
        0 => Answer::from(&served, start).cut(150_000),
        1 => Answer::new("503 Service Unavailable", "text/plain", b"busy"),
        _ => Answer::from(&served, start),
    });
    let error = fetch(&dir, &[source(server.url(), &file)]).unwrap_err().to_string();
    assert!(error.contains("503 Service Unavailable"), "{error}");
    assert!(names(&dir)[0].ends_with(".part"), "{:?}", names(&dir));
    fetch(&dir, &[source(server.url(), &file)]).unwrap();
    assert_in_place(&dir);
    assert!(server.requests()[2].is_some_and(|start| start > 140_000), "{:?}", server.requests());
    assert_eq!(names(&dir), [FOLDER]);
}

#[test]
fn parts_of_other_archives_are_removed_once_the_set_is_in_place() {
    let (dir, file) = (tempdir().unwrap(), good_archive());
    let repacked = archive(&[
        ("small-set/two.bin", EntryType::Regular, &second()),
        ("small-set/one.bin", EntryType::Regular, &first()),
    ]);
    let (one, other) = (file.clone(), repacked.clone());
    let broken = Server::start(move |number, start| match number {
        0 => Answer::from(&one, start).cut(150_000),
        _ => Answer::new("404 Not Found", "text/plain", b"gone"),
    });
    let mirror = Server::start(move |_, start| Answer::from(&other, start));
    fetch(&dir, &[source(broken.url(), &file), source(mirror.url(), &repacked)]).unwrap();
    assert_eq!(mirror.requests(), [None], "another archive is begun from the start");
    assert_eq!(names(&dir), [FOLDER]);
}

#[test]
fn another_mirror_of_the_same_archive_goes_on_with_the_part() {
    let (dir, file) = (tempdir().unwrap(), good_archive());
    let (one, other) = (file.clone(), file.clone());
    let broken = Server::start(move |number, start| match number {
        0 => Answer::from(&one, start).cut(150_000),
        _ => Answer::new("404 Not Found", "text/plain", b"gone"),
    });
    let mirror = Server::start(move |_, start| Answer::from(&other, start));
    let got = fetch(&dir, &[source(broken.url(), &file), source(mirror.url(), &file)]).unwrap();
    assert!(matches!(got, Got::Fetched { from, .. } if from == [mirror.url()]));
    assert_in_place(&dir);
    assert!(mirror.requests()[0].is_some_and(|start| start > 140_000), "{:?}", mirror.requests());
}

#[test]
fn a_server_that_ignores_ranges_is_read_from_the_start() {
    let (dir, file) = (tempdir().unwrap(), good_archive());
    let served = file.clone();
    let server =
        Server::start(move |number, _| Answer::whole(&served).cut(if number == 0 { 100_000 } else { usize::MAX }));
    fetch(&dir, &[source(server.url(), &file)]).unwrap();
    assert_in_place(&dir);
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn a_part_of_a_file_that_has_changed_is_fetched_again_from_the_start() {
    let (dir, file) = (tempdir().unwrap(), good_archive());
    let served = file.clone();
    let server = Server::start(move |_, start| Answer::from(&served, start));
    let sources = [source(server.url(), &file)];
    let part = dir.path().join(format!(".small.tar.gz.{}.part", &sources[0].sha256[..8]));
    // As long as half of the archive, but of another one.
    fs::write(&part, vec![7; file.len() / 2]).unwrap();
    fetch(&dir, &sources).unwrap();
    assert_in_place(&dir);
    assert_eq!(server.requests(), [Some(file.len() / 2), None]);
}

#[test]
fn a_part_that_the_server_cannot_continue_is_fetched_again_from_the_start() {
    for status in ["416 Range Not Satisfiable", "206 Partial Content"] {
        let (dir, file) = (tempdir().unwrap(), good_archive());
        let served = file.clone();
        let server = Server::start(move |_, start| match start {
            Some(_) => Answer::new(status, "application/x-gzip", b"1234"), // and no Content-Range that confirms the place
            None => Answer::whole(&served),
        });
        let sources = [source(server.url(), &file)];
        fs::write(dir.path().join(format!(".small.tar.gz.{}.part", &sources[0].sha256[..8])), vec![7; 1000]).unwrap();
        fetch(&dir, &sources).unwrap();
        assert_in_place(&dir);
        assert_eq!(server.requests(), [Some(1000), None]);
    }
}

#[test]
fn a_wrong_file_an_html_page_and_a_dead_server_are_told_apart() {
    let (dir, file) = (tempdir().unwrap(), good_archive());
    let mut other = good_archive();
    *other.last_mut().unwrap() ^= 1; // of the right size
    let longer = [file.clone(), vec![0; 10]].concat();
    let page = "<!DOCTYPE html><html>Please log in</html>".as_bytes();
    let mut disguised = file.clone();
    disguised[..page.len()].copy_from_slice(page);
    let chunked = |body: &[u8]| Answer {
        head: "HTTP/1.1 200 OK\r\nContent-Type: application/x-gzip\r\n".into(),
        body: body.to_vec(),
        send: body.len(),
    };
    let answers: Vec<(Answer, &str)> = vec![
        (Answer::whole(&other), "serves a wrong file: SHA-256"),
        (Answer::whole(&longer), "serves a wrong file: "),
        (chunked(&longer), "more than the expected"),
        (chunked(&file[..1]), "broke off after"),
        (Answer::new("200 OK", "text/html; charset=utf-8", page), "HTML page"),
        (Answer::new("200 OK", "application/x-gzip", &disguised), "no gzip archive"),
        (Answer::new("403 Forbidden", "text/plain", b"no"), "status 403 Forbidden"),
        (Answer::whole(&file).cut(0), "broke off after 0 of"),
    ];
    let mut servers = Vec::new();
    let mut expected = Vec::new();
    for (answer, part) in answers {
        let (head, body, send) = (answer.head, answer.body, answer.send);
        servers.push(Server::start(move |_, _| Answer { head: head.clone(), body: body.clone(), send }));
        expected.push(part);
    }
    let gone = Server::start(|_, _| Answer::whole(b"")).url(); // dropped: nobody listens there
    let mut sources: Vec<Source> = servers.iter().map(|server| source(server.url(), &file)).collect();
    sources.push(source(gone, &file));
    expected.push("no answer");

    let mut told = 0;
    let error = get_files("small", &files(&sources), dir.path(), false, &mut |event| {
        told += usize::from(matches!(event, Progress::Failed { .. }));
    })
    .unwrap_err();
    assert_eq!((error.kind(), told), (ErrorKind::Io, sources.len()));
    let text = error.to_string();
    let Error::Download { failures, .. } = error else { panic!("{text}") };
    for ((failure, source), part) in failures.iter().zip(&sources).zip(expected) {
        assert!(failure.starts_with(&*source.url) && failure.contains(part), "expected `{part}`: {failure}");
        assert!(text.contains(failure));
    }
    // The remedy is a path and a command.
    assert!(text.contains(&format!("place the file as `{}`", dir.path().join("small.tar.gz").display())), "{text}");
    assert!(text.contains("gatefold data get small --data-dir"), "{text}");
    assert!(!dir.path().join(FOLDER).exists());
}

#[test]
fn after_a_mirror_that_fails_the_next_one_serves() {
    let (dir, file) = (tempdir().unwrap(), good_archive());
    let bad = Server::start(|_, _| Answer::new("404 Not Found", "text/html", b"<html>"));
    let served = file.clone();
    let good = Server::start(move |_, start| Answer::from(&served, start));
    let got = fetch(&dir, &[source(bad.url(), &file), source(good.url(), &file)]).unwrap();
    assert!(matches!(got, Got::Fetched { from, .. } if from == [good.url()]));
    assert_in_place(&dir);
}

#[test]
fn an_archive_placed_by_hand_is_used_and_kept() {
    let dir = tempdir().unwrap();
    let by_hand = dir.path().join("small.tar.gz");
    fs::write(&by_hand, good_archive()).unwrap();
    let got = fetch(&dir, &[]).unwrap();
    let from = vec![by_hand.display().to_string()];
    assert_eq!(got, Got::Fetched { folder: dir.path().join(FOLDER), from, moved: vec![] });
    assert_in_place(&dir);
    assert_eq!(names(&dir), [FOLDER, "small.tar.gz"]);
}

#[test]
fn a_damaged_archive_placed_by_hand_is_told_and_kept_while_a_mirror_serves() {
    let (dir, file) = (tempdir().unwrap(), good_archive());
    let by_hand = dir.path().join("small.tar.gz");
    fs::write(&by_hand, &file[..file.len() / 2]).unwrap();
    let error = fetch(&dir, &[]).unwrap_err().to_string();
    assert!(error.contains("small.tar.gz: the archive is damaged"), "{error}");
    let served = file.clone();
    let server = Server::start(move |_, start| Answer::from(&served, start));
    fetch(&dir, &[source(server.url(), &file)]).unwrap();
    assert_in_place(&dir);
    assert_eq!(fs::read(&by_hand).unwrap(), file[..file.len() / 2]);
}

#[test]
fn a_folder_that_is_incomplete_is_moved_aside_and_not_lost() {
    let dir = tempdir().unwrap();
    let folder = dir.path().join(FOLDER);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("one.bin"), "the user's own").unwrap();
    fs::create_dir(dir.path().join("small-set.old-1")).unwrap(); // from another time
    fs::write(dir.path().join("small.tar.gz"), good_archive()).unwrap();
    let aside = dir.path().join("small-set.old-2");
    assert!(matches!(fetch(&dir, &[]).unwrap(), Got::Fetched { moved, .. } if moved == [aside.clone()]));
    assert_in_place(&dir);
    assert_eq!(fs::read(aside.join("one.bin")).unwrap(), b"the user's own");
}

#[test]
fn what_an_interrupted_call_left_behind_is_cleared_away() {
    let dir = tempdir().unwrap();
    let left = dir.path().join(".small-set.unpacking");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("one.bin"), "half a file").unwrap();
    fs::write(dir.path().join("small.tar.gz"), good_archive()).unwrap();
    fetch(&dir, &[]).unwrap();
    assert_in_place(&dir);
    assert_eq!(names(&dir), [FOLDER, "small.tar.gz"]);
}

#[test]
fn a_hostile_archive_writes_nothing_outside_and_nothing_unexpected() {
    let (one, two) = (first(), second());
    let two_entry = ("small-set/two.bin", EntryType::Regular, &two[..]);
    let missing = "does not hold `small-set/one.bin`";
    let longer = [one.clone(), vec![0]].concat();
    let wrong = vec![0; one.len()];
    let cases: Vec<(Vec<Entry<'_>>, &str)> = vec![
        (vec![("../small-set/one.bin", EntryType::Regular, &one), two_entry], missing),
        (vec![("small-set/../one.bin", EntryType::Regular, &one), two_entry], missing),
        (vec![("/small-set/one.bin", EntryType::Regular, &one), two_entry], missing),
        (vec![("other/one.bin", EntryType::Regular, &one), two_entry], missing),
        (vec![("small-set/deeper/one.bin", EntryType::Regular, &one), two_entry], missing),
        (vec![("small-set/one.bin", EntryType::Symlink, b""), two_entry], missing),
        (vec![("small-set/one.bin", EntryType::Link, b""), two_entry], missing),
        (vec![("small-set", EntryType::Symlink, b""), ("small-set/two.bin", EntryType::Symlink, b"")], missing),
        (vec![("small-set/one.bin", EntryType::Fifo, b""), two_entry], missing),
        (vec![("small-set/one.bin", EntryType::Regular, &one[1..]), two_entry], "fewer than the expected 200000 bytes"),
        (vec![("small-set/one.bin", EntryType::Regular, &longer), two_entry], "more than the expected 200000 bytes"),
        (vec![("small-set/one.bin", EntryType::Regular, &wrong), two_entry], "is a wrong file: SHA-256"),
        (vec![two_entry, two_entry], "`two.bin` twice"),
        (vec![], missing),
    ];
    for (entries, part) in cases {
        let outer = tempdir().unwrap();
        let dir = tempfile::tempdir_in(outer.path()).unwrap();
        fs::write(dir.path().join("small.tar.gz"), archive(&entries)).unwrap();
        let error = fetch(&dir, &[]).unwrap_err().to_string();
        assert!(error.contains(part), "expected `{part}`: {error}");
        assert_eq!(names(&dir), ["small.tar.gz"], "{part}");
        assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1, "something was written beside the data folder");
    }
}

#[test]
fn an_archive_that_unpacks_without_end_is_stopped() {
    let dir = tempdir().unwrap();
    // Small as a file, and more than the bound when unpacked: the expected files stand behind it.
    let zeros = vec![0; 40 << 20];
    let bomb = archive(&[
        ("small-set/zeros", EntryType::Regular, &zeros),
        ("small-set/one.bin", EntryType::Regular, &first()),
        ("small-set/two.bin", EntryType::Regular, &second()),
    ]);
    assert!(bomb.len() < 1 << 20);
    fs::write(dir.path().join("small.tar.gz"), bomb).unwrap();
    let error = fetch(&dir, &[]).unwrap_err().to_string();
    assert!(error.contains("small.tar.gz: the archive"), "{error}");
    assert_eq!(names(&dir), ["small.tar.gz"]);
}

#[test]
fn a_data_folder_below_a_regular_file_names_that_file() {
    let dir = tempdir().unwrap();
    let regular = dir.path().join("regular");
    fs::write(&regular, "text").unwrap();
    let error = get_files("small", &files(&[]), &regular.join("data"), false, &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains(&format!("`{}` is a file, not a folder", regular.display())), "{error}");
    // The data folder itself may be the file.
    let error = get_files("small", &files(&[]), &regular, false, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("is a file, not a folder"), "{error}");
}

#[test]
fn verification_names_each_file_and_what_is_wrong_with_it() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("small.tar.gz"), good_archive()).unwrap();
    fetch(&dir, &[]).unwrap();
    let verdicts = || -> Vec<Option<(ErrorKind, String)>> {
        let verdicts = verify_files("small", &files(&[]), dir.path());
        verdicts.into_iter().map(|(_, verdict)| verdict.err().map(|e| (e.kind(), e.to_string()))).collect()
    };
    assert_eq!(verdicts(), [None, None]);

    let (one, two) = (dir.path().join(FOLDER).join("one.bin"), dir.path().join(FOLDER).join("two.bin"));
    let mut wrong = first();
    wrong[100_000] ^= 1;
    fs::write(&one, wrong).unwrap();
    fs::write(&two, &second()[1..]).unwrap();
    let found = verdicts();
    assert!(
        matches!(&found[0], Some((ErrorKind::Data, text)) if text.contains("one.bin") && text.contains("SHA-256")),
        "{found:?}"
    );
    assert!(
        matches!(&found[1], Some((ErrorKind::Data, text)) if text.contains("69999 bytes, expected 70000")),
        "{found:?}"
    );
    fs::remove_file(&two).unwrap();
    assert!(matches!(&verdicts()[1], Some((ErrorKind::Data, text)) if text.contains("does not exist")));
}

#[test]
fn the_list_tells_where_each_set_stands() {
    let dir = tempdir().unwrap();
    let state = |kind| list(dir.path()).into_iter().find(|entry| entry.kind == kind).unwrap().state;
    let folder = dir.path().join("cifar-10-batches-bin");
    assert_eq!(state(Kind::Digits), State::Embedded);
    assert_eq!(state(Kind::Cifar10), State::Absent(folder.clone()));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("test_batch.bin"), "short").unwrap();
    assert!(matches!(state(Kind::Cifar10), State::Incomplete(_, files) if files.len() == 6));
    let Supply::Download(files) = &Kind::Cifar10.set().supply else { panic!("cifar10 is downloaded") };
    for member in files.members {
        // Sparse: of the right size, and of the wrong contents.
        File::create(folder.join(member.name)).unwrap().set_len(member.size.unwrap()).unwrap();
    }
    assert_eq!(state(Kind::Cifar10), State::Present(folder));
    let broken = verify(Kind::Cifar10, dir.path());
    assert!(broken.len() == 6 && broken.iter().all(|(_, verdict)| verdict.is_err()));
}

#[test]
fn every_set_says_how_it_comes() {
    let dir = tempdir().unwrap();
    let entries = list(dir.path());
    assert_eq!(entries.iter().map(|entry| entry.kind).collect::<Vec<_>>(), Kind::ALL);
    for entry in entries {
        let fetched = matches!(entry.kind.set().supply, Supply::Download(_));
        assert_eq!(entry.by_hand.is_some(), entry.bytes == 0, "{}", entry.kind);
        assert!(entry.state == State::Embedded || matches!(entry.state, State::Absent(_)), "{entry:?}");
        if let Supply::Download(files) = &entry.kind.set().supply {
            assert!(fetched && !files.downloads.is_empty());
            for download in files.downloads {
                assert!(!download.sources.is_empty(), "{}", download.file);
                for source in download.sources {
                    let is_sum = source.sha256.len() == 64 && source.sha256.chars().all(|c| c.is_ascii_hexdigit());
                    assert!(is_sum && source.url.ends_with(download.file) && source.size > 0, "{source:?}");
                }
            }
        }
    }
}

#[test]
fn what_no_server_gives_away_says_how_to_place_it() {
    let dir = tempdir().unwrap();
    for kind in [Kind::Imagenet, Kind::Folder, Kind::Idx] {
        let error = get(kind, dir.path(), false, &mut |_| {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert!(
            error.to_string().contains("cannot be fetched")
                && error.to_string().contains("place") | error.to_string().contains("unpack"),
            "{error}"
        );
    }
    fs::create_dir_all(dir.path().join("imagenet/train")).unwrap();
    fs::create_dir_all(dir.path().join("imagenet/val")).unwrap();
    let got = get(Kind::Imagenet, dir.path(), false, &mut |_| {}).unwrap();
    assert_eq!(got, Got::Present(dir.path().join("imagenet")));
}

#[test]
fn the_embedded_digits_have_their_checksum() {
    let verdicts = verify(Kind::Digits, Path::new("/nowhere"));
    assert!(verdicts.len() == 1 && matches!(verdicts[0].1, Ok(Proof::Published)), "{verdicts:?}");
    assert_eq!(get(Kind::Digits, Path::new("/nowhere"), false, &mut |_| {}).unwrap(), Got::Embedded);
}

/// The official files, where somebody has put them beside the project.
#[test]
fn the_official_files_have_their_checksums() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if !dir.join("cifar-10-batches-bin").exists() {
        println!("NOT RUN: `{}` is absent", dir.join("cifar-10-batches-bin").display());
        return;
    }
    for (path, verdict) in verify(Kind::Cifar10, &dir) {
        assert!(matches!(verdict, Ok(Proof::Published)), "{}: {verdict:?}", path.display());
    }
}
