//! What it costs to make batches, in images a second on the loader's one thread: a training step of a small network takes
//! some milliseconds, and the next batch must be there by then.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gatefold_data::{Augment, Dataset, Loader, Normalisation, Options};

/// Images of an epoch; as bytes they are larger than the caches.
const IMAGES: usize = 12_800;

fn cifar_like() -> Arc<Dataset> {
    let pixels = (0..IMAGES * 3 * 32 * 32).map(|i| (i * 7 + i / 1000) as u8).collect();
    let labels = (0..IMAGES).map(|i| i % 10).collect();
    let classes = (0..10).map(|class| class.to_string()).collect();
    Arc::new(Dataset::new("formula", [3, 32, 32], 255, classes, pixels, labels).expect("the sizes agree"))
}

fn batches(c: &mut Criterion) {
    let data = cifar_like();
    let normalisation = Normalisation::of(&data).expect("there are images");
    let mut group = c.benchmark_group("batches of 128 x 3 x 32 x 32");
    group.throughput(Throughput::Elements(IMAGES as u64)).sample_size(20);
    for (name, augment) in [("as they are", None), ("pad 2 and flip", Some(Augment { pad: 2, flip: true }))] {
        let options = Options { batch_size: 128, seed: 0, shuffle: true, augment, mixup: None };
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut loader = Loader::<f32>::new(&data, &normalisation, &options, 0, 0).expect("the options fit");
                while let Some(batch) = loader.next() {
                    loader.recycle(black_box(batch.expect("nothing is read")));
                }
            });
        });
    }
}

criterion_group!(benches, batches);
criterion_main!(benches);
