use super::*;
use crate::{Kind, Loaded, load};

/// Three-channel images of 4 x 5 whose first byte is the image's number.
fn numbered(images: usize) -> Arc<Dataset> {
    let pixels = (0..images).flat_map(|n| (0..60).map(move |i| (n + 3 * i) as u8)).collect();
    let labels = (0..images).map(|n| n % 7).collect();
    let classes = (0..7).map(|class| class.to_string()).collect();
    Arc::new(Dataset::new("numbered", [3, 4, 5], 255, classes, pixels, labels).unwrap())
}

fn plain() -> Normalisation {
    Normalisation { mean: vec![0.0; 3], std: vec![1.0; 3] }
}

fn options(batch_size: usize) -> Options {
    Options { batch_size, seed: 11, shuffle: true, augment: Some(Augment { pad: 2, flip: true }), mixup: None }
}

fn epoch<T: Real>(data: &Arc<Dataset>, options: &Options, epoch: usize, first: usize) -> Vec<Batch<T>> {
    Loader::new(data, &plain(), options, epoch, first).unwrap().collect::<Result<_>>().unwrap()
}

fn indices(batches: &[Batch<f32>]) -> Vec<usize> {
    batches.iter().flat_map(|batch| batch.indices.clone()).collect()
}

#[test]
fn evaluation_serves_every_image_as_it_is_in_file_order() {
    let data = numbered(23);
    let batches = epoch::<f64>(&data, &Options::evaluation(10), 0, 0);
    assert_eq!(batches.iter().map(|batch| batch.indices.len()).collect::<Vec<_>>(), [10, 10, 3]);
    for (n, (batch, at)) in
        batches.iter().flat_map(|batch| (0..batch.indices.len()).map(move |at| (batch, at))).enumerate()
    {
        assert_eq!((batch.indices[at], batch.labels[at]), (n, n % 7));
        for (i, j, c) in (0..4).flat_map(|i| (0..5).flat_map(move |j| (0..3).map(move |c| (i, j, c)))) {
            let byte = data.image(n).unwrap()[(i * 5 + j) * 3 + c];
            assert_eq!(batch.images.view()[[at, c, i, j]], f64::from(byte) / 255.0);
        }
    }
}

#[test]
fn an_epoch_shows_every_image_once_in_an_order_of_its_own() {
    let data = numbered(50);
    let (first, second) = (epoch(&data, &options(8), 0, 0), epoch(&data, &options(8), 1, 0));
    for batches in [&first, &second] {
        let mut seen = indices(batches);
        assert_ne!(seen, (0..50).collect::<Vec<_>>());
        seen.sort_unstable();
        assert_eq!(seen, (0..50).collect::<Vec<_>>());
        assert!(
            batches.iter().all(|batch| batch
                .labels
                .iter()
                .zip(&batch.indices)
                .all(|(label, index)| *label == index % 7))
        );
    }
    assert_ne!(indices(&first), indices(&second));
    assert_ne!(indices(&first), indices(&epoch(&data, &Options { seed: 12, ..options(8) }, 0, 0)));
    assert_eq!(first, epoch(&data, &options(8), 0, 0));
}

#[test]
fn without_shuffling_batches_are_in_file_order_and_still_augmented() {
    let data = numbered(20);
    let batches = epoch(&data, &Options { shuffle: false, ..options(6) }, 3, 0);
    assert_eq!(indices(&batches), (0..20).collect::<Vec<_>>());
    assert_ne!(batches, epoch(&data, &Options::evaluation(6), 3, 0));
}

#[test]
fn an_epoch_goes_on_from_any_batch() {
    let data = numbered(50);
    let whole = epoch::<f32>(&data, &options(8), 2, 0);
    for first in 0..=whole.len() {
        assert_eq!(epoch(&data, &options(8), 2, first), whole[first..], "from batch {first}");
    }
}

#[test]
fn mixed_batches_are_shares_of_plain_ones_from_any_batch_on() {
    let data = numbered(50);
    let mixing = Options { mixup: Some(Mixup { alpha: 0.5 }), ..options(8) };
    let (plain, whole) = (epoch::<f64>(&data, &options(8), 2, 0), epoch::<f64>(&data, &mixing, 2, 0));
    for first in 0..=whole.len() {
        assert_eq!(epoch(&data, &mixing, 2, first), whole[first..], "from batch {first}");
    }
    assert_ne!(whole, epoch(&data, &mixing, 3, 0));
    for (number, (plain, batch)) in plain.iter().zip(&whole).enumerate() {
        let (share, partners) = Mixup { alpha: 0.5 }.draw(11, 2, number, batch.labels.len());
        let mixed = batch.mixed.as_ref().unwrap();
        assert_eq!((mixed.share, &batch.labels, &plain.mixed), (share, &plain.labels, &None));
        for (at, &partner) in partners.iter().enumerate() {
            assert_eq!(mixed.labels[at], plain.labels[partner]);
            let pixel = |of: usize| plain.images.view()[[of, 1, 2, 3]];
            assert_eq!(batch.images.view()[[at, 1, 2, 3]], share * pixel(at) + (1.0 - share) * pixel(partner));
        }
    }
}

#[test]
fn an_image_is_augmented_alike_whatever_batch_it_is_in() {
    let data = numbered(12);
    let (one, all) = (epoch::<f32>(&data, &options(1), 5, 0), epoch::<f32>(&data, &options(12), 5, 0));
    let ones: Vec<f32> = one.iter().flat_map(|batch| batch.images.as_slice().to_vec()).collect();
    assert_eq!(ones, all[0].images.as_slice());
}

#[test]
fn f32_batches_are_the_rounded_f64_batches() {
    let Loaded { split, normalisation, .. } = load(Kind::Digits, Path::new("."), Some(100)).unwrap();
    let (train, options) = (Arc::new(split.train), Options { augment: Some(Kind::Digits.augment()), ..options(32) });
    let wide = Loader::<f64>::new(&train, &normalisation, &options, 0, 0).unwrap();
    let narrow = Loader::<f32>::new(&train, &normalisation, &options, 0, 0).unwrap();
    for (wide, narrow) in wide.zip(narrow) {
        assert_eq!(wide.unwrap().images.cast::<f32>(), narrow.unwrap().images);
    }
}

#[test]
fn padding_is_black_before_normalisation() {
    let data = Dataset::new("white", [1, 2, 2], 255, vec!["a".into()], vec![255; 4 * 64], vec![0; 64]).unwrap();
    let (n, augment) = (Normalisation { mean: vec![0.25], std: vec![0.5] }, Some(Augment { pad: 1, flip: false }));
    let options = Options { batch_size: 64, seed: 0, shuffle: false, augment, mixup: None };
    let batch = Loader::<f64>::new(&Arc::new(data), &n, &options, 0, 0).unwrap().next().unwrap().unwrap();
    let values = batch.images.as_slice();
    assert!(values.iter().all(|v| [-0.5, 1.5].contains(v)) && values.contains(&-0.5) && values.contains(&1.5));
}

#[test]
fn recycled_memory_is_used_again_and_changes_nothing() {
    let data = numbered(50);
    let mut loader = Loader::<f32>::new(&data, &plain(), &options(8), 2, 0).unwrap();
    let (mut recycled, mut addresses) = (Vec::new(), Vec::new());
    while let Some(batch) = loader.next() {
        let batch = batch.unwrap();
        addresses.push(batch.images.as_slice().as_ptr());
        // A copy that shares its memory must not be written over either.
        let kept = batch.images.clone();
        recycled.push(Batch {
            images: Tensor::from_memory(*kept.shape(), kept.as_slice().to_vec()).unwrap(),
            ..batch.clone()
        });
        drop(kept);
        loader.recycle(batch);
    }
    assert_eq!(recycled, epoch(&data, &options(8), 2, 0));
    addresses.sort_unstable();
    addresses.dedup();
    assert!(addresses.len() < 7, "seven batches in seven places");
}

#[test]
fn a_recycled_tensor_that_is_still_shared_keeps_its_values() {
    let data = numbered(50);
    let mut loader = Loader::<f32>::new(&data, &plain(), &options(8), 2, 0).unwrap();
    let mut kept = Vec::new();
    while let Some(batch) = loader.next() {
        let batch = batch.unwrap();
        kept.push(batch.clone());
        loader.recycle(batch);
    }
    assert_eq!(kept, epoch(&data, &options(8), 2, 0));
}

#[test]
fn a_loader_may_be_dropped_at_any_time() {
    let data = numbered(50);
    for taken in 0..3 {
        let mut loader = Loader::<f32>::new(&data, &plain(), &options(4), 0, 0).unwrap();
        assert_eq!(loader.by_ref().take(taken).count(), taken);
        drop(loader);
        assert_eq!(Arc::strong_count(&data), 1, "the thread still holds the images");
    }
}

#[test]
fn the_number_of_batches_left_is_known() {
    let mut loader = Loader::<f32>::new(&numbered(9), &plain(), &options(4), 0, 1).unwrap();
    assert_eq!(loader.size_hint(), (2, Some(2)));
    loader.next();
    assert_eq!(loader.size_hint(), (1, Some(1)));
    loader.next();
    assert!(loader.next().is_none());
    assert_eq!(loader.size_hint(), (0, Some(0)));
}

#[test]
fn an_empty_set_has_no_batches() {
    assert_eq!(epoch::<f32>(&numbered(0), &options(4), 0, 0).len(), 0);
}

#[test]
fn options_without_meaning_are_refused_with_their_numbers() {
    let data = numbered(9);
    let refusal = |options: &Options, n: &Normalisation, first| {
        Loader::<f32>::new(&data, n, options, 0, first).err().unwrap().to_string()
    };
    assert!(refusal(&options(0), &plain(), 0).contains("batch size"));
    assert!(refusal(&options(4), &plain(), 4).contains("4 is behind the last of 3"));
    let augment = Some(Augment { pad: 4, flip: false });
    assert!(refusal(&Options { augment, ..options(4) }, &plain(), 0).contains("4 pixels for images of 4 x 5"));
    let grey = Normalisation { mean: vec![0.0], std: vec![1.0] };
    assert!(refusal(&options(4), &grey, 0).contains("3 channels"));
}
