//! What the tape promises: gradients that nobody wants are not asked for, what an op saved dies with the sweep, and a
//! tape is swept once.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use gatefold_autograd::{Op, Sink, Tape, Var};
use gatefold_tensor::random::randn;
use gatefold_tensor::{Result, Tensor};

/// What a [`Probe`] has seen when it was swept.
type Seen = Rc<RefCell<Vec<(&'static str, Vec<bool>)>>>;

/// y = Σ inputs, all of one shape; takes note of what is wanted, and holds something.
struct Probe {
    name: &'static str,
    inputs: usize,
    seen: Seen,
    _saved: Rc<()>,
}

impl Op<f64> for Probe {
    fn name(&self) -> &'static str {
        self.name
    }

    fn backward(self: Box<Self>, dy: Tensor<f64>, dx: &mut Sink<'_, f64>) -> Result<()> {
        self.seen.borrow_mut().push((self.name, (0..self.inputs).map(|i| dx.wants(i)).collect()));
        (0..self.inputs).try_for_each(|i| dx.add(i, dy.clone()))
    }
}

fn probe(name: &'static str, inputs: &[&Var<f64>], seen: &Seen) -> (Var<f64>, Weak<()>) {
    let mut y = inputs[0].value().clone();
    inputs[1..].iter().for_each(|x| y.zip_apply(x.value(), |a, b| *a += b).unwrap());
    let saved = Rc::new(());
    let alive = Rc::downgrade(&saved);
    let inputs: Vec<_> = inputs.iter().map(|x| Some(*x)).collect();
    let y = Tape::record(y, &inputs, || Probe { name, inputs: inputs.len(), seen: Rc::clone(seen), _saved: saved });
    (y, alive)
}

fn ones() -> Tensor<f64> {
    Tensor::ones([3])
}

#[test]
fn what_nobody_wants_is_not_asked_for_and_not_kept() {
    let (tape, seen) = (Tape::new(), Seen::default());
    let (x, constant) = (tape.leaf(ones()), Var::constant(ones()));
    let (y, _) = probe("first", &[&constant, &x, &constant], &seen);
    let (unused, _) = probe("unused", &[&x, &x], &seen);
    let (z, _) = probe("second", &[&y, &constant], &seen);
    let mut gradients = z.backward_with(ones()).unwrap();
    assert_eq!(*seen.borrow(), [("second", vec![true, false]), ("first", vec![false, true, false])]);
    assert_eq!(gradients.take(&x).unwrap().to_vec(), [1.0; 3]);
    for without in [&constant, &unused, &y, &z] {
        assert!(gradients.take(without).is_none());
    }
}

#[test]
fn a_gradient_is_moved_out_once() {
    let tape = Tape::new();
    let (x, other) = (tape.leaf(ones()), tape.leaf(ones()));
    let mut gradients = x.mul(&x).unwrap().sum(&[0], false).unwrap().backward().unwrap();
    assert_eq!(gradients.take(&x).unwrap().to_vec(), [2.0; 3]);
    assert!(gradients.take(&x).is_none());
    assert!(gradients.take(&other).is_none(), "the loss does not depend on it");
}

#[test]
fn what_an_op_saved_dies_with_the_sweep() {
    let (tape, seen) = (Tape::new(), Seen::default());
    let x = tape.leaf(ones());
    let (y, first) = probe("first", &[&x], &seen);
    let (z, second) = probe("second", &[&y], &seen);
    assert!(first.upgrade().is_some() && second.upgrade().is_some());
    z.backward_with(ones()).unwrap();
    assert!(first.upgrade().is_none() && second.upgrade().is_none());
}

#[test]
fn a_second_sweep_is_an_error() {
    let tape = Tape::new();
    let x = tape.leaf(ones());
    let y = x.relu();
    let (first, second) = (y.sum(&[0], false).unwrap(), y.mean(&[0], false).unwrap());
    first.backward().unwrap();
    for again in [&first, &second, &y.sum(&[0], false).unwrap()] {
        let error = again.backward().err().expect("the tape was swept").to_string();
        assert!(error.contains("swept"), "{error}");
    }
    // Another computation on the same leaf is untouched by that.
    assert_eq!(x.sum(&[0], false).unwrap().backward().unwrap().take(&x).unwrap().to_vec(), [1.0; 3]);
}

#[test]
fn a_loss_is_one_recorded_element() {
    let tape = Tape::new();
    let x = tape.leaf(randn::<f64>([2, 3], 1));
    let message = |result: Result<_>| result.map(|_| ()).unwrap_err().to_string();
    assert!(message(x.relu().backward()).contains("one element"));
    assert!(message(x.relu().backward_with(Tensor::ones([3, 2]))).contains("[2, 3]"));
    let constant = Var::constant(Tensor::<f64>::scalar(1.0));
    assert!(message(constant.backward()).contains("nothing was recorded"));
}

#[test]
fn the_leaf_itself_may_be_the_loss() {
    let tape = Tape::new();
    let x = tape.leaf(Tensor::<f64>::scalar(3.0));
    for _ in 0..2 {
        assert_eq!(x.backward().unwrap().take(&x).unwrap().item().unwrap(), 1.0);
    }
}
