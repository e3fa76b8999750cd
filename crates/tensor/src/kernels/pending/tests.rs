use super::*;
use crate::kernels::testing::{assert_close, assert_same_bits, message};
use crate::random::randn;

const RECTIFIERS: [Rectifier; 3] = [Rectifier::Identity, Rectifier::Relu, Rectifier::Relu6];

/// Shapes with whole vectors of channels, parts of one, one channel, one position, and several tasks.
const SHAPES: [[usize; 4]; 6] =
    [[2, 16, 3, 5], [3, 5, 4, 2], [2, 1, 3, 3], [2, 20, 1, 1], [1, 33, 2, 7], [19, 24, 17, 9]];

fn norm<T: Real>(c: usize) -> Norm<T> {
    let vector = |seed| randn::<T>([c], seed);
    Norm { mean: vector(1), scale: vector(2), shift: vector(3) }
}

/// A plain map, one behind a batch norm, one behind a batch norm and a rectifier, one that is rectified already.
fn maps<T: Real>(shape: [usize; 4]) -> Vec<Pending<T>> {
    let z = |seed| randn::<T>(shape, seed).map(|v| T::of(3.0) * v);
    let normed = |seed, rectifier| Pending::normed(z(seed), norm(shape[1]), rectifier).unwrap();
    let rectified = z(13).map(|v| v.max(T::zero()));
    vec![
        Pending::plain(z(10)),
        normed(11, Rectifier::Identity),
        normed(12, Rectifier::Relu6),
        Pending::rectified(&rectified, Rectifier::Relu),
    ]
}

fn sum<T: Real>(maps: &[Pending<T>], rectifier: Rectifier) -> Result<PendingSum<T>> {
    PendingSum::new(maps.to_vec(), rectifier)
}

/// (pend.2), by its definition.
fn masked(map: &Pending<f64>, da: &Tensor<f64>) -> MaskedGrad<f64> {
    let [_, c, _, _] = map.z.shape()[..] else { panic!("a map has rank 4") };
    let [low, high] = map.rectifier.bounds::<f64>();
    let (a, mut dy) = (map.make(), da.clone());
    dy.zip_apply(&a, |d, a| *d *= f64::from(u8::from(low < a && a < high))).unwrap();
    let mut sums = [Vec::new(), Vec::new()];
    if let Some(norm) = &map.norm {
        sums = [vec![0.0; c], vec![0.0; c]];
        for (i, (d, z)) in dy.as_slice().iter().zip(map.z.as_slice()).enumerate() {
            sums[0][i % c] += d;
            sums[1][i % c] += d * (z - norm.mean.as_slice()[i % c]);
        }
    }
    MaskedGrad { dy, sums }
}

#[track_caller]
fn assert_same(what: &str, got: &MaskedGrad<f64>, expected: &MaskedGrad<f64>) {
    assert_close(what, &got.dy, &expected.dy, 1e-13);
    for (got, expected) in got.sums.iter().zip(&expected.sums) {
        assert_eq!(got.len(), expected.len(), "{what}");
        got.iter()
            .zip(expected)
            .for_each(|(a, b)| assert!((a - b).abs() <= 1e-10 * b.abs().max(1.0), "{what}: {a} {b}"));
    }
}

#[test]
fn a_gradient_is_masked_and_summed_up() {
    for shape in SHAPES {
        let da = randn(shape, 4);
        for map in maps::<f64>(shape) {
            let what = format!("{shape:?} {:?}", map.rectifier);
            assert_same(&what, &MaskedGrad::of(&map, da.clone()).unwrap(), &masked(&map, &da));
        }
    }
}

#[test]
fn a_sum_is_that_of_the_maps() {
    for shape in SHAPES {
        let maps = maps::<f64>(shape);
        for (count, rectifier) in (1..=maps.len()).zip(RECTIFIERS.into_iter().cycle()) {
            let mut expected = Tensor::zeros(shape);
            for map in &maps[..count] {
                expected.zip_apply(&map.make(), |y, a| *y += a).unwrap();
            }
            let [low, high] = rectifier.bounds::<f64>();
            let y = sum(&maps[..count], rectifier).unwrap().make();
            assert_close(&format!("{shape:?} {count}"), &y, &expected.map(|y| y.max(low).min(high)), 1e-14);
        }
    }
}

#[test]
fn a_gate_weighs_channels_and_gets_its_gradient() {
    for shape in SHAPES {
        let [n, c, ..] = shape;
        let (g, dy) = (randn::<f64>([n, c], 5), randn::<f64>(shape, 6));
        for map in maps(shape) {
            let what = format!("{shape:?} {:?}", map.rectifier);
            let (a, gates) = (map.make(), g.reshape([n, c, 1, 1]).unwrap());
            let product = |x: &Tensor<f64>, y: &Tensor<f64>| crate::kernels::broadcast::mul(x, y).unwrap();
            assert_close(&what, &gate(&map, &g).unwrap(), &product(&a, &gates), 1e-14);
            let (da, dg) = gate_backward(&map, &g, dy.clone()).unwrap();
            assert_same(&what, &da, &masked(&map, &product(&dy, &gates)));
            let expected = crate::kernels::broadcast::sum_to(&product(&dy, &a), &[n, c, 1, 1]).unwrap();
            assert_close(&what, &dg, &expected.reshape([n, c]).unwrap(), 1e-12);
        }
    }
}

#[test]
fn the_mean_of_a_pending_map_is_that_of_the_map() {
    for shape in SHAPES {
        let [n, c, h, w] = shape;
        let dy = randn::<f64>([n, c], 5);
        for map in maps(shape) {
            let what = format!("{shape:?} {:?}", map.rectifier);
            let expected = crate::reference::pool::global_avg_pool(&map.make());
            assert_close(&what, &global_avg_pool(&map).unwrap(), &expected, 1e-13);
            let spread = Tensor::from_fn(shape, |i| dy.view()[[i[0], i[1]]] / (h * w) as f64);
            let (got, expected) = (global_avg_pool_backward(&map, &dy, None).unwrap(), masked(&map, &spread));
            assert_same(&what, &got, &expected);
            let (mut sum, other) = (masked(&map, &randn(shape, 6)), masked(&map, &randn(shape, 6)));
            sum.add(&expected).unwrap();
            assert_same(&what, &global_avg_pool_backward(&map, &dy, Some(other)).unwrap(), &sum);
        }
    }
}

#[test]
fn the_bits_do_not_depend_on_the_threads() {
    let (n, c) = (19, 24);
    let (g, dy) = (randn::<f32>([n, c], 5), randn::<f32>([n, c, 33, 29], 6));
    let maps = maps::<f32>([n, c, 33, 29]);
    assert_same_bits("joined maps", || {
        let sums = |grad: &MaskedGrad<f32>| {
            let sums = grad.sums.concat().iter().map(|&v| v as f32).collect::<Vec<_>>();
            Tensor::from_memory([sums.len()], sums).unwrap()
        };
        let (da, dg) = gate_backward(&maps[2], &g, dy.clone()).unwrap();
        let mean = global_avg_pool_backward(&maps[1], &g, None).unwrap();
        let masked = MaskedGrad::of(&maps[1], dy.clone()).unwrap();
        let pooled = global_avg_pool(&maps[2]).unwrap();
        let of_sums = [&da, &mean, &masked].map(sums);
        let made =
            [sum(&maps, Rectifier::Relu).unwrap().make(), gate(&maps[2], &g).unwrap(), da.dy, dg, mean.dy, pooled];
        made.into_iter().chain(of_sums).collect()
    });
}

#[test]
fn maps_that_do_not_fit_are_errors() {
    let map = |shape: &[usize]| Pending::plain(Tensor::<f32>::zeros(shape));
    assert!(message(sum::<f32>(&[], Rectifier::Relu)).contains("no map"));
    let error = message(sum(&[map(&[2, 3, 4, 5]), map(&[2, 3, 5, 4])], Rectifier::Relu));
    assert_eq!(error, "sum_maps: `x` has shape [2, 3, 5, 4], expected [2, 3, 4, 5]");
    let error = message(gate(&map(&[2, 3, 4, 5]), &Tensor::zeros([3, 2])));
    assert_eq!(error, "gate: `g` has shape [3, 2], expected [2, 3]");
    let dy = Tensor::zeros([2, 3, 4, 4]);
    assert!(message(gate_backward(&map(&[2, 3, 4, 5]), &Tensor::zeros([2, 3]), dy)).contains("[2, 3, 4, 4]"));
    for shape in [[0, 3, 2, 2], [2, 0, 2, 2]] {
        assert!(sum(&[map(&shape)], Rectifier::Relu).unwrap().make().is_empty());
        assert!(gate(&map(&shape), &Tensor::zeros([shape[0], shape[1]])).unwrap().is_empty());
    }
}
