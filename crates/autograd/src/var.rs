//! A value that may be on a tape.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;

use gatefold_tensor::kernels::folded::PendingSite;
use gatefold_tensor::kernels::pending::{Pending, PendingSum, Rectifier};
use gatefold_tensor::{Error, Real, Result, Shape, Tensor};

use crate::{Gradients, Tape};

/// A tensor in a computation. A `Var` without a tape records nothing: inference keeps nothing alive.
///
/// The tensor may be [pending](gatefold_tensor::kernels::pending): the output of a batch norm, of a folded site or of branches
/// that meet is not written down as long as all who ask for it can make it while they load. [`value`](Self::value) makes it, once.
#[derive(Clone)]
pub struct Var<T: Real> {
    value: Value<T>,
    node: Option<(Tape<T>, usize)>,
}

/// What a `Var` holds.
#[derive(Clone)]
pub(crate) enum Value<T: Real> {
    Made(Tensor<T>),
    Pending(Lazy<Pending<T>, T>),
    Site(SiteValue<T>),
    Sum(SumValue<T>),
}

/// A map that is read without being made.
pub(crate) enum Unmade<T: Real> {
    Site(SiteValue<T>),
    Sum(SumValue<T>),
}

/// What is pending, and the map itself once somebody has asked for it.
pub(crate) struct Lazy<P, T: Real>(Rc<Held<P, T>>);

struct Held<P, T: Real> {
    source: P,
    made: OnceCell<Tensor<T>>,
    /// Whether a convolution has read it without its being made.
    read: Cell<bool>,
}

/// What a folded site gives.
pub(crate) type SiteValue<T> = Lazy<PendingSite<T>, T>;

/// What maps that meet give.
pub(crate) type SumValue<T> = Lazy<PendingSum<T>, T>;

impl<P, T: Real> Clone for Lazy<P, T> {
    fn clone(&self) -> Self {
        Lazy(Rc::clone(&self.0))
    }
}

impl<P, T: Real> Lazy<P, T> {
    pub fn new(pending: P) -> Self {
        Lazy(Rc::new(Held { source: pending, made: OnceCell::new(), read: Cell::new(false) }))
    }

    pub fn source(&self) -> &P {
        &self.0.source
    }

    fn is_made(&self) -> bool {
        self.0.made.get().is_some()
    }

    fn value(&self, make: impl FnOnce(&P) -> Tensor<T>) -> &Tensor<T> {
        self.0.made.get_or_init(|| make(&self.0.source))
    }
}

impl<T: Real> SiteValue<T> {
    pub fn rectifier(&self) -> Rectifier {
        self.source().rectifier()
    }

    /// For all who read a map in memory.
    pub fn pending(&self) -> Pending<T> {
        Pending::rectified(self.value(PendingSite::make), self.rectifier())
    }
}

impl<T: Real> SumValue<T> {
    /// For all who read a map in memory.
    pub fn pending(&self) -> Pending<T> {
        Pending::rectified(self.value(PendingSum::make), self.source().rectifier())
    }
}

impl<T: Real> Value<T> {
    /// The logical shape.
    pub fn shape(&self) -> &Shape {
        match self {
            Value::Made(value) => value.shape(),
            Value::Pending(pending) => pending.source().z.shape(),
            Value::Site(site) => site.source().shape(),
            Value::Sum(sum) => sum.source().shape(),
        }
    }
}

impl<T: Real> From<Pending<T>> for Value<T> {
    fn from(map: Pending<T>) -> Self {
        Value::Pending(Lazy::new(map))
    }
}

impl<T: Real> Var<T> {
    /// A value without history.
    pub fn constant(value: Tensor<T>) -> Self {
        Var::unrecorded(Value::Made(value))
    }

    pub(crate) fn unrecorded(value: Value<T>) -> Self {
        Var { value, node: None }
    }

    pub(crate) fn on_tape(value: Value<T>, tape: Tape<T>, place: usize) -> Self {
        Var { value, node: Some((tape, place)) }
    }

    /// The value itself.
    pub fn value(&self) -> &Tensor<T> {
        match &self.value {
            Value::Made(value) => value,
            Value::Pending(pending) => pending.value(Pending::make),
            Value::Site(site) => site.value(PendingSite::make),
            Value::Sum(sum) => sum.value(PendingSum::make),
        }
    }

    /// The value as it lies in memory, with what is still to be done to it.
    pub fn pending(&self) -> Pending<T> {
        match &self.value {
            Value::Made(value) => Pending::plain(value.clone()),
            Value::Pending(pending) => pending.source().clone(),
            Value::Site(site) => site.pending(),
            Value::Sum(sum) => sum.pending(),
        }
    }

    /// What is behind a value that nobody has asked for yet. Once it is made, all others read what is there. Of maps that meet
    /// the first reader alone gets it: a second one would make every row once more.
    pub(crate) fn unmade(&self) -> Option<Unmade<T>> {
        match &self.value {
            Value::Site(site) if !site.is_made() => Some(Unmade::Site(site.clone())),
            Value::Sum(sum) if !sum.is_made() && !sum.0.read.get() => Some(Unmade::Sum(sum.clone())),
            _ => None,
        }
    }

    /// Notes that [`unmade`](Self::unmade) has been read.
    pub(crate) fn mark_read(&self) {
        if let Value::Sum(sum) = &self.value {
            sum.0.read.set(true);
        }
    }

    /// The value's logical shape.
    pub fn shape(&self) -> &Shape {
        self.value.shape()
    }

    pub(crate) fn tape(&self) -> Option<&Tape<T>> {
        self.node.as_ref().map(|(tape, _)| tape)
    }

    pub(crate) fn place(&self) -> Option<usize> {
        self.node.as_ref().map(|(_, place)| *place)
    }

    /// Whether a gradient can flow back through this value.
    pub fn is_recorded(&self) -> bool {
        self.node.is_some()
    }

    /// The gradients of this value, a loss with one element.
    ///
    /// # Errors
    /// [`Error::Shape`] if it has more than one element; [`Error::Invalid`] if nothing was recorded or the tape was
    /// swept before.
    pub fn backward(&self) -> Result<Gradients<T>> {
        self.value().item().map_err(|_| Error::shape("backward", "loss", "one element", self.shape()))?;
        self.backward_with(Tensor::ones(*self.shape()))
    }

    /// The gradients of Σ dy ⊙ self.
    ///
    /// # Errors
    /// [`Error::Shape`] if `dy` has another shape than the value; [`Error::Invalid`] as [`backward`](Self::backward).
    pub fn backward_with(&self, dy: Tensor<T>) -> Result<Gradients<T>> {
        if dy.shape() != self.shape() {
            return Err(Error::shape("backward", "dy", format!("{:?}", self.shape()), dy.shape()));
        }
        let (tape, place) = self.node.as_ref().ok_or_else(|| Error::invalid("backward", "nothing was recorded"))?;
        tape.sweep(*place, dy)
    }
}
