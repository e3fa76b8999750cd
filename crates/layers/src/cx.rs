//! The context of one forward pass: train or eval, recorded or not, where we are, and what batch norms have seen.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use gatefold_autograd::{BatchNormStats, Tape, Var};
use gatefold_tensor::{Real, Result, Tensor};

use crate::{BatchNorm2d, EntryMut, Id, Param, Walk, join};

/// Whether layers behave as in training or as in use. Said, never guessed from whether gradients are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Batch norms use the batch's statistics and record them.
    Train,
    /// Batch norms use their running statistics.
    Eval,
}

/// What a forward pass carries along.
pub struct Cx<'o, T: Real> {
    mode: Mode,
    tape: Option<Tape<T>>,
    leaves: RefCell<HashMap<Id, Var<T>>>,
    statistics: RefCell<Statistics<T>>,
    path: RefCell<String>,
    shared: RefCell<Option<Var<T>>>,
    observer: Option<RefCell<Box<Observer<'o, T>>>>,
}

/// Called with the path, the input and the output of each part that ran in a [`Cx::scope`].
type Observer<'o, T> = dyn FnMut(&str, &Var<T>, &Var<T>) + 'o;

impl<'o, T: Real> Cx<'o, T> {
    /// Training: batch statistics, gradients recorded.
    pub fn train() -> Self {
        Self::new(Mode::Train, true)
    }

    /// Use: running statistics, nothing recorded.
    pub fn eval() -> Self {
        Self::new(Mode::Eval, false)
    }

    /// Any other combination; gradient checks differentiate in both modes.
    pub fn new(mode: Mode, recorded: bool) -> Self {
        Cx {
            mode,
            tape: recorded.then(Tape::new),
            leaves: RefCell::default(),
            statistics: RefCell::new(Statistics(Vec::new())),
            path: RefCell::default(),
            shared: RefCell::default(),
            observer: None,
        }
    }

    /// The same, telling `observer` the path, input and output of every site and layer of the backbone.
    #[must_use]
    pub fn observed(mut self, observer: impl FnMut(&str, &Var<T>, &Var<T>) + 'o) -> Self {
        self.observer = Some(RefCell::new(Box::new(observer)));
        self
    }

    /// Train or eval.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The tape that records this pass, if one does.
    pub fn tape(&self) -> Option<&Tape<T>> {
        self.tape.as_ref()
    }

    /// An input: a leaf if `wanted` and the pass is recorded, else a constant.
    pub fn input(&self, x: Tensor<T>, wanted: bool) -> Var<T> {
        match &self.tape {
            Some(tape) if wanted => tape.leaf(x),
            _ => Var::constant(x),
        }
    }

    pub(crate) fn leaf(&self, param: &Param<T>) -> Var<T> {
        match &self.tape {
            None => Var::constant(param.value.clone()),
            Some(tape) => {
                let mut leaves = self.leaves.borrow_mut();
                leaves.entry(param.id()).or_insert_with(|| tape.leaf(param.value.clone())).clone()
            }
        }
    }

    /// Runs a part of the network under a name: errors inside carry the path, and the observer sees input and output.
    ///
    /// # Errors
    /// Those of `run`, in the layer named.
    pub fn scope(&self, name: &str, x: &Var<T>, run: impl FnOnce(&Var<T>) -> Result<Var<T>>) -> Result<Var<T>> {
        let outer = self.path.replace_with(|path| join(path, name));
        let result = run(x);
        let path = self.path.replace(outer);
        let y = result.map_err(|error| error.in_layer(&path))?;
        if let Some(observer) = &self.observer {
            (observer.borrow_mut())(&path, x, &y);
        }
        Ok(y)
    }

    /// Runs a block whose sites share `values`.
    pub fn sharing<R>(&self, values: Var<T>, run: impl FnOnce() -> R) -> R {
        let outer = self.shared.replace(Some(values));
        let result = run();
        self.shared.replace(outer);
        result
    }

    /// What the sites of the block that runs share, if it has something to share.
    pub fn shared(&self) -> Option<Var<T>> {
        self.shared.borrow().clone()
    }

    /// Takes note of a batch's statistics for the running ones of `bn`.
    pub(crate) fn record(&self, bn: &BatchNorm2d<T>, stats: &BatchNormStats<T>) {
        let list = &mut self.statistics.borrow_mut().0;
        list.push((bn.running_mean.id(), stats.mean.clone(), bn.momentum));
        list.push((bn.running_var.id(), stats.unbiased_var(), bn.momentum));
    }

    /// The gradients of `loss` at every parameter that was used.
    ///
    /// # Errors
    /// As [`Var::backward`].
    pub fn backward(&self, loss: &Var<T>) -> Result<ParamGradients<T>> {
        let mut gradients = loss.backward()?;
        let leaves = self.leaves.borrow();
        let of = leaves.iter().filter_map(|(id, leaf)| Some((*id, gradients.take(leaf)?))).collect();
        Ok(ParamGradients { of })
    }

    /// What the batch norms have seen, to be applied after the step.
    pub fn into_statistics(self) -> Statistics<T> {
        self.statistics.into_inner()
    }
}

/// The gradients of a step, by parameter.
pub struct ParamGradients<T: Real> {
    of: HashMap<Id, Tensor<T>>,
}

impl<T: Real> ParamGradients<T> {
    /// The gradient of `param`; `None` if the loss does not depend on it.
    pub fn get(&self, param: &Param<T>) -> Option<&Tensor<T>> {
        self.of.get(&param.id())
    }

    /// Adds the gradients of another loss at the same parameters.
    ///
    /// # Errors
    /// Two gradients of one parameter with different shapes.
    pub fn add(&mut self, other: Self) -> Result<()> {
        for (id, gradient) in other.of {
            match self.of.entry(id) {
                Entry::Occupied(mut sum) => sum.get_mut().zip_apply(&gradient, |a, b| *a += b)?,
                Entry::Vacant(none) => {
                    none.insert(gradient);
                }
            }
        }
        Ok(())
    }

    /// Multiplies every gradient.
    pub fn scale(&mut self, factor: T) {
        self.of.values_mut().for_each(|gradient| gradient.as_mut_slice().iter_mut().for_each(|g| *g *= factor));
    }
}

/// Batch statistics in the order in which they came: (buffer, batch value, momentum).
pub struct Statistics<T: Real>(Vec<(Id, Tensor<T>, f64)>);

impl<T: Real> Statistics<T> {
    /// Updates the running statistics of `module`: `r ← (1 − momentum)·r + momentum·batch`.
    ///
    /// # Errors
    /// A batch value whose shape is not the buffer's.
    // ANCHOR: apply_statistics
    pub fn apply(self, module: &mut (impl Walk<T> + ?Sized)) -> Result<()> {
        let mut result = Ok(());
        module.walk_mut("", &mut |_, entry| {
            let EntryMut::Buffer(buffer) = entry else { return };
            let id = buffer.id();
            for (_, batch, momentum) in self.0.iter().filter(|(of, ..)| *of == id) {
                let (keep, take) = (T::of(1.0 - momentum), T::of(*momentum));
                let updated = buffer.value.zip_apply(batch, |r, b| *r = keep * *r + take * b);
                result = std::mem::replace(&mut result, Ok(())).and(updated);
            }
        });
        result
    }
    // ANCHOR_END: apply_statistics
}
