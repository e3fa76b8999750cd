//! Whether two networks are the same function: three questions, each with its own figures.
//!
//! *Algebra*: A's weights widened to f64, folded in f64, compared in f64. *Rounding*: B as stored against A, both in A's
//! element type. *Storage*: B as stored, run in f64, against A in f64: the share of the rounding that lies in the file.
//!
//! Per site both networks get A's input of that site; end to end each its own. A figure is max|Δ| over the scale, the
//! largest |y| of A over the images compared. Border positions are those whose kernel reaches into the padding.

use gatefold_autograd::Var;
use gatefold_layers::{Activation, Cx, SiteSpec};
use gatefold_models::Network;
use gatefold_tensor::{Error as TensorError, Real, Result, Tensor};
use serde::Serialize;

/// The largest ratio that counts as equal.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Limits {
    /// Of the algebra, per site and end to end.
    pub algebra: f64,
    /// Of the rounding, per site.
    pub site: f64,
    /// Of the rounding, end to end.
    pub network: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { algebra: 1e-10, site: 1e-5, network: 1e-4 }
    }
}

/// A largest difference, and what it is measured against.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Figure {
    /// max|y_A − y_B|.
    pub difference: f64,
    /// max|y_A|.
    pub scale: f64,
    /// Difference over scale: the tolerance that would just pass. Serialised as null if it is not finite.
    pub ratio: f64,
}

impl Figure {
    /// Takes in more values; a NaN stays.
    fn widen(&mut self, difference: f64, scale: f64) {
        let max = |a: f64, b: f64| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) };
        self.difference = max(self.difference, difference);
        self.scale = max(self.scale, scale);
        self.ratio = if self.difference == 0.0 { 0.0 } else { self.difference / self.scale };
    }

    /// Whether the ratio is within `limit`; NaN never is.
    pub fn within(&self, limit: f64) -> bool {
        self.ratio <= limit
    }
}

/// A site's figures, apart for border and interior.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SiteFigures {
    /// The site's path.
    pub path: String,
    /// Positions whose kernel reaches into the padding; `None` where none does, as in every 1x1 site.
    pub border: Option<Figure>,
    /// All other positions; `None` where there are none.
    pub interior: Option<Figure>,
}

impl SiteFigures {
    /// The worse of border and interior.
    pub fn worst(&self) -> f64 {
        [self.border, self.interior].into_iter().flatten().fold(0.0, |worst, figure| {
            if worst <= figure.ratio || figure.ratio.is_nan() { figure.ratio } else { worst }
        })
    }
}

/// Two networks compared over a number of images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Images compared.
    pub images: usize,
    /// Every site, in the order of the forward pass.
    pub sites: Vec<SiteFigures>,
    /// The logits, end to end.
    pub logits: Figure,
    /// Images for which both networks name the same class first.
    pub top1_equal: usize,
}

impl Comparison {
    /// The first site beyond `limit`.
    pub fn first_beyond(&self, limit: f64) -> Option<&SiteFigures> {
        self.sites.iter().find(|site| site.worst() > limit || site.worst().is_nan())
    }
}

/// Compares `a` and `b` in evaluation mode over batches of images.
///
/// # Errors
/// [`TensorError`] if the networks do not have the same sites, or an image does not fit.
pub fn compare<T: Real>(
    a: &dyn Network<T>,
    b: &dyn Network<T>,
    batches: impl IntoIterator<Item = Tensor<T>>,
) -> Result<Comparison> {
    let (sites_a, sites_b) = (a.sites(), b.sites());
    let places = |sites: &[(String, &dyn gatefold_layers::Site<T>)]| -> Vec<_> {
        sites.iter().map(|(path, site)| (path.clone(), SiteSpec { replaceable: true, ..*site.spec() })).collect()
    };
    if places(&sites_a) != places(&sites_b) {
        return Err(TensorError::invalid(
            "verify",
            "A and B do not have the same sites: they are not the same network",
        ));
    }
    let empty = |(path, _): &(String, _)| SiteFigures { path: path.clone(), border: None, interior: None };
    let mut comparison =
        Comparison { images: 0, sites: sites_a.iter().map(empty).collect(), logits: Figure::default(), top1_equal: 0 };
    for images in batches {
        let mut inputs = Vec::new();
        let x = Var::constant(images);
        let cx = Cx::eval().observed(|path, x, _| inputs.push((path.to_owned(), x.clone())));
        let logits_a = a.forward(&cx, &x)?;
        drop(cx);
        let logits_b = b.forward(&Cx::eval(), &x)?;
        let (difference, scale) = (logits_a.value().max_abs_diff(logits_b.value())?, logits_a.value().max_abs());
        comparison.logits.widen(difference.f64(), scale.f64());
        comparison.images += x.shape()[0];
        let top1 = classes(logits_a.value()).into_iter().zip(classes(logits_b.value()));
        comparison.top1_equal += top1.filter(|(a, b)| a == b).count();
        for (((path, site_a), (_, site_b)), figures) in sites_a.iter().zip(&sites_b).zip(&mut comparison.sites) {
            let Some((_, x)) = inputs.iter().find(|(of, _)| of == path) else {
                return Err(TensorError::invalid(
                    "verify",
                    format!("site `{path}` does not take part in the forward pass"),
                ));
            };
            let y_a = site_a.forward(&Cx::eval(), x, Activation::Identity)?;
            let y_b = site_b.forward(&Cx::eval(), x, Activation::Identity)?;
            widen_site(figures, site_a.spec(), x.shape(), y_a.value(), y_b.value())?;
        }
    }
    Ok(comparison)
}

/// The class that each row of logits names first.
pub fn classes<T: Real>(logits: &Tensor<T>) -> Vec<usize> {
    let k = logits.shape().last().copied().unwrap_or(1).max(1);
    let best = |row: &[T]| (0..k).fold(0, |best, i| if row[i] > row[best] { i } else { best });
    logits.as_slice().chunks_exact(k).map(best).collect()
}

fn widen_site<T: Real>(
    figures: &mut SiteFigures,
    spec: &SiteSpec,
    x: &[usize],
    a: &Tensor<T>,
    b: &Tensor<T>,
) -> Result<()> {
    if a.shape() != b.shape() {
        return Err(TensorError::shape("verify", "y of B", format!("{:?}", a.shape()), b.shape()));
    }
    let [n, c, oh, ow] = a.dims("verify", "y")?;
    let scale = a.max_abs().f64();
    let (rows, columns) = (reaches_padding(spec, x[2], oh), reaches_padding(spec, x[3], ow));
    let (mut border, mut interior) = (None::<f64>, None::<f64>);
    let pixels = a.as_slice().chunks_exact(c).zip(b.as_slice().chunks_exact(c));
    for (pixel, (a, b)) in pixels.enumerate().take(n * oh * ow) {
        let at_border = rows[pixel / ow % oh] || columns[pixel % ow];
        let part = if at_border { &mut border } else { &mut interior };
        let worst = part.get_or_insert(0.0);
        for (&a, &b) in a.iter().zip(b) {
            let difference = (a - b).abs().f64();
            if difference > *worst || difference.is_nan() {
                *worst = difference;
            }
        }
    }
    for (figure, difference) in [(&mut figures.border, border), (&mut figures.interior, interior)] {
        if let Some(difference) = difference {
            figure.get_or_insert_default().widen(difference, scale);
        }
    }
    Ok(())
}

/// For each output row (or column) whether its kernel reaches into the padding of an input of `extent` rows.
fn reaches_padding(spec: &SiteSpec, extent: usize, outputs: usize) -> Vec<bool> {
    let reach = spec.dilation * (spec.kernel - 1);
    let outside = |i: usize| i * spec.stride < spec.padding || i * spec.stride + reach >= extent + spec.padding;
    (0..outputs).map(outside).collect()
}

/// The answer, with everything it rests on.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whether every figure is within its limit.
    pub equal: bool,
    /// The limits.
    pub limits: Limits,
    /// A against its own fold, in f64; `None` if A is folded already.
    pub algebra: Option<Comparison>,
    /// A against B as stored.
    pub rounding: Comparison,
    /// A against B as stored, in f64.
    pub storage: Comparison,
    /// Where the networks part first, if they do.
    pub parts_at: Option<PartsAt>,
}

/// Where two networks part, and the likely cause.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartsAt {
    /// The first site beyond its limit, or `logits`.
    pub path: String,
    /// `algebra` or `rounding`.
    pub question: &'static str,
    /// The likely cause, in words.
    pub cause: String,
}

impl Report {
    /// The answer to three comparisons.
    pub fn new(algebra: Option<Comparison>, rounding: Comparison, storage: Comparison, limits: Limits) -> Self {
        let parts_at = (algebra.as_ref())
            .and_then(|algebra| parts_at(algebra, "algebra", limits.algebra, limits.algebra))
            .or_else(|| parts_at(&rounding, "rounding", limits.site, limits.network));
        Report { equal: parts_at.is_none(), limits, algebra, rounding, storage, parts_at }
    }
}

fn parts_at(comparison: &Comparison, question: &'static str, site: f64, network: f64) -> Option<PartsAt> {
    if let Some(figures) = comparison.first_beyond(site) {
        let cause = match (figures.border, figures.interior) {
            (Some(border), Some(interior)) if interior.within(site) && !border.within(site) => {
                "only the border parts: padding and the shift of a batch norm were applied in the wrong order"
            }
            _ => "weights, statistics or gates of this site differ",
        };
        return Some(PartsAt { path: figures.path.clone(), question, cause: cause.to_owned() });
    }
    let cause = "every site agrees on A's inputs: the layers between the sites, or their rounding together, part";
    (!comparison.logits.within(network)).then(|| PartsAt {
        path: "logits".to_owned(),
        question,
        cause: cause.to_owned(),
    })
}
