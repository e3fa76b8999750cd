//! The kernels on the shapes of SmallNet at batch 128, each beside its naive reference on one image, and sites beside
//! themselves. Compare by images a second (`elem/s`). `cargo bench --bench kernels`, with a filter such as `depthwise`
//! behind it.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use gatefold_tensor::kernels::batch_norm::{batch_norm_train, batch_norm_train_backward};
use gatefold_tensor::kernels::conv::{
    Geometry, Options, Want, conv2d, conv2d_backward, conv2d_pending, conv2d_pending_backward, conv2d_site,
    conv2d_site_backward, conv2d_sum, conv2d_sum_backward,
};
use gatefold_tensor::kernels::cross_entropy::{cross_entropy, cross_entropy_backward};
use gatefold_tensor::kernels::folded::{
    Layer, Site, folded_backward, folded_forward, sample_moments, sample_moments_backward, single_backward,
    single_forward,
};
use gatefold_tensor::kernels::linear::{linear, linear_backward};
use gatefold_tensor::kernels::pending::{MaskedGrad, Norm, Pending, PendingGrad, PendingSum, Rectifier};
use gatefold_tensor::random::randn;
use gatefold_tensor::{Tensor, reference};

/// Images of a step.
const BATCH: usize = 128;
/// Images that the reference gets.
const FEW: usize = 1;
const CLASSES: usize = 10;
/// PyTorch's default.
const EPS: f64 = 1e-5;

/// A place of a network: `cin` channels of `side` x `side` pixels in.
struct Place {
    name: &'static str,
    cin: usize,
    cout: usize,
    kernel: usize,
    side: usize,
    geo: Geometry,
}

fn places() -> [Place; 7] {
    let pointwise = |name, cin, cout, side| Place { name, cin, cout, kernel: 1, side, geo: Geometry::default() };
    let same = Geometry::default().padding(1);
    let depthwise = |name, channels, side| Place {
        name,
        cin: channels,
        cout: channels,
        kernel: 3,
        side,
        geo: same.stride(2).groups(channels),
    };
    [
        Place { name: "stem 3x3 3-16 at 32", cin: 3, cout: 16, kernel: 3, side: 32, geo: same },
        pointwise("pointwise 16-16 at 32", 16, 16, 32),
        pointwise("pointwise 16-32 at 16", 16, 32, 16),
        pointwise("pointwise 32-64 at 8", 32, 64, 8),
        depthwise("depthwise 3x3 s2 16 at 32", 16, 32),
        depthwise("depthwise 3x3 s2 32 at 16", 32, 16),
        depthwise("depthwise 3x3 s2 64 at 8", 64, 8),
    ]
}

/// The same work on a batch by the kernel and on few images by the reference.
fn pair<A, B>(c: &mut Criterion, name: &str, mut kernel: impl FnMut() -> A, mut by_definition: impl FnMut() -> B) {
    let mut group: BenchmarkGroup<'_, WallTime> = c.benchmark_group(name);
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("kernel", |b| b.iter(|| black_box(kernel())));
    group.throughput(Throughput::Elements(FEW as u64));
    group.bench_function("reference", |b| b.iter(|| black_box(by_definition())));
    group.finish();
}

fn convolution(c: &mut Criterion) {
    for Place { name, cin, cout, kernel, side, geo } in places() {
        let [oh, ow] = geo.output(side, side, kernel, kernel).expect("the kernel fits");
        let data = |images: usize| {
            let x = randn::<f32>([images, cin, side, side], 1);
            let w = randn([cout, cin / geo.groups, kernel, kernel], 2);
            (x, w, randn([images, cout, oh, ow], 3))
        };
        let ((x, w, dy), (few, _, few_dy)) = (data(BATCH), data(FEW));
        let forward = || conv2d(&x, &w, None, &geo).unwrap();
        pair(c, &format!("{name} forward"), forward, || reference::conv::conv2d(&few, &w, None, &geo).unwrap());
        // Of the image itself nobody wants a gradient; the reference always computes it.
        let want = Want { x: cin > 3, w: true, b: false };
        let backward = || conv2d_backward(&x, &w, &dy, &geo, want).unwrap();
        let by_definition = || reference::conv::conv2d_backward(&few, &w, &few_dy, &geo).unwrap();
        pair(c, &format!("{name} backward"), backward, by_definition);
    }
}

fn batch_norm(c: &mut Criterion) {
    const SHAPE: [usize; 3] = [16, 32, 32];
    let data = |images: usize, seed| randn::<f32>([images, SHAPE[0], SHAPE[1], SHAPE[2]], seed);
    let ((x, dy), (few, few_dy)) = ((data(BATCH, 1), data(BATCH, 2)), (data(FEW, 1), data(FEW, 2)));
    let (weight, bias) = (Tensor::full([SHAPE[0]], 1.5), Tensor::full([SHAPE[0]], 0.5));
    let by_definition = || {
        let (mean, var) = reference::batch_norm::statistics(&few);
        reference::batch_norm::batch_norm(&few, &mean, &var, &weight, &bias, EPS)
    };
    pair(c, "batch norm 16 at 32 forward", || batch_norm_train(&x, &weight, &bias, EPS).unwrap(), by_definition);
    let (_, stats) = batch_norm_train(&x, &weight, &bias, EPS).unwrap();
    let backward = || batch_norm_train_backward(&x, &weight, &stats, EPS, &dy, [true; 3]).unwrap();
    let by_definition = || reference::batch_norm::train_dx(&few, &weight, EPS, &few_dy);
    pair(c, "batch norm 16 at 32 backward", backward, by_definition);
}

fn head(c: &mut Criterion) {
    const CHANNELS: usize = 64;
    let data = |images: usize| (randn::<f32>([images, CHANNELS], 1), randn::<f32>([images, CLASSES], 2));
    let ((x, dy), (few, few_dy)) = (data(BATCH), data(FEW));
    let (w, b) = (randn([CLASSES, CHANNELS], 3), randn([CLASSES], 4));
    let by_definition = || reference::linear::linear(&few, &w, Some(&b));
    pair(c, "linear 64-10 forward", || linear(&x, &w, Some(&b)).unwrap(), by_definition);
    let backward = || linear_backward(&x, &w, &dy, [true; 3]).unwrap();
    pair(c, "linear 64-10 backward", backward, || reference::linear::linear_backward(&few, &w, &few_dy));

    let labels: Vec<usize> = (0..BATCH).map(|image| image % CLASSES).collect();
    let (logits, few_logits) = (dy, few_dy);
    let by_definition = || reference::cross_entropy::cross_entropy(&few_logits, &labels[..FEW], 0.0);
    pair(c, "softmax cross-entropy 10 forward", || cross_entropy(&logits, &labels, 0.0).unwrap(), by_definition);
    let (_, probabilities) = cross_entropy(&logits, &labels, 0.0).unwrap();
    let backward = || cross_entropy_backward(&probabilities, &labels, 0.0, 1.0).unwrap();
    let by_definition = || reference::cross_entropy::cross_entropy_backward(&few_logits, &labels[..FEW], 0.0);
    pair(c, "softmax cross-entropy 10 backward", backward, by_definition);
}

/// A folded site and the depthwise convolution of stride 2 behind it: with the map between them in memory, and made where it
/// is read. The figures behind `conv::reads_site`.
fn sites(c: &mut Criterion) {
    const M: usize = 20;
    for [cin, cout, side] in
        [[16, 16, 32], [16, 32, 16], [32, 64, 8], [8, 48, 32], [24, 144, 8], [32, 192, 8], [56, 336, 4]]
    {
        let weights = [randn::<f32>([cout, cin, 1, 1], 1), randn([M, cin, 1, 1], 2), randn([cout, M, 1, 1], 3)];
        let ones = [cout, M, cout].map(|rows| Tensor::ones([rows]));
        let layer = |i: usize| Layer { weight: &weights[i], gamma: &ones[i], beta: &ones[i], eps: EPS };
        let site = Site { bypass: Some(layer(0)), first: layer(1), second: layer(2) };
        let x = Pending::plain(randn([BATCH, cin, side, side], 4));
        let moments = sample_moments(&x, false).unwrap();
        let folded = folded_forward(&x, &moments, &site, None, Rectifier::Relu).unwrap();
        let (w, geo) = (randn([cout, 1, 3, 3], 5), Geometry::default().padding(1).stride(2).groups(cout));
        let options = Options { rectifier: Rectifier::Identity, statistics: true };
        let made = || Pending::rectified(&folded.y.make(), Rectifier::Relu);
        let (y, want) = (made(), Want { x: true, w: true, b: false });
        let dz = PendingGrad::plain(randn([BATCH, cout, side / 2, side / 2], 6));

        let mut group = c.benchmark_group(format!("site {cin}-{cout} at {side}"));
        group.throughput(Throughput::Elements(BATCH as u64));
        group.bench_function("forward, made", |b| b.iter(|| conv2d_pending(&made(), &w, None, &geo, false, options)));
        group.bench_function("forward, where it is read", |b| b.iter(|| conv2d_site(&folded.y, &w, &geo, options)));
        group.bench_function("backward, made", |b| {
            b.iter(|| {
                let dy = conv2d_pending_backward(&y, &w, &dz, &geo, false, want).unwrap().dx.unwrap().dy;
                folded_backward(&site, &folded, PendingGrad::plain(dy), None)
            });
        });
        group.bench_function("backward, where it is read", |b| {
            b.iter(|| {
                let grads = conv2d_site_backward(&folded.y, &w, &dz, &geo, [true; 2]).unwrap();
                let (dy, correlations) = grads.dx.unwrap();
                folded_backward(&site, &folded, PendingGrad::plain(dy), Some(correlations))
            });
        });
        group.finish();
    }
}

/// A static 1x1 convolution with its batch norm, and the depthwise convolution that reads it: by the map and by moments, (ft.9).
fn singles(c: &mut Criterion) {
    for [cin, cout, side] in [[16, 16, 32], [8, 48, 32], [16, 96, 16], [24, 144, 8]] {
        let (w, ones) = (randn::<f32>([cout, cin, 1, 1], 1), Tensor::ones([cout]));
        let layer = Layer { weight: &w, gamma: &ones, beta: &ones, eps: EPS };
        let x = Pending::plain(randn([BATCH, cin, side, side], 4));
        let (kernels, geo) = (randn([cout, 1, 3, 3], 5), Geometry::default().padding(1).groups(cout));
        let options = Options { rectifier: Rectifier::Identity, statistics: true };
        let by_map = || {
            let (z, stats) = conv2d_pending(&x, &w, None, &Geometry::default(), false, options).unwrap();
            let stats = stats.unwrap();
            let norm = Norm::new(&stats.mean, &stats.var, &ones, &ones, EPS).unwrap();
            (Pending::normed(z, norm, Rectifier::Relu).unwrap(), stats)
        };
        let by_moments = || {
            let moments = sample_moments(&x, false).unwrap();
            let single = single_forward(&x, &moments, &layer, Rectifier::Relu).unwrap();
            (moments, single)
        };
        let ((map, stats), (moments, single)) = (by_map(), by_moments());
        let dz = PendingGrad::plain(randn([BATCH, cout, side, side], 6));
        let want = Want { x: true, w: true, b: false };

        let mut group = c.benchmark_group(format!("single {cin}-{cout} at {side}"));
        group.throughput(Throughput::Elements(BATCH as u64));
        group.bench_function("forward, by the map", |b| {
            b.iter(|| conv2d_pending(&by_map().0, &kernels, None, &geo, false, options));
        });
        group.bench_function("forward, by moments", |b| {
            b.iter(|| conv2d_site(&by_moments().1.y, &kernels, &geo, options));
        });
        group.bench_function("backward, by the map", |b| {
            b.iter(|| {
                let dy = conv2d_pending_backward(&map, &kernels, &dz, &geo, false, want).unwrap().dx.unwrap();
                let dz = PendingGrad::through(&map, &ones, [&stats.mean, &stats.var], true, EPS, dy).unwrap().dx;
                conv2d_pending_backward(&x, &w, &dz, &Geometry::default(), false, want)
            });
        });
        group.bench_function("backward, by moments", |b| {
            b.iter(|| {
                let grads = conv2d_site_backward(&single.y, &kernels, &dz, &geo, [true; 2]).unwrap();
                let (dy, correlations) = grads.dx.unwrap();
                let grads = single_backward(&layer, &single, PendingGrad::plain(dy), Some(correlations)).unwrap();
                sample_moments_backward(&x, &moments, &grads.moments, Some(&grads.map))
            });
        });
        group.finish();
    }
}

/// Two branches that meet before a depthwise convolution of stride 2: with their sum in memory, and made where it is read.
fn sums(c: &mut Criterion) {
    for [channels, side] in [[16, 32], [32, 16], [64, 8]] {
        let shape = [BATCH, channels, side, side];
        let branch = |seed: u64| {
            let [mean, scale, shift] = [0, 1, 2].map(|i| randn([channels], seed + i));
            Pending::normed(randn(shape, seed + 3), Norm { mean, scale, shift }, Rectifier::Identity).unwrap()
        };
        let maps = [branch(1), branch(5)];
        let sum = PendingSum::new(maps.to_vec(), Rectifier::Relu).unwrap();
        let (w, geo) =
            (randn::<f32>([channels, 1, 3, 3], 9), Geometry::default().padding(1).stride(2).groups(channels));
        let options = Options { rectifier: Rectifier::Identity, statistics: true };
        let made = || Pending::rectified(&sum.make(), Rectifier::Relu);
        let (y, want) = (made(), Want { x: true, w: true, b: false });
        let dz = PendingGrad::plain(randn([BATCH, channels, side / 2, side / 2], 10));

        let mut group = c.benchmark_group(format!("sum of {channels} at {side}"));
        group.throughput(Throughput::Elements(BATCH as u64));
        group.bench_function("forward, made", |b| b.iter(|| conv2d_pending(&made(), &w, None, &geo, false, options)));
        group.bench_function("forward, where it is read", |b| b.iter(|| conv2d_sum(&sum, &w, &geo, options)));
        group.bench_function("backward, made", |b| {
            b.iter(|| {
                let dy = conv2d_pending_backward(&y, &w, &dz, &geo, false, want).unwrap().dx.unwrap().dy;
                maps.each_ref().map(|map| MaskedGrad::of(map, dy.clone()))
            });
        });
        group.bench_function("backward, where it is read", |b| {
            b.iter(|| conv2d_sum_backward(&sum, &w, &dz, &geo, [true; 2]));
        });
        group.finish();
    }
}

criterion_group! {
    name = kernels;
    // Short enough that all of it takes about three minutes.
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = convolution, batch_norm, head, sites, singles, sums
}
criterion_main!(kernels);
