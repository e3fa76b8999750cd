//! The tape: which operation made which value, in order, and the sweep back.

use std::cell::RefCell;
use std::rc::Rc;

use gatefold_tensor::kernels::pending::{MaskedGrad, Pending};
use gatefold_tensor::{Error, Real, Result, Shape, Tensor};

use crate::var::Value;
use crate::{Gradient, Var, profile};

/// An operation that was recorded. It owns what its derivative needs and is consumed by the sweep.
// ANCHOR: op
pub trait Op<T: Real> {
    /// The operation's name, as errors and profiles show it.
    fn name(&self) -> &'static str;

    /// Given `dy` = ∂L/∂y, adds ∂L/∂xᵢ to each input that wants it. `dy` is owned: its memory may become an input's
    /// gradient.
    ///
    /// # Errors
    /// The kernels' own; the forward pass has checked the shapes already.
    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()>;

    /// The same from a gradient that may still be [pending](gatefold_tensor::kernels::pending). An op that can work
    /// with it as it is says so here; for all others it is made.
    ///
    /// # Errors
    /// As [`backward`](Self::backward).
    fn backward_pending(self: Box<Self>, dy: Gradient<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        self.backward(dy.into_plain()?, dx)
    }
}
// ANCHOR_END: op

/// One value on the tape: how it came about.
enum Entry<T: Real> {
    /// Given from outside; here a gradient stays.
    Leaf,
    /// By an op, from the values at these places of the tape; `None` for a constant.
    Made { op: Box<dyn Op<T>>, inputs: Vec<Option<usize>>, shape: Shape },
    /// By an op that a sweep has consumed.
    Swept,
}

/// The record of one forward pass. Cloning shares it.
pub struct Tape<T: Real> {
    entries: Rc<RefCell<Vec<Entry<T>>>>,
}

impl<T: Real> Clone for Tape<T> {
    fn clone(&self) -> Self {
        Tape { entries: Rc::clone(&self.entries) }
    }
}

impl<T: Real> Default for Tape<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Real> Tape<T> {
    /// An empty tape.
    pub fn new() -> Self {
        Tape { entries: Rc::default() }
    }

    /// A value whose gradient is wanted: a parameter, or an input under test.
    pub fn leaf(&self, value: Tensor<T>) -> Var<T> {
        self.push(Value::Made(value), Entry::Leaf)
    }

    fn push(&self, value: Value<T>, entry: Entry<T>) -> Var<T> {
        let mut entries = self.entries.borrow_mut();
        entries.push(entry);
        Var::on_tape(value, self.clone(), entries.len() - 1)
    }

    /// Records `op` as the maker of `value` if one of `inputs` is on a tape; `op` is built only then. An input that is
    /// `None` is absent (a convolution without bias).
    pub fn record<O: Op<T> + 'static>(value: Tensor<T>, inputs: &[Option<&Var<T>>], op: impl FnOnce() -> O) -> Var<T> {
        Self::record_pending(Value::Made(value), inputs, op)
    }

    /// The same for a value that may be pending.
    pub(crate) fn record_pending<O: Op<T> + 'static>(
        value: Value<T>,
        inputs: &[Option<&Var<T>>],
        op: impl FnOnce() -> O,
    ) -> Var<T> {
        let Some(tape) = inputs.iter().flatten().find_map(|x| x.tape()) else {
            return Var::unrecorded(value);
        };
        let inputs = inputs.iter().map(|x| x.and_then(Var::place)).collect();
        let op = op();
        profile::lap::<T>(op.name(), false, value.shape());
        let shape = *value.shape();
        tape.push(value, Entry::Made { op: Box::new(op), inputs, shape })
    }

    /// The sweep: sends `dy` back from the value at `place` to the leaves.
    // ANCHOR: sweep
    pub(crate) fn sweep(&self, place: usize, dy: Tensor<T>) -> Result<Gradients<T>> {
        let mut of: Vec<Option<Gradient<T>>> = Vec::new();
        of.resize_with(place + 1, || None);
        of[place] = Some(Gradient::plain(dy));
        profile::skip();
        for place in (0..=place).rev() {
            if of[place].is_none() {
                continue;
            }
            let made = {
                let entry = &mut self.entries.borrow_mut()[place];
                if matches!(entry, Entry::Leaf) {
                    continue;
                }
                std::mem::replace(entry, Entry::Swept)
            };
            let Entry::Made { op, inputs, shape } = made else {
                return Err(Error::invalid("backward", "this part of the tape was swept already"));
            };
            let dy = of[place].take().expect("checked above");
            let name = op.name();
            op.backward_pending(dy, &mut Sink { inputs: &inputs, of: &mut of })?;
            profile::lap::<T>(name, true, &shape);
        }
        Ok(Gradients { of })
    }
    // ANCHOR_END: sweep
}

/// Where an op puts the gradients of its inputs.
pub struct Sink<'a, T: Real> {
    inputs: &'a [Option<usize>],
    of: &'a mut [Option<Gradient<T>>],
}

impl<T: Real> Sink<'_, T> {
    /// Whether anybody needs the gradient of input `i`: what nobody wants is not computed.
    pub fn wants(&self, i: usize) -> bool {
        self.inputs[i].is_some()
    }

    /// Adds `gradient` to that of input `i`: the first moves in, later ones are added. Ignored if nobody wants it.
    ///
    /// # Errors
    /// [`Error::Shape`] if a second gradient has another shape than the first.
    // ANCHOR: sink_add
    pub fn add(&mut self, i: usize, gradient: Tensor<T>) -> Result<()> {
        self.add_gradient(i, Gradient::plain(gradient))
    }
    // ANCHOR_END: sink_add

    /// Adds a gradient that may be pending.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_gradient(&mut self, i: usize, gradient: Gradient<T>) -> Result<()> {
        if let Some(place) = self.inputs[i] {
            match &mut self.of[place] {
                Some(sum) => sum.add(gradient)?,
                empty => *empty = Some(gradient),
            }
        }
        Ok(())
    }

    /// Adds what a consumer of `map` sends back, masked and summed already.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_masked(&mut self, i: usize, map: &Pending<T>, gradient: MaskedGrad<T>) -> Result<()> {
        self.add_gradient(i, Gradient::of_consumer(map, gradient))
    }

    /// What other consumers of input `i`, a pending map, have sent back, to be added to and sent again.
    pub(crate) fn take_masked(&mut self, i: usize) -> Option<MaskedGrad<T>> {
        self.of[self.inputs[i]?].as_mut()?.take_masked()
    }

    /// [`add`](Self::add) for every input whose gradient was computed, in the order of the inputs.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_all<const N: usize>(&mut self, gradients: [Option<Tensor<T>>; N]) -> Result<()> {
        for (i, gradient) in gradients.into_iter().enumerate() {
            if let Some(gradient) = gradient {
                self.add(i, gradient)?;
            }
        }
        Ok(())
    }
}

/// The gradients that a sweep leaves at the leaves.
pub struct Gradients<T: Real> {
    of: Vec<Option<Gradient<T>>>,
}

impl<T: Real> Gradients<T> {
    /// The gradient of a leaf, moved out; `None` if the loss does not depend on it.
    pub fn take(&mut self, leaf: &Var<T>) -> Option<Tensor<T>> {
        let gradient = self.of.get_mut(leaf.place()?)?.take()?;
        Some(gradient.into_plain().expect("a leaf is no pending map"))
    }
}
