//! The gradient of one value on the tape while the sweep is under way.

use gatefold_tensor::kernels::broadcast::add_to;
use gatefold_tensor::kernels::folded::Correlations;
use gatefold_tensor::kernels::pending::{GradSums, MaskedGrad, Pending, PendingGrad, Rectifier};
use gatefold_tensor::{Error, Real, Result, Tensor};

use crate::var::{SiteValue, SumValue};

/// A gradient, as far as its contributions have come in: made, or [pending](gatefold_tensor::kernels::pending).
pub struct Gradient<T: Real> {
    /// ∂L/∂y.
    plain: Option<Tensor<T>>,
    /// From those who read the value pending: behind the rectifier, summed up for the batch norm, (pend.2).
    masked: Option<MaskedGrad<T>>,
    /// From a batch norm: still to be scaled and shifted, (pend.3).
    through: Option<PendingGrad<T>>,
    /// What the only consumer of a map that was never made has gathered for its maker.
    gathered: Option<Gathered<T>>,
}

enum Gathered<T: Real> {
    /// For a folded site.
    Correlations(Correlations<T>),
    /// For each of the maps that meet.
    Sums(Vec<GradSums>),
}

impl<T: Real> Gradient<T> {
    /// A gradient that is made.
    pub fn plain(dy: Tensor<T>) -> Self {
        Gradient { plain: Some(dy), ..Self::nothing() }
    }

    /// From a batch norm.
    pub fn through(dy: PendingGrad<T>) -> Self {
        Gradient { through: Some(dy), ..Self::nothing() }
    }

    fn nothing() -> Self {
        Gradient { plain: None, masked: None, through: None, gathered: None }
    }

    /// From a consumer of `map`, which has nothing to mask where nothing is pending.
    pub(crate) fn of_consumer(map: &Pending<T>, gradient: MaskedGrad<T>) -> Self {
        if map.is_plain() {
            return Gradient::plain(gradient.dy);
        }
        Gradient { masked: Some(gradient), ..Self::nothing() }
    }

    /// From a consumer of a folded site's output, behind the site's rectifier.
    pub(crate) fn of_site(dy: Tensor<T>, rectifier: Rectifier, correlations: Correlations<T>) -> Self {
        Gradient { gathered: Some(Gathered::Correlations(correlations)), ..Self::behind(rectifier, dy) }
    }

    /// From the consumer of maps that meet, behind their rectifier, with the sums of each.
    pub(crate) fn of_sum(dy: Tensor<T>, rectifier: Rectifier, sums: Vec<GradSums>) -> Self {
        Gradient { gathered: Some(Gathered::Sums(sums)), ..Self::behind(rectifier, dy) }
    }

    fn behind(rectifier: Rectifier, dy: Tensor<T>) -> Self {
        if rectifier == Rectifier::Identity {
            Gradient::plain(dy)
        } else {
            Gradient { masked: Some(MaskedGrad { dy, sums: Default::default() }), ..Self::nothing() }
        }
    }

    /// Adds another contribution.
    pub(crate) fn add(&mut self, other: Gradient<T>) -> Result<()> {
        self.gathered = None; // of one contribution, not of their sum
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

    /// What the consumers of a pending map have sent back together.
    pub(crate) fn take_masked(&mut self) -> Option<MaskedGrad<T>> {
        let masked = self.masked.take()?;
        self.gathered = None; // of what was taken
        Some(masked)
    }

    fn add_plain(&mut self, gradient: Tensor<T>) -> Result<()> {
        match &mut self.plain {
            Some(sum) => add_to(sum, &gradient),
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

    /// For the folded site that gave `site`: behind the rectifier, and what a pass over it would gather, if its consumer
    /// has done so. The map itself is made only where its rectifier has yet to mask something.
    ///
    /// # Errors
    /// As [`into_masked`](Self::into_masked).
    pub(crate) fn into_site(mut self, site: &SiteValue<T>) -> Result<(PendingGrad<T>, Option<Correlations<T>>)> {
        let correlations = match self.gathered.take() {
            Some(Gathered::Correlations(correlations)) => Some(correlations),
            _ => None,
        };
        let dy = match self {
            Gradient { plain: None, through: None, masked: Some(masked), .. } => PendingGrad::plain(masked.dy),
            rest if site.rectifier() == Rectifier::Identity => rest.into_pending()?,
            rest => PendingGrad::plain(rest.into_masked(&site.pending())?.dy),
        };
        Ok((dy, correlations))
    }

    /// For the maps that met in `sum`: behind its rectifier, and their sums, if the consumer has gathered them.
    ///
    /// # Errors
    /// As [`into_masked`](Self::into_masked).
    pub(crate) fn into_sum(mut self, sum: &SumValue<T>) -> Result<(Tensor<T>, Option<Vec<GradSums>>)> {
        let sums = match self.gathered.take() {
            Some(Gathered::Sums(sums)) => Some(sums),
            _ => None,
        };
        let dy = match self {
            Gradient { plain: None, through: None, masked: Some(masked), .. } => masked.dy,
            rest if sum.source().rectifier() == Rectifier::Identity => rest.into_plain()?,
            rest => rest.into_masked(&sum.pending())?.dy,
        };
        Ok((dy, sums))
    }
}
