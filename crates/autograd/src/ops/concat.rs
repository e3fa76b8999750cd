//! Joining along an axis, taking a range of one, and the channel shuffle.

use gatefold_tensor::kernels::concat;
use gatefold_tensor::{Real, Result, Shape, Tensor};

use crate::{Op, Sink, Tape, Var};

/// y = [x₀ | x₁ | …];  dxᵢ is the i-th part of dy.
struct Concat {
    axis: usize,
    extents: Vec<usize>,
}

impl<T: Real> Op<T> for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        let mut start = 0;
        for (i, &extent) in self.extents.iter().enumerate() {
            if dx.wants(i) {
                dx.add(i, concat::narrow(&dy, self.axis, start, extent)?)?;
            }
            start += extent;
        }
        Ok(())
    }
}

/// y = x[start .. start + len] along an axis;  dx is dy there and zero elsewhere.
struct Narrow {
    x: Shape,
    axis: usize,
    start: usize,
}

impl<T: Real> Op<T> for Narrow {
    fn name(&self) -> &'static str {
        "narrow"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        dx.add(0, concat::narrow_backward(&self.x, self.axis, self.start, &dy)?)
    }
}

/// y = the channels of g groups in turn;  dx is dy shuffled by C/g groups, which puts them back.
struct ChannelShuffle {
    back: usize,
}

impl<T: Real> Op<T> for ChannelShuffle {
    fn name(&self) -> &'static str {
        "channel_shuffle"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        dx.add(0, concat::channel_shuffle(&dy, self.back)?)
    }
}

impl<T: Real> Var<T> {
    /// The values one after another along `axis`.
    ///
    /// # Errors
    /// [`gatefold_tensor::Error::Shape`] if another axis differs.
    pub fn concat(parts: &[Var<T>], axis: usize) -> Result<Var<T>> {
        let y = concat::concat(&parts.iter().map(Var::value).collect::<Vec<_>>(), axis)?;
        let inputs: Vec<_> = parts.iter().map(Some).collect();
        Ok(Tape::record(y, &inputs, || Concat { axis, extents: parts.iter().map(|x| x.shape()[axis]).collect() }))
    }

    /// The part of `len` entries from `start` on along `axis`.
    ///
    /// # Errors
    /// [`gatefold_tensor::Error::Shape`] or [`gatefold_tensor::Error::Invalid`] if the range leaves the axis.
    pub fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Var<T>> {
        let y = concat::narrow(self.value(), axis, start, len)?;
        Ok(Tape::record(y, &[Some(self)], || Narrow { x: *self.shape(), axis, start }))
    }

    /// Consecutive parts of the given extents along `axis`, which they must fill.
    ///
    /// # Errors
    /// As [`narrow`](Self::narrow), and if the extents do not add up to the axis.
    pub fn split(&self, axis: usize, extents: &[usize]) -> Result<Vec<Var<T>>> {
        let total: usize = extents.iter().sum();
        if self.shape().get(axis) != Some(&total) {
            let expected = format!("{total} along axis {axis}");
            return Err(gatefold_tensor::Error::shape("split", "x", expected, self.shape()));
        }
        let mut start = 0;
        extents
            .iter()
            .map(|&extent| {
                start += extent;
                self.narrow(axis, start - extent, extent)
            })
            .collect()
    }

    /// The channels of `groups` groups dealt out in turn, `[N,C,H,W]` → the same.
    ///
    /// # Errors
    /// As [`concat::channel_shuffle`].
    pub fn channel_shuffle(&self, groups: usize) -> Result<Var<T>> {
        let y = concat::channel_shuffle(self.value(), groups)?;
        Ok(Tape::record(y, &[Some(self)], || ChannelShuffle { back: self.shape()[1] / groups }))
    }
}
