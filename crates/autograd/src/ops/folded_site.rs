//! A site of three pointwise convolutions and their batch norms, or of one, as one affine map (ft.1 to ft.9). Two ops on the
//! tape: the moments of the map, of which the gates are made too, and the site. The site's backward pass leaves the map's gradient
//! to the moments', which comes later in the sweep and knows what everybody else wants of them.

use std::cell::RefCell;
use std::rc::Rc;

use gatefold_tensor::kernels::folded::{
    Folded, Layer, LayerGrads, MomentsGrad, Single, Site, folded_backward, folded_forward, sample_moments,
    sample_moments_backward, single_backward, single_forward,
};
use gatefold_tensor::kernels::pending::{Pending, Rectifier};
use gatefold_tensor::{Error, Real, Result, Tensor};

use crate::var::{SiteValue, Value};
use crate::{BatchNormStats, Gradient, Op, Sink, Tape, Var};

/// Mean and covariance of a map, sample by sample, and the map itself.
pub struct SampleMoments<T: Real> {
    map: Pending<T>,
    moments: Var<T>,
    left: Left<T>,
}

/// The batch statistics of the bypass, W_1 and W_2; `None` where there is no bypass.
pub type SiteStats<T> = [Option<BatchNormStats<T>>; 3];

/// What the site leaves to be done for the map's gradient.
type Left<T> = Rc<RefCell<Option<MomentsGrad<T>>>>;

/// A convolution of the site with its batch norm.
#[derive(Clone)]
pub struct SiteLayer<T: Real> {
    /// W `[rows, columns, 1, 1]`.
    pub weight: Var<T>,
    /// γ `[rows]`.
    pub gamma: Var<T>,
    /// β `[rows]`.
    pub beta: Var<T>,
    /// ε.
    pub eps: f64,
}

impl<T: Real> SiteLayer<T> {
    fn vars(&self) -> [Option<&Var<T>>; 3] {
        [Some(&self.weight), Some(&self.gamma), Some(&self.beta)]
    }

    fn values(&self) -> LayerValues<T> {
        LayerValues {
            weight: self.weight.value().clone(),
            gamma: self.gamma.value().clone(),
            beta: self.beta.value().clone(),
            eps: self.eps,
        }
    }
}

/// The values of a layer's parameters.
struct LayerValues<T: Real> {
    weight: Tensor<T>,
    gamma: Tensor<T>,
    beta: Tensor<T>,
    eps: f64,
}

impl<T: Real> LayerValues<T> {
    fn layer(&self) -> Layer<'_, T> {
        Layer { weight: &self.weight, gamma: &self.gamma, beta: &self.beta, eps: self.eps }
    }
}

/// The moments of a map.
struct SampleMomentsOp<T: Real> {
    map: Pending<T>,
    moments: Tensor<T>,
    left: Left<T>,
}

impl<T: Real> Op<T> for SampleMomentsOp<T> {
    fn name(&self) -> &'static str {
        "sample_moments"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        let left = self.left.borrow_mut().take();
        let of_map = sample_moments_backward(&self.map, &self.moments, &dy, left.as_ref())?;
        dx.add_masked(0, &self.map, of_map)
    }
}

/// The site.
struct FoldedSite<T: Real> {
    layers: [Option<LayerValues<T>>; 3],
    folded: Folded<T>,
    y: SiteValue<T>,
    left: Left<T>,
}

// ANCHOR: folded_site
impl<T: Real> Op<T> for FoldedSite<T> {
    fn name(&self) -> &'static str {
        "folded_site"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        self.backward_pending(Gradient::plain(dy), dx)
    }

    fn backward_pending(self: Box<Self>, dy: Gradient<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        let FoldedSite { layers, folded, y, left } = *self;
        let (dy, correlations) = dy.into_site(&y)?;
        let grads = folded_backward(&site(&layers), &folded, dy, correlations)?;
        if dx.wants(0) {
            leave(&left, grads.map)?;
        }
        dx.add(0, grads.moments)?;
        if dx.wants(1) {
            dx.add(1, grads.a)?;
        }
        for (i, layer) in grads.layers.into_iter().enumerate() {
            if let Some(layer) = layer {
                add_layer(dx, 2 + 3 * i, layer)?;
            }
        }
        Ok(())
    }
}
// ANCHOR_END: folded_site

/// Leaves the map's gradient to the moments'.
fn leave<T: Real>(left: &Left<T>, map: MomentsGrad<T>) -> Result<()> {
    match left.replace(Some(map)) {
        None => Ok(()),
        Some(_) => Err(Error::invalid("folded_site", "two sites read the moments of one map; each needs its own")),
    }
}

/// Adds the gradients of a layer whose parameters are the inputs from `first` on.
fn add_layer<T: Real>(dx: &mut Sink<'_, T>, first: usize, layer: LayerGrads<T>) -> Result<()> {
    for (i, gradient) in [layer.weight, layer.gamma, layer.beta].into_iter().enumerate() {
        dx.add(first + i, gradient)?;
    }
    Ok(())
}

/// A convolution and its batch norm.
struct SingleSite<T: Real> {
    layer: LayerValues<T>,
    single: Single<T>,
    y: SiteValue<T>,
    left: Left<T>,
}

impl<T: Real> Op<T> for SingleSite<T> {
    fn name(&self) -> &'static str {
        "single_site"
    }

    fn backward(self: Box<Self>, dy: Tensor<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        self.backward_pending(Gradient::plain(dy), dx)
    }

    fn backward_pending(self: Box<Self>, dy: Gradient<T>, dx: &mut Sink<'_, T>) -> Result<()> {
        let SingleSite { layer, single, y, left } = *self;
        let (dy, correlations) = dy.into_site(&y)?;
        let grads = single_backward(&layer.layer(), &single, dy, correlations)?;
        if dx.wants(0) {
            leave(&left, grads.map)?;
        }
        dx.add(0, grads.moments)?;
        add_layer(dx, 1, grads.layer)
    }
}

fn site<T: Real>([bypass, first, second]: &[Option<LayerValues<T>>; 3]) -> Site<'_, T> {
    fn layer<T: Real>(of: &Option<LayerValues<T>>) -> Layer<'_, T> {
        of.as_ref().expect("the branch is there").layer()
    }
    Site { bypass: bypass.as_ref().map(LayerValues::layer), first: layer(first), second: layer(second) }
}

impl<T: Real> Var<T> {
    /// Mean and covariance of a map over its positions, for each sample or for the batch as one.
    ///
    /// # Errors
    /// As [`sample_moments`].
    pub fn sample_moments(&self, per_sample: bool) -> Result<SampleMoments<T>> {
        let map = self.pending();
        let moments = sample_moments(&map, per_sample)?;
        let left = Left::default();
        let op = || SampleMomentsOp { map: map.clone(), moments: moments.clone(), left: Rc::clone(&left) };
        let moments = Tape::record(moments.clone(), &[Some(self)], op);
        Ok(SampleMoments { map, moments, left })
    }
}

impl<T: Real> SampleMoments<T> {
    /// The means, `[N, C]` or `[1, C]`: the global average pool.
    ///
    /// # Errors
    /// None that a map with moments could cause.
    pub fn mean(&self) -> Result<Var<T>> {
        self.moments.narrow(1, 0, self.map.z.shape()[1])
    }

    /// Means and covariances, `[N, C + C·C]` or `[1, C + C·C]`.
    pub fn all(&self) -> Var<T> {
        self.moments.clone()
    }

    /// The site's output in training, rectified, and the batch statistics of its three batch norms, (ft.1) to (ft.7). A
    /// depthwise convolution behind it reads it without its being made.
    /// `layers` are the bypass, if there is one, and the two convolutions of the branch; `a [N, m]` are the gates.
    ///
    /// # Errors
    /// As [`folded_forward`].
    pub fn folded_site(
        &self,
        (bypass, first, second): (Option<&SiteLayer<T>>, &SiteLayer<T>, &SiteLayer<T>),
        a: Option<&Var<T>>,
        rectifier: Rectifier,
    ) -> Result<(Var<T>, SiteStats<T>)> {
        let layers = [bypass.map(SiteLayer::values), Some(first.values()), Some(second.values())];
        let folded = folded_forward(&self.map, self.moments.value(), &site(&layers), a.map(Var::value), rectifier)?;
        let (y, stats) = (SiteValue::new(folded.y.clone()), folded.stats.clone());
        let params = [bypass.map_or([None; 3], SiteLayer::vars), first.vars(), second.vars()];
        let inputs: Vec<_> = [Some(&self.moments), a].into_iter().chain(params.into_iter().flatten()).collect();
        let left = Rc::clone(&self.left);
        let op = || FoldedSite { layers, folded, y: y.clone(), left };
        Ok((Tape::record_pending(Value::Site(y.clone()), &inputs, op), stats))
    }

    /// The output of one convolution with its batch norm in training, rectified, and the batch norm's statistics, (ft.9), from
    /// the moments of the batch; read like that of a whole site.
    ///
    /// # Errors
    /// As [`single_forward`].
    pub fn single_site(&self, layer: &SiteLayer<T>, rectifier: Rectifier) -> Result<(Var<T>, BatchNormStats<T>)> {
        let (values, inputs) = (layer.values(), layer.vars());
        let single = single_forward(&self.map, self.moments.value(), &values.layer(), rectifier)?;
        let (y, stats) = (SiteValue::new(single.y.clone()), single.stats.clone());
        let left = Rc::clone(&self.left);
        let op = || SingleSite { layer: values, single, y: y.clone(), left };
        let inputs: Vec<_> = [Some(&self.moments)].into_iter().chain(inputs).collect();
        Ok((Tape::record_pending(Value::Site(y.clone()), &inputs, op), stats))
    }
}
