//! What the kernels' tests share: comparison, central differences, and runs with several numbers of threads.

use crate::{Real, Tensor};

/// Fails unless max |a − b| ≤ tolerance · max(1, max |b|).
#[track_caller]
pub fn assert_close<T: Real>(what: &str, a: &Tensor<T>, b: &Tensor<T>, tolerance: f64) {
    assert_eq!(a.shape(), b.shape(), "{what}: shapes");
    let difference = a.max_abs_diff(b).unwrap().f64();
    let limit = tolerance * b.max_abs().f64().max(1.0);
    assert!(difference <= limit, "{what}: {difference:e} apart, limit {limit:e}"); // false for a NaN
}

/// Fails unless `dx` is the gradient of L = Σ r ⊙ f(x) by central differences, `dy = r` being what the backward got.
#[track_caller]
pub fn assert_gradient(
    what: &str,
    x: &Tensor<f64>,
    dx: &Tensor<f64>,
    dy: &Tensor<f64>,
    f: impl Fn(&Tensor<f64>) -> Tensor<f64>,
) {
    assert_eq!(x.shape(), dx.shape(), "{what}: shapes");
    const H: f64 = 1e-5;
    let loss = |i: usize, h: f64| {
        let mut x = x.clone();
        x.as_mut_slice()[i] += h;
        let y = f(&x);
        assert_eq!(y.shape(), dy.shape(), "{what}: shapes of y and dy");
        y.as_slice().iter().zip(dy.as_slice()).map(|(y, r)| y * r).sum::<f64>()
    };
    for (i, &dx) in dx.as_slice().iter().enumerate() {
        let numeric = (loss(i, H) - loss(i, -H)) / (2.0 * H);
        assert!(
            (numeric - dx).abs() <= 1e-7 + 1e-6 * numeric.abs(),
            "{what}: element {i} in memory is {dx}, central difference {numeric}"
        );
    }
}

/// Fails unless `f` gives the same bits with 1, 2 and 3 threads.
#[track_caller]
pub fn assert_same_bits(what: &str, f: impl Fn() -> Vec<Tensor<f32>> + Send + Sync) {
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let tensors = pool.install(&f);
        tensors.iter().flat_map(|t| t.as_slice().iter().map(|v| v.to_bits()).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let one = with(1);
    assert!(!one.is_empty(), "{what}: nothing to compare");
    assert_eq!(one, with(2), "{what}: 2 threads");
    assert_eq!(one, with(3), "{what}: 3 threads");
}

/// The message of the error that `result` must be.
#[track_caller]
pub fn message<A>(result: crate::Result<A>) -> String {
    match result {
        Ok(_) => panic!("no error"),
        Err(error) => error.to_string(),
    }
}
