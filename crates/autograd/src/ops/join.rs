//! Ops that read [pending](gatefold_tensor::kernels::pending) maps: where branches meet, where a gate weighs channels, and
//! the mean of a map.

use gatefold_tensor::kernels::pending::{self, MaskedGrad, Pending, PendingSum, Rectifier};
use gatefold_tensor::{Real, Result, Tensor};

use crate::var::{SumValue, Value};
use crate::{Gradient, Op, Sink, Tape, Var};

/// y = act(Σ a_k), (pend.4);  every map gets dŷ, the gradient behind the rectifier.
struct SumMaps<T: Real> {
    y: SumValue<T>,
}

impl<T: Real> Op<T> for SumMaps<T> {
    fn name(&self) -> &'static str {
        "sum_maps"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        self.backward_pending(Gradient::plain(dy), dx)
    }

    fn backward_pending(self: Box<Self>, dy: Gradient<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        let (dy, mut sums) = dy.into_sum(&self.y)?;
        for (i, map) in self.y.source().maps().iter().enumerate() {
            if !dx.wants(i) {
                continue;
            }
            let of_map = match &mut sums {
                Some(sums) => MaskedGrad { dy: dy.clone(), sums: std::mem::take(&mut sums[i]) },
                None => MaskedGrad::of(map, dy.clone())?,
            };
            dx.add_masked(i, map, of_map)?;
        }
        Ok(())
    }
}

/// y = g ⊙ a, (pend.5).
struct GateMap<T: Real> {
    map: Pending<T>,
    g: Tensor<T>,
}

impl<T: Real> Op<T> for GateMap<T> {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        let (da, dg) = pending::gate_backward(&self.map, &self.g, dy)?;
        dx.add_masked(0, &self.map, da)?;
        dx.add(1, dg)
    }
}

/// y[n,c] = mean over positions;  da spreads dy/(HW).
struct GlobalAvgPool<T: Real> {
    map: Pending<T>,
}

impl<T: Real> Op<T> for GlobalAvgPool<T> {
    fn name(&self) -> &'static str {
        "global_avg_pool"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        let onto = dx.take_masked(0);
        dx.add_masked(0, &self.map, pending::global_avg_pool_backward(&self.map, &dy, onto)?)
    }
}

impl<T: Real> Var<T> {
    /// act(Σ a_k), (pend.4): where the branches of a site or a block meet. On a tape, and with a rectifier, it is left pending: a
    /// depthwise convolution behind it makes what it reads.
    ///
    /// # Shapes
    /// Maps of one shape `[N,C,H,W]` → the same.
    /// # Errors
    /// As [`PendingSum::new`].
    pub fn sum_maps(maps: &[&Var<T>], rectifier: Rectifier) -> Result<Var<T>> {
        let sum = PendingSum::new(maps.iter().map(|map| map.pending()).collect(), rectifier)?;
        let y = SumValue::new(sum);
        let value = match rectifier {
            Rectifier::Identity => Value::Made(y.pending().z),
            _ if maps.iter().any(|map| map.is_recorded()) => Value::Sum(y.clone()),
            _ => Value::from(y.pending()), // pending, it would keep the maps alive
        };
        let inputs: Vec<_> = maps.iter().map(|&map| Some(map)).collect();
        Ok(Tape::record_pending(value, &inputs, || SumMaps { y }))
    }

    /// g ⊙ a, (pend.5): each channel of a map times its gate.
    ///
    /// # Shapes
    /// `[N,C,H,W]`, `g [N,C]` → `[N,C,H,W]`.
    /// # Errors
    /// [`gatefold_tensor::Error::Shape`] if they do not fit.
    pub fn gate(&self, g: &Var<T>) -> Result<Var<T>> {
        let map = self.pending();
        let y = pending::gate(&map, g.value())?;
        Ok(Tape::record(y, &[Some(self), Some(g)], || GateMap { map, g: g.value().clone() }))
    }

    /// The mean over all positions, `[N,C,H,W]` → `[N,C]`.
    ///
    /// # Errors
    /// [`gatefold_tensor::Error::Shape`] if the rank is not 4.
    pub fn global_avg_pool(&self) -> Result<Var<T>> {
        let map = self.pending();
        let y = pending::global_avg_pool(&map)?;
        Ok(Tape::record(y, &[Some(self)], || GlobalAvgPool { map }))
    }
}
