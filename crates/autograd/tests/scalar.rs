//! Reverse-mode differentiation of scalars in sixty lines: the tape without tensors, held against central differences
//! and against the real tape.
//! ```text
//! d[i] = Σ_j d[j] · ∂x[j]/∂x[i]   over the values x[j] that were made from x[i],   d[last] = 1      (ad.1)
//! ```

use gatefold_autograd::Tape as TensorTape;
use gatefold_tensor::Tensor;

// ANCHOR: tape
use std::cell::RefCell;
use std::ops::{Add, Mul};

/// For each value, in the order in which they were made: its inputs, and its derivative with respect to each.
#[derive(Default)]
struct Tape(RefCell<Vec<Vec<(usize, f64)>>>);

/// A number, and its place on the tape.
#[derive(Clone, Copy)]
struct Scalar<'t> {
    tape: &'t Tape,
    place: usize,
    value: f64,
}

impl Tape {
    fn leaf(&self, value: f64) -> Scalar<'_> {
        self.push(value, Vec::new())
    }

    fn push(&self, value: f64, from: Vec<(usize, f64)>) -> Scalar<'_> {
        let mut entries = self.0.borrow_mut();
        entries.push(from);
        Scalar { tape: self, place: entries.len() - 1, value }
    }
}
// ANCHOR_END: tape

// ANCHOR: ops
impl<'t> Add for Scalar<'t> {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.tape.push(self.value + other.value, vec![(self.place, 1.0), (other.place, 1.0)])
    }
}

impl<'t> Mul for Scalar<'t> {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        self.tape.push(self.value * other.value, vec![(self.place, other.value), (other.place, self.value)])
    }
}

impl<'t> Scalar<'t> {
    fn relu(self) -> Self {
        self.tape.push(self.value.max(0.0), vec![(self.place, if self.value > 0.0 { 1.0 } else { 0.0 })])
    }

    fn sigmoid(self) -> Self {
        let y = 1.0 / (1.0 + (-self.value).exp());
        self.tape.push(y, vec![(self.place, y * (1.0 - y))])
    }
}
// ANCHOR_END: ops

// ANCHOR: backward
impl<'t> Scalar<'t> {
    /// The derivative of this value with respect to every value on the tape before it, (ad.1).
    fn backward(self) -> Vec<f64> {
        let entries = self.tape.0.borrow();
        let mut d = vec![0.0; self.place + 1];
        d[self.place] = 1.0;
        for j in (0..=self.place).rev() {
            for &(i, partial) in &entries[j] {
                d[i] += d[j] * partial;
            }
        }
        d
    }
}
// ANCHOR_END: backward

// ANCHOR: by_hand
#[test]
fn a_value_used_twice_gets_both_gradients() {
    let tape = Tape::default();
    let (x, y) = (tape.leaf(3.0), tape.leaf(-2.0));
    let z = x * y + x * x; // dz/dx = y + 2x, dz/dy = x
    let d = z.backward();
    assert_eq!((z.value, d[x.place], d[y.place]), (3.0, 4.0, 3.0));
}
// ANCHOR_END: by_hand

/// A neuron of two inputs, a gate on it, and the square of the result: `(relu(w·x + b) · σ(v·x))²`.
fn gated_neuron<'t>(p: &[Scalar<'t>]) -> Scalar<'t> {
    let [w0, w1, b, v0, v1, x0, x1] = *p else { panic!("seven values") };
    let y = (w0 * x0 + w1 * x1 + b).relu() * (v0 * x0 + v1 * x1).sigmoid();
    y * y
}

const POINTS: [[f64; 7]; 3] = [
    [0.7, -0.4, 0.3, 1.1, 0.2, 0.9, -1.3],
    [0.7, 0.4, 0.3, -2.0, 0.5, 2.0, 0.1],
    [-0.7, 0.4, -0.3, 1.0, 1.0, 0.9, 0.2], // the rectifier is shut: every derivative is 0
];

fn at(point: &[f64]) -> f64 {
    let tape = Tape::default();
    let leaves: Vec<_> = point.iter().map(|&v| tape.leaf(v)).collect();
    gated_neuron(&leaves).value
}

fn gradient(point: &[f64]) -> Vec<f64> {
    let tape = Tape::default();
    let leaves: Vec<_> = point.iter().map(|&v| tape.leaf(v)).collect();
    gated_neuron(&leaves).backward()[..point.len()].to_vec()
}

#[test]
fn scalar_gradients_are_central_differences() {
    let h = 1e-6;
    for point in POINTS {
        for (i, analytic) in gradient(&point).into_iter().enumerate() {
            let moved = |step: f64| {
                let mut point = point;
                point[i] += step;
                at(&point)
            };
            let numeric = (moved(h) - moved(-h)) / (2.0 * h);
            assert!((analytic - numeric).abs() < 1e-8, "{point:?}, input {i}: {analytic} against {numeric}");
        }
    }
    assert!(gradient(&POINTS[0]).iter().all(|d| d.abs() > 1e-3), "a check of zeros checks nothing");
    assert!(gradient(&POINTS[2]).iter().all(|&d| d == 0.0));
}

#[test]
fn the_tape_of_tensors_has_the_gradients_of_the_tape_of_scalars() {
    for point in POINTS {
        let tape = TensorTape::new();
        let leaf = |values: &[f64]| tape.leaf(Tensor::from_vec([values.len()], values.to_vec()).unwrap());
        let (w, b, v, x) = (leaf(&point[..2]), leaf(&point[2..3]), leaf(&point[3..5]), leaf(&point[5..]));
        let dot = |w: &gatefold_autograd::Var<f64>| w.mul(&x).unwrap().sum(&[0], true).unwrap();
        let y = dot(&w).add(&b).unwrap().relu().mul(&dot(&v).sigmoid()).unwrap();
        let loss = y.mul(&y).unwrap();
        assert!((loss.value().item().unwrap() - at(&point)).abs() < 1e-15);
        let mut gradients = loss.backward().unwrap();
        let of_tensors: Vec<f64> =
            [w, b, v, x].iter().flat_map(|leaf| gradients.take(leaf).unwrap().to_vec()).collect();
        for (scalar, tensor) in gradient(&point).into_iter().zip(of_tensors) {
            assert!((scalar - tensor).abs() < 1e-14, "{point:?}: {scalar} against {tensor}");
        }
    }
}
