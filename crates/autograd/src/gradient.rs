//! The gradient of one value on the tape while the sweep is under way.

use gatefold_tensor::kernels::pending::{MaskedGrad, Pending, PendingGrad};
use gatefold_tensor::{Error, Real, Result, Tensor};

/// A gradient, as far as its contributions have come in: made, or [pending](gatefold_tensor::kernels::pending).
pub struct Gradient<T: Real> {
    /// ∂L/∂y.
    plain: Option<Tensor<T>>,
    /// From those who read the value pending: behind the rectifier, summed up for the batch norm, (pend.2).
    masked: Option<MaskedGrad<T>>,
    /// From a batch norm: still to be scaled and shifted, (pend.3).
    through: Option<PendingGrad<T>>,
}

impl<T: Real> Gradient<T> {
    /// A gradient that is made.
    pub fn plain(dy: Tensor<T>) -> Self {
        Gradient { plain: Some(dy), masked: None, through: None }
    }

    /// From a batch norm.
    pub fn through(dy: PendingGrad<T>) -> Self {
        Gradient { plain: None, masked: None, through: Some(dy) }
    }

    /// From a consumer of `map`, which has nothing to mask where nothing is pending.
    pub(crate) fn of_consumer(map: &Pending<T>, gradient: MaskedGrad<T>) -> Self {
        if map.is_plain() {
            return Gradient::plain(gradient.dy);
        }
        Gradient { plain: None, masked: Some(gradient), through: None }
    }

    /// Adds another contribution.
    pub(crate) fn add(&mut self, other: Gradient<T>) -> Result<()> {
        match (&mut self.masked, other.masked) {
            (Some(sum), Some(masked)) => sum.add(&masked)?,
            (empty @ None, masked) => *empty = masked,
            (_, None) => {}
        }
        // A gradient through a batch norm that is not the only one has to be made.
        for pending in [self.through.take(), other.through].into_iter().flatten() {
            self.add_plain(pending.make())?;
        }
        other.plain.map_or(Ok(()), |plain| self.add_plain(plain))
    }

    fn add_plain(&mut self, gradient: Tensor<T>) -> Result<()> {
        match &mut self.plain {
            Some(sum) => sum.zip_apply(&gradient, |a, b| *a += b),
            empty => {
                *empty = Some(gradient);
                Ok(())
            }
        }
    }

    /// ∂L/∂y, made.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a consumer has masked its share for a rectifier that the value's op does not know of.
    pub fn into_plain(self) -> Result<Tensor<T>> {
        match (self.plain, self.masked, self.through) {
            (Some(plain), None, None) => Ok(plain),
            (None, None, Some(through)) => Ok(through.make()),
            _ => Err(Error::invalid("backward", "a masked gradient reached an op that made no pending map")),
        }
    }

    /// For the convolution before a batch norm: as it is.
    ///
    /// # Errors
    /// As [`into_plain`](Self::into_plain).
    pub fn into_pending(self) -> Result<PendingGrad<T>> {
        match self.through {
            Some(through) => Ok(through),
            None => self.into_plain().map(PendingGrad::plain),
        }
    }

    /// For the op that left `map` pending: behind the rectifier and summed up, (pend.2).
    ///
    /// # Errors
    /// [`Error::Shape`] if a contribution has another shape than the map.
    pub fn into_masked(mut self, map: &Pending<T>) -> Result<MaskedGrad<T>> {
        if let Some(through) = self.through.take() {
            self.add_plain(through.make())?;
        }
        let mut masked = self.masked;
        if let Some(plain) = self.plain {
            let plain = MaskedGrad::of(map, plain)?;
            match &mut masked {
                Some(masked) => masked.add(&plain)?,
                empty => *empty = Some(plain),
            }
        }
        masked.ok_or_else(|| Error::invalid("backward", "no gradient came in"))
    }
}
