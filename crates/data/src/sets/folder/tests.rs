use std::sync::Arc;

use image::{Rgb, RgbImage};

use super::*;
use crate::{Crop, ErrorKind, Loaded, Loader, Options, Request, Resize, SetOptions, load};

/// Writes a plain image; the ending of the name says in which format.
fn image(dir: &Path, name: &str, colour: [u8; 3], [width, height]: [u32; 2]) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_pixel(width, height, Rgb(colour)).save(path).unwrap();
}

/// Two classes, of three and two images to train on and one each held out.
fn set() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    image(dir.path(), "train/cat/b.png", [10, 0, 0], [40, 50]);
    image(dir.path(), "train/cat/a.bmp", [20, 0, 0], [64, 20]);
    image(dir.path(), "train/cat/more/a.webp", [30, 0, 0], [9, 9]);
    image(dir.path(), "train/ant/1.PNG", [40, 0, 0], [33, 33]);
    image(dir.path(), "train/ant/2.png", [50, 0, 0], [100, 10]);
    image(dir.path(), "val/cat/x.png", [60, 0, 0], [32, 32]);
    image(dir.path(), "val/ant/y.png", [70, 0, 0], [16, 64]);
    fs::write(dir.path().join("train/cat/.hidden"), "").unwrap();
    fs::write(dir.path().join("train/Thumbs.db"), "").unwrap();
    dir
}

fn options(size: usize) -> SetOptions {
    SetOptions { input_size: Some(size), ..SetOptions::default() }
}

fn read_with(dir: &Path, options: SetOptions) -> Result<Loaded> {
    load(Kind::Folder, dir, Request { options, ..Request::default() })
}

fn first_bytes(data: &Dataset) -> Vec<u8> {
    (0..data.len()).map(|i| data.image(i).unwrap()[0]).collect()
}

#[test]
fn classes_and_files_are_in_the_order_of_their_names() {
    let dir = set();
    let Loaded { split, remarks, .. } = read_with(dir.path(), options(16)).unwrap();
    assert_eq!(split.train.classes(), ["ant", "cat"]);
    assert_eq!((split.train.labels(), split.test.labels()), (&[0, 0, 1, 1, 1][..], &[0, 1][..]));
    assert_eq!((first_bytes(&split.train), first_bytes(&split.test)), (vec![40, 50, 20, 10, 30], vec![70, 60]));
    assert_eq!((split.train.shape(), split.train.maximum(), split.train.pixels()), ([3, 16, 16], 255, None));
    assert!(remarks.is_empty(), "{remarks:?}");
}

#[test]
fn the_normalisation_is_that_of_the_images_as_they_are_shown() {
    let dir = set();
    let measured = read_with(dir.path(), options(16)).unwrap().normalisation;
    let values = [10.0, 20.0, 30.0, 40.0, 50.0].map(|u: f64| u / 255.0);
    let mean = values.iter().sum::<f64>() / 5.0;
    let std = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 5.0).sqrt();
    assert!((measured.mean[0] - mean).abs() < 1e-12 && (measured.std[0] - std).abs() < 1e-12, "{measured:?}");
    assert_eq!((measured.mean[1], measured.std[2]), (0.0, 0.0));
    // Whatever the fraction and the limit.
    let cut =
        Request { limit: Some(1), options: SetOptions { fraction: Some(0.5), ..options(16) }, normalisation: None };
    let cut = load(Kind::Folder, dir.path(), cut).unwrap();
    assert_eq!((cut.normalisation, cut.split.train.len(), cut.split.test.len()), (measured, 1, 1));
}

#[test]
fn a_fraction_keeps_the_first_of_each_class() {
    let dir = set();
    let half = read_with(dir.path(), SetOptions { fraction: Some(0.5), ..options(8) }).unwrap();
    assert_eq!(first_bytes(&half.split.train), [40, 20, 10]);
    assert_eq!(half.split.test.len(), 2);
}

#[test]
fn a_loader_serves_files_as_it_serves_a_set_that_is_held() {
    let dir = set();
    let Loaded { split, normalisation, .. } = read_with(dir.path(), options(8)).unwrap();
    let train = Arc::new(split.train);
    let evaluation = Loader::<f64>::new(&train, &normalisation, &Options::evaluation(2), 0, 0).unwrap();
    let batches: Vec<_> = evaluation.collect::<Result<_>>().unwrap();
    assert_eq!(
        batches.iter().map(|batch| batch.indices.clone()).collect::<Vec<_>>(),
        [vec![0, 1], vec![2, 3], vec![4]]
    );
    for (at, u) in [(0, 40.0), (1, 50.0)] {
        let expected = (u / 255.0 - normalisation.mean[0]) / normalisation.std[0];
        assert_eq!(batches[0].images.view()[[at, 0, 3, 3]], expected);
    }
    let augment = Some(Augment { pad: 0, flip: true });
    let training = Options { batch_size: 2, seed: 3, shuffle: true, augment, mixup: None };
    let epoch = |epoch, first| -> Vec<_> {
        let loader = Loader::<f32>::new(&train, &normalisation, &training, epoch, first).unwrap();
        loader.collect::<Result<_>>().unwrap()
    };
    assert_eq!(epoch(0, 0), epoch(0, 0), "the same bits however many threads decode");
    assert_eq!(epoch(1, 0)[1..], epoch(1, 1));
}

#[test]
fn a_random_part_is_shown_in_training_and_the_centre_where_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let gradient = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        RgbImage::from_fn(64, 64, |x, y| Rgb([(4 * x) as u8, (4 * y) as u8, 0])).save(path).unwrap();
    };
    gradient("train/a/1.png");
    gradient("val/a/1.png");
    let shown = |crop, augment, epoch| {
        let Loaded { split, normalisation, .. } = read_with(dir.path(), SetOptions { crop, ..options(16) }).unwrap();
        let options = Options { batch_size: 1, seed: 0, shuffle: false, augment, mixup: None };
        let mut loader = Loader::<f32>::new(&Arc::new(split.train), &normalisation, &options, epoch, 0).unwrap();
        loader.next().unwrap().unwrap().images.to_vec()
    };
    let still = Some(Augment { pad: 0, flip: false });
    assert_ne!(shown(None, still, 0), shown(None, still, 1));
    assert_eq!(shown(None, None, 0), shown(None, None, 1));
    assert_eq!(shown(Some(Crop::Centre), still, 0), shown(None, None, 0));
}

#[test]
fn an_odd_file_is_an_error_that_names_it_or_a_remark() {
    let dir = set();
    fs::write(dir.path().join("train/cat/notes.txt"), "text").unwrap();
    let error = read_with(dir.path(), options(8)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("cat/notes.txt") && error.to_string().contains("skip-broken"), "{error}");

    fs::write(dir.path().join("train/ant/3.png"), "no image").unwrap();
    fs::write(dir.path().join("val/lonely.png"), "in no class").unwrap();
    image(dir.path(), "val/zebra/1.png", [0; 3], [4, 4]);
    let skipping = SetOptions { skip_broken: Some(true), ..options(8) };
    let Loaded { split, remarks, .. } = read_with(dir.path(), skipping).unwrap();
    assert_eq!((split.train.len(), split.train.labels(), split.test.len()), (5, &[0, 0, 1, 1, 1][..], 2));
    assert_eq!(remarks.len(), 4, "{remarks:?}");
    for part in ["notes.txt", "3.png", "lonely.png", "zebra"] {
        assert!(
            remarks.iter().any(|remark| remark.contains(part) && remark.contains("passed over")),
            "{part}: {remarks:?}"
        );
    }
}

#[test]
fn a_file_that_breaks_later_is_an_error_of_its_batch() {
    let dir = set();
    let Loaded { split, normalisation, .. } = read_with(dir.path(), options(8)).unwrap();
    fs::write(dir.path().join("val/cat/x.png"), "no image any more").unwrap();
    let mut loader = Loader::<f32>::new(&Arc::new(split.test), &normalisation, &Options::evaluation(1), 0, 0).unwrap();
    assert!(loader.next().unwrap().is_ok());
    let error = loader.next().unwrap().unwrap_err().to_string();
    assert!(error.contains("val/cat/x.png"), "{error}");
    // To measure the mean needs every training image.
    fs::write(dir.path().join("train/cat/b.png"), "no image any more").unwrap();
    assert!(read_with(dir.path(), options(8)).unwrap_err().to_string().contains("train/cat/b.png"));
}

#[test]
fn what_is_no_such_folder_says_how_it_should_be() {
    let dir = tempfile::tempdir().unwrap();
    let error = read_with(dir.path(), options(8)).unwrap_err();
    assert!(matches!(error, Error::Missing { .. }) && error.to_string().contains("train/CLASS/"), "{error}");
    image(dir.path(), "train/1.png", [0; 3], [4, 4]);
    let error = read_with(dir.path(), options(8)).unwrap_err().to_string();
    assert!(error.contains("val` does not exist"), "{error}");
    fs::create_dir(dir.path().join("val")).unwrap();
    let error = read_with(dir.path(), options(8)).unwrap_err().to_string();
    assert!(error.contains("no image files in folders of classes"), "{error}");
    image(dir.path(), "train/a/1.png", [0; 3], [4, 4]);
    image(dir.path(), "val/a/1.png", [0; 3], [4, 4]);
    let error = read_with(dir.path(), options(8)).unwrap_err().to_string();
    assert!(error.contains("train/1.png`: it lies in no folder of a class"), "{error}");
    let regular = dir.path().join("val/a/1.png");
    let error = read_with(&regular, options(8)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("is a file, not a folder"), "{error}");
}

#[test]
fn a_class_without_images_is_odd_and_one_without_held_out_images_remarked_on() {
    let dir = set();
    fs::remove_file(dir.path().join("val/cat/x.png")).unwrap();
    fs::remove_dir(dir.path().join("val/cat")).unwrap();
    assert_eq!(read_with(dir.path(), options(8)).unwrap().remarks, ["no held-out image of cat"]);
    fs::create_dir(dir.path().join("train/bee")).unwrap();
    let error = read_with(dir.path(), options(8)).unwrap_err().to_string();
    assert!(error.contains("train/bee`: the class has no images"), "{error}");
}

#[test]
fn imagenet_is_such_a_folder_with_figures_of_its_own() {
    let (dir, photos) = (tempfile::tempdir().unwrap(), set());
    let remarks = |loaded: Loaded| {
        assert_eq!(loaded.normalisation.mean, [0.485, 0.456, 0.406]);
        assert_eq!(loaded.split.train.shape(), [3, 224, 224]);
        assert_eq!(loaded.split.train.name(), "imagenet");
        loaded.remarks
    };
    let text = load(Kind::Imagenet, dir.path(), None).unwrap_err().to_string();
    assert!(text.contains("imagenet/train` does not exist") && text.contains("on registration"), "{text}");
    for folder in IMAGENET_FOLDERS {
        let place = dir.path().join(folder);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::rename(photos.path(), &place).unwrap();
        let found = remarks(load(Kind::Imagenet, dir.path(), None).unwrap());
        assert!(found[0].contains("2 classes, 5 training and 2 held-out images"), "{found:?}");
        fs::rename(&place, photos.path()).unwrap();
    }
    fs::rename(photos.path(), dir.path().join("mine")).unwrap();
    let named = SetOptions { folder: Some("mine".into()), ..SetOptions::default() };
    remarks(load(Kind::Imagenet, dir.path(), Request { options: named, ..Request::default() }).unwrap());
}

#[test]
fn a_checksum_tells_names_sizes_and_recipes_apart() {
    let dir = set();
    let sum = |options| read_with(dir.path(), options).unwrap().split.train.checksum();
    let plain = sum(options(16));
    assert_eq!(plain, sum(options(16)));
    assert_ne!(plain, sum(options(17)));
    assert_ne!(plain, sum(SetOptions { resize: Some(Resize::Square), ..options(16) }));
    image(dir.path(), "train/cat/b.png", [10, 0, 0], [400, 500]);
    assert_ne!(plain, sum(options(16)));
}

#[test]
fn verification_decodes_every_file() {
    use crate::catalogue::{Proof, verify};
    let dir = set();
    let verdicts = || verify(Kind::Folder, dir.path());
    assert!(verdicts().len() == 2 && verdicts().iter().all(|(_, verdict)| matches!(verdict, Ok(Proof::Readable))));
    fs::write(dir.path().join("val/cat/x.png"), "no image").unwrap();
    let found = verdicts();
    assert!(matches!(&found[..], [(_, Ok(_)), (_, Err(error))] if error.to_string().contains("x.png")), "{found:?}");
}

/// Real photos, where somebody has put them beside the project.
#[test]
fn real_photos_are_read() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/imagenet-sample");
    if !dir.exists() {
        println!("NOT RUN: `{}` is absent", dir.display());
        return;
    }
    let Loaded { split, normalisation, remarks } = read_with(&dir, options(32)).unwrap();
    assert_eq!((split.train.len(), split.test.len(), split.train.classes().len()), (610, 200, 10));
    assert!(remarks.is_empty(), "{remarks:?}");
    // The known figures are of the photos as they lie there; those shown are cut at the sides and smoothed.
    for ((m, s), (mean, std)) in
        normalisation.mean.iter().zip(&normalisation.std).zip([(0.4731, 0.2823), (0.4658, 0.2807), (0.4347, 0.3018)])
    {
        assert!((m - mean).abs() < 0.03 && (s - std).abs() < 0.05, "{normalisation:?}");
    }
}
