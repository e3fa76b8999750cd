//! Sets whose files lie in their folder as they come.

use super::*;

const MAGIC: &[u8] = b"SET 1";

fn file(seed: u8) -> Vec<u8> {
    [MAGIC, &contents(seed, 120_000)].concat()
}

/// A set of two files and a third that it is whole without, in a folder below a folder.
fn files(sources: [Vec<Source>; 3]) -> Files {
    let names = ["one.set", "two.set", "more.set"];
    let downloads = names.into_iter().zip(sources).map(|(file, sources)| Download {
        file,
        form: Form::Plain { magic: MAGIC },
        // What a catalogue says is borrowed from the program.
        sources: forever(
            sources.into_iter().map(|source| Source { sha256: forever_text(&source.sha256), ..source }).collect(),
        ),
        optional: file == "more.set",
    });
    Files { folder: "Small/raw", downloads: forever(downloads.collect()), members: &[], extras: &[] }
}

fn forever_text(text: &str) -> std::borrow::Cow<'static, str> {
    std::borrow::Cow::Borrowed(Box::leak(text.to_owned().into_boxed_str()))
}

fn serve(file: Vec<u8>) -> Server {
    Server::start(move |_, start| Answer::from(&file, start))
}

#[test]
fn each_file_is_fetched_and_the_optional_one_only_where_asked_for() {
    let dir = tempdir().unwrap();
    let servers = [1, 2, 3].map(|seed| serve(file(seed)));
    let set = files([0, 1, 2].map(|i| vec![source(servers[i].url(), &file(i as u8 + 1))]));
    let get = |optional| get_files("small", &set, dir.path(), optional, &mut |_| {}).unwrap();
    let folder = dir.path().join("Small/raw");

    let from = |urls: &[usize]| urls.iter().map(|&i| servers[i].url()).collect::<Vec<_>>();
    assert_eq!(get(false), Got::Fetched { folder: folder.clone(), from: from(&[0, 1]), moved: vec![] });
    assert_eq!(fs::read(folder.join("two.set")).unwrap(), file(2));
    assert!(!folder.join("more.set").exists());
    assert_eq!(get(false), Got::Present(folder.clone()));
    assert_eq!(get(true), Got::Fetched { folder: folder.clone(), from: from(&[2]), moved: vec![] });
    assert_eq!(get(true), Got::Present(folder));
    assert_eq!(names(&dir), ["Small"]);
}

#[test]
fn a_wrong_file_is_moved_aside_and_the_right_ones_stay() {
    let dir = tempdir().unwrap();
    let server = serve(file(1));
    let unused = serve(file(2));
    let set = files([vec![source(server.url(), &file(1))], vec![source(unused.url(), &file(2))], vec![]]);
    let folder = dir.path().join("Small/raw");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("one.set"), "the user's own").unwrap();
    fs::write(folder.join("two.set"), file(2)).unwrap();
    let got = get_files("small", &set, dir.path(), false, &mut |_| {}).unwrap();
    let aside = folder.join("one.set.old-1");
    assert_eq!(got, Got::Fetched { folder: folder.clone(), from: vec![server.url()], moved: vec![aside.clone()] });
    assert_eq!(fs::read(aside).unwrap(), b"the user's own");
    assert_eq!(fs::read(folder.join("one.set")).unwrap(), file(1));
    assert!(unused.requests().is_empty());
}

#[test]
fn a_file_of_another_kind_is_refused_before_it_is_fetched_and_the_remedy_names_its_place() {
    let dir = tempdir().unwrap();
    let server = serve(contents(9, 120_005));
    let set = files([vec![source(server.url(), &file(1))], vec![], vec![]]);
    let error = get_files("small", &set, dir.path(), false, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("serves something that is no file of that kind"), "{error}");
    assert!(
        error.contains(&format!("place the file as `{}`", dir.path().join("Small/raw/one.set").display())),
        "{error}"
    );
    assert_eq!(names(&dir), [""; 0]);
}

#[test]
fn verification_looks_at_the_optional_file_where_it_is_there() {
    let dir = tempdir().unwrap();
    let set = files([1, 2, 3].map(|seed| vec![source("http://127.0.0.1/".into(), &file(seed))]));
    let folder = dir.path().join("Small/raw");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("one.set"), file(1)).unwrap();
    fs::write(folder.join("two.set"), file(2)).unwrap();
    let verdicts = || -> Vec<Option<Proof>> {
        verify_files("small", &set, dir.path()).into_iter().map(|(_, verdict)| verdict.ok()).collect()
    };
    assert_eq!(verdicts(), [Some(Proof::Published); 2]);
    fs::write(folder.join("more.set"), file(4)).unwrap();
    assert_eq!(verdicts(), [Some(Proof::Published), Some(Proof::Published), None]);
}
