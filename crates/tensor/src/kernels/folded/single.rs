//! The case without a branch: a pointwise convolution and its batch norm as one affine map, known before the first pixel.
//! ```text
//! s = γ / √(diag(W C Wᵀ) + ε),    y = diag(s) W (x − μ 1ᵀ) + β 1ᵀ      (ft.9)
//! ```
//! (ft.1), (ft.7) and (ft.8) for the bypass alone: D_0 is dM, and the gradient of μ is zero.

use super::backward::layer_grads;
use super::moments::MomentsGrad;
use super::saved::Scale;
use super::{Correlations, Layer, LayerGrads, PendingSite, Sizes, check_moments, tensor, to_f64};
use crate::aligned::Aligned;
use crate::kernels::batch_norm::BatchStats;
use crate::kernels::pending::{Pending, PendingGrad, Rectifier};
use crate::kernels::tile::{panel, panel_row, transposed_panel};
use crate::{Real, Result, Tensor};

/// The output of a convolution with its batch norm and what its gradients need.
#[derive(Debug)]
pub struct Single<T: Real> {
    /// y `[N,Cout,H,W]`, rectified where it is made.
    pub y: PendingSite<T>,
    /// The batch statistics of the batch norm.
    pub stats: BatchStats<T>,
    scale: Scale,
    /// diag(s) W `[Cout, C]`.
    scaled: Vec<T>,
    s: Sizes,
}

/// A convolution's output with its batch norm in training, (ft.9), pending. `moments` are those of `x` over the batch; the
/// rectifier is applied to `y` as it is made.
///
/// # Shapes
/// `x [N,Cin,H,W]`, W `[Cout,Cin,1,1]` → `y [N,Cout,H,W]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the shapes disagree; [`Error::Invalid`](crate::Error::Invalid) if a channel has a
/// single value, which has no variance.
pub fn single_forward<T: Real>(
    x: &Pending<T>,
    moments: &Tensor<T>,
    layer: &Layer<'_, T>,
    rectifier: Rectifier,
) -> Result<Single<T>> {
    const OP: &str = "folded";
    let ([n, c, h, w], [o, ..]) = (x.z.dims(OP, "x")?, layer.weight.dims::<4>(OP, "W")?);
    layer.check(OP, "W", [o, c])?;
    let s = Sizes { samples: 1, positions: n * h * w, c, o, m: 0 };
    check_moments(OP, &s, moments)?;
    s.check_count(OP)?;
    let (mu, cov) = moments.as_slice().split_at(c);
    let scale = Scale::of(layer, &to_f64(mu), &to_f64(cov));
    let weights = layer.weight.as_slice().iter().enumerate();
    let scaled: Vec<T> = weights.map(|(at, w)| T::of(scale.s[at / c] * w.f64())).collect();
    let maps = on_whole_lines([1, c, panel_row(o)], &transposed_panel(&scaled, o, c));
    let shifts = on_whole_lines([1, 1, panel_row(o)], &panel(layer.beta.as_slice(), o));
    let y = PendingSite::of(x, moments, [maps, shifts], rectifier, s)?;
    Ok(Single { y, stats: scale.stats(s.count())?, scale, scaled, s })
}

/// A panel as a tensor, whose memory begins at a line of the cache, as vectors are loaded from it.
fn on_whole_lines<T: Real>(shape: [usize; 3], panel: &Aligned<T>) -> Tensor<T> {
    let mut copy = Tensor::any(shape);
    copy.as_mut_slice().copy_from_slice(panel);
    copy
}

/// All gradients of [`single_forward`] but the map's own, as for a [whole site](super::FoldedGrads).
#[derive(Debug)]
pub struct SingleGrads<T: Real> {
    /// Of the moments, `[1, C + C·C]`.
    pub moments: Tensor<T>,
    /// Of the convolution and its batch norm.
    pub layer: LayerGrads<T>,
    /// What is left to be done for the map.
    pub map: MomentsGrad<T>,
}

/// The gradients of [`single_forward`], as [`folded_backward`](super::folded_backward) gives those of a site.
///
/// # Errors
/// As [`folded_backward`](super::folded_backward).
pub fn single_backward<T: Real>(
    layer: &Layer<'_, T>,
    single: &Single<T>,
    dy: PendingGrad<T>,
    correlations: Option<Correlations<T>>,
) -> Result<SingleGrads<T>> {
    let Single { y, scale, scaled, s, .. } = single;
    let (c, row) = (s.c, panel_row(s.c));
    layer.check("folded_backward", "W", [s.o, c])?;
    let correlations = Correlations::given_or_of(correlations, y, &dy, s)?;
    let of = correlations.of_sample(0);
    let dm: Vec<f64> = of.dm.chunks_exact(row).flat_map(|dm| to_f64(&dm[..c])).collect();
    let mut dcov = vec![0.0; c * c];
    let layer = layer_grads(layer, scale, &dm, &of.g, &mut dcov)?;
    let mut drift = Aligned::zeros(row);
    for (scaled, g) in scaled.chunks_exact(c).zip(&of.g) {
        drift.iter_mut().zip(scaled).for_each(|(drift, w)| *drift += T::of(w.f64() * g));
    }
    let maps = on_whole_lines([1, s.o, row], &panel(scaled, c));
    let of_moments: Vec<f64> = std::iter::repeat_n(0.0, c).chain(dcov).collect();
    Ok(SingleGrads { moments: tensor(&[1, c + c * c], &of_moments)?, layer, map: MomentsGrad { dy, maps, drift } })
}
