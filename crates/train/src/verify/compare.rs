//! The comparison itself: both networks over the same images, site by site and end to end.

use gatefold_autograd::Var;
use gatefold_layers::{Activation, Cx, Site, SiteSpec};
use gatefold_models::Network;
use gatefold_tensor::{Error, Real, Tensor};

use super::{Comparison, Figure, SiteFigures};
use crate::Result;

/// Compares `a` and `b` in evaluation mode over batches of images.
///
/// # Errors
/// [`Error::Invalid`] if the networks do not have the same sites, and if there are no images; else as the batches, and if
/// an image does not fit.
pub fn compare<T: Real>(
    a: &dyn Network<T>,
    b: &dyn Network<T>,
    batches: impl IntoIterator<Item = Result<Tensor<T>>>,
) -> Result<Comparison> {
    same_places(&a.sites(), &b.sites())?;
    let sites: Vec<_> = a.sites().into_iter().zip(b.sites()).map(|((path, a), (_, b))| (path, a, b)).collect();
    let empty = |path: &String| SiteFigures { path: path.clone(), border: None, interior: None };
    let mut comparison = Comparison {
        images: 0,
        sites: sites.iter().map(|(path, ..)| empty(path)).collect(),
        logits: Figure::default(),
        top1_equal: 0,
    };
    for images in batches {
        let x = Var::constant(images?);
        let pass = Pass::of(a, &x)?;
        let logits_b = b.forward(&Cx::eval(), &x)?;
        let (logits_a, logits_b) = (pass.logits.value(), logits_b.value());
        if logits_a.shape() != logits_b.shape() {
            let expected = format!("{:?}, as of A", logits_a.shape());
            return Err(Error::shape("verify", "logits of B", expected, logits_b.shape()).into());
        }
        let difference = logits_a.max_abs_diff(logits_b)?;
        comparison.logits.widen(difference.f64(), logits_a.max_abs().f64());
        comparison.images += x.shape()[0];
        comparison.top1_equal += top1_equal(logits_a, logits_b);
        for ((path, site_a, site_b), figures) in sites.iter().zip(&mut comparison.sites) {
            let input = pass.input(path)?;
            let (y_a, y_b) = (input.output(*site_a)?, input.output(*site_b)?);
            widen_site(figures, site_a.spec(), input.x.shape(), &y_a, &y_b)?;
        }
    }
    if comparison.images == 0 {
        return Err(Error::invalid("verify", "there are no images to compare over: at least 1 is needed").into());
    }
    Ok(comparison)
}

/// What a site reads: its map, and what the sites of its block share, if they do.
#[derive(Clone)]
pub(super) struct Input<T: Real> {
    pub x: Var<T>,
    pub shared: Option<Var<T>>,
}

impl<T: Real> Input<T> {
    /// What a site puts out in evaluation mode, before the activation.
    pub fn output(&self, site: &dyn Site<T>) -> Result<Tensor<T>> {
        let cx = Cx::eval();
        let run = || site.forward(&cx, &self.x, Activation::Identity);
        let y = match &self.shared {
            Some(shared) => cx.sharing(shared.clone(), run),
            None => run(),
        };
        Ok(y?.value().clone())
    }

    /// Of the i-th image alone.
    pub fn image(&self, i: usize) -> Result<Self> {
        let shared = self.shared.as_ref().map(|shared| shared.narrow(0, i, 1)).transpose()?;
        Ok(Input { x: self.x.narrow(0, i, 1)?, shared })
    }
}

/// A forward pass: its logits, and the input of every site as plain values, so that both networks read the same ones.
pub(super) struct Pass<T: Real> {
    logits: Var<T>,
    inputs: Vec<(String, Var<T>)>,
    /// What the sites below a path share.
    shared: Vec<(String, Var<T>)>,
}

impl<T: Real> Pass<T> {
    pub(super) fn of(network: &dyn Network<T>, images: &Var<T>) -> Result<Self> {
        let (mut inputs, mut shared) = (Vec::new(), Vec::new());
        let cx = Cx::eval().observed(|path, x, y| {
            inputs.push((path.to_owned(), Var::constant(x.value().clone())));
            if let Some(block) = path.strip_suffix("shared") {
                shared.push((block.to_owned(), Var::constant(y.value().clone())));
            }
        });
        let logits = network.forward(&cx, images)?;
        drop(cx);
        Ok(Pass { logits, inputs, shared })
    }

    pub(super) fn input(&self, path: &str) -> Result<Input<T>> {
        let input = self.inputs.iter().find(|(of, _)| of == path).map(|(_, x)| x.clone());
        let message = || format!("site `{path}` does not take part in the forward pass");
        let x = input.ok_or_else(|| Error::invalid("verify", message()))?;
        let shared = self.shared.iter().find(|(block, _)| path.starts_with(block)).map(|(_, values)| values.clone());
        Ok(Input { x, shared })
    }
}

/// Two networks can be compared site by site if they have the same sites in the same order.
fn same_places<T: Real>(a: &[(String, &dyn Site<T>)], b: &[(String, &dyn Site<T>)]) -> Result<()> {
    let not_the_same = |what: String| Err(Error::invalid("verify", format!("not the same network: {what}")).into());
    for ((path_a, site_a), (path_b, site_b)) in a.iter().zip(b) {
        if path_a != path_b {
            return not_the_same(format!("A has a site `{path_a}` where B has `{path_b}`"));
        }
        // Whether a site may be replaced is the backbone's business; the function does not depend on it.
        let place = |site: &dyn Site<T>| SiteSpec { replaceable: true, ..*site.spec() };
        if place(*site_a) != place(*site_b) {
            return not_the_same(format!("site `{path_a}` is {} in A and {} in B", site_a.spec(), site_b.spec()));
        }
    }
    if a.len() != b.len() {
        return not_the_same(format!("A has {} sites and B {}", a.len(), b.len()));
    }
    Ok(())
}

/// The class that each row of logits names first.
pub fn classes<T: Real>(logits: &Tensor<T>) -> Vec<usize> {
    let best = |row: &[T]| (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
    rows(logits).map(best).collect()
}

fn rows<T: Real>(logits: &Tensor<T>) -> impl Iterator<Item = &[T]> {
    logits.as_slice().chunks_exact(logits.shape().last().copied().unwrap_or(1).max(1))
}

fn top1_equal<T: Real>(a: &Tensor<T>, b: &Tensor<T>) -> usize {
    let named = |row: &[T]| !row.iter().any(|v| v.is_nan());
    let pairs = classes(a).into_iter().zip(classes(b)).zip(rows(a).zip(rows(b)));
    pairs.filter(|((a, b), (row_a, row_b))| a == b && named(row_a) && named(row_b)).count()
}

pub(super) fn widen_site<T: Real>(
    figures: &mut SiteFigures,
    spec: &SiteSpec,
    x: &[usize],
    a: &Tensor<T>,
    b: &Tensor<T>,
) -> Result<()> {
    if a.shape() != b.shape() {
        return Err(Error::shape("verify", "y of B", format!("{:?}, as of A", a.shape()), b.shape())
            .in_layer(&figures.path)
            .into());
    }
    let [_, c, oh, ow] = a.dims("verify", "y")?;
    let scale = a.max_abs().f64();
    let (rows, columns) = (reaches_padding(spec, x[2], oh), reaches_padding(spec, x[3], ow));
    let (mut border, mut interior) = (None::<f64>, None::<f64>);
    let pixels = a.as_slice().chunks_exact(c).zip(b.as_slice().chunks_exact(c));
    for (pixel, (a, b)) in pixels.enumerate() {
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
// ANCHOR: reaches_padding
fn reaches_padding(spec: &SiteSpec, extent: usize, outputs: usize) -> Vec<bool> {
    let reach = spec.dilation * (spec.kernel - 1);
    let outside = |i: usize| i * spec.stride < spec.padding || i * spec.stride + reach >= extent + spec.padding;
    (0..outputs).map(outside).collect()
}
// ANCHOR_END: reaches_padding

#[cfg(test)]
mod tests {
    use super::super::testing::{AnyNetwork, AnySite};
    use super::*;

    fn pointwise(factor: f64) -> AnySite {
        AnySite::new(SiteSpec::pointwise(1, 1), move |x| x.map(|x| factor * x))
    }

    fn network(sites: Vec<AnySite>) -> AnyNetwork {
        // Two logits: the first pixel and its negative.
        AnyNetwork::new(sites, |y| {
            Tensor::from_fn([y.shape()[0], 2], |i| if i[1] == 0 { 1.0 } else { -1.0 } * y.view()[[i[0], 0, 0, 0]])
        })
    }

    /// Batches of images of 1 x 1 x 2.
    fn batches(of: &[&[f64]]) -> Vec<Result<Tensor<f64>>> {
        of.iter().map(|batch| Ok(Tensor::from_vec([batch.len() / 2, 1, 1, 2], batch.to_vec()).unwrap())).collect()
    }

    #[test]
    fn border_positions_are_those_whose_kernel_reaches_into_the_padding() {
        let border = |spec: SiteSpec, extent: usize| {
            let outputs = spec.output([extent, extent]).unwrap()[0];
            reaches_padding(&spec, extent, outputs).into_iter().map(|at| if at { 'b' } else { '.' }).collect::<String>()
        };
        assert_eq!(border(SiteSpec::pointwise(1, 1), 4), "....");
        assert_eq!(border(SiteSpec::same(1, 1, 3, 1), 5), "b...b");
        assert_eq!(border(SiteSpec::same(1, 1, 5, 1), 7), "bb...bb");
        assert_eq!(border(SiteSpec::same(1, 1, 3, 1), 2), "bb");
        // Stride 2 on an even map never reaches the padding behind it, on an odd one it does.
        assert_eq!(border(SiteSpec::same(1, 1, 3, 2), 8), "b...");
        assert_eq!(border(SiteSpec::same(1, 1, 3, 2), 7), "b..b");
        assert_eq!(border(SiteSpec { dilation: 2, padding: 2, ..SiteSpec::same(1, 1, 3, 1) }, 7), "bb...bb");
        assert_eq!(border(SiteSpec { padding: 0, ..SiteSpec::same(1, 1, 3, 1) }, 5), "...");
    }

    #[test]
    fn a_difference_is_counted_where_it_stands() {
        let spec = SiteSpec::same(1, 2, 3, 1);
        let a = Tensor::from_fn([2, 2, 4, 5], |_| 4.0);
        // Of the second image, second channel: one position at the border, one inside.
        let b = Tensor::from_fn([2, 2, 4, 5], |i| match i {
            [1, 1, 2, 0] => 4.5,
            [1, 1, 2, 1] => 3.75,
            _ => 4.0,
        });
        let mut figures = SiteFigures { path: "x".to_owned(), border: None, interior: None };
        widen_site(&mut figures, &spec, &[2, 1, 4, 5], &a, &b).unwrap();
        assert_eq!(figures.border, Some(Figure { difference: 0.5, scale: 4.0, ratio: 0.125 }));
        assert_eq!(figures.interior, Some(Figure { difference: 0.25, scale: 4.0, ratio: 0.0625 }));
    }

    #[test]
    fn the_scale_is_as_largest_output_over_all_images() {
        let (a, b) = (network(vec![pointwise(1.0)]), network(vec![pointwise(1.5)]));
        let comparison = compare(&a, &b, batches(&[&[1.0, -2.0, 0.5, 0.0], &[0.25, 8.0]])).unwrap();
        assert_eq!(comparison.images, 3);
        assert_eq!(comparison.sites[0].interior, Some(Figure { difference: 4.0, scale: 8.0, ratio: 0.5 }));
        assert_eq!(comparison.sites[0].border, None);
        assert_eq!(comparison.logits, Figure { difference: 0.5, scale: 1.0, ratio: 0.5 });
    }

    #[test]
    fn each_site_gets_as_input_and_the_logits_their_own() {
        let a = network(vec![pointwise(1.0), pointwise(3.0)]);
        let b = network(vec![pointwise(2.0), pointwise(3.0)]);
        let comparison = compare(&a, &b, batches(&[&[1.0, 1.0]])).unwrap();
        assert_eq!(comparison.site("0").unwrap().worst(), 1.0);
        assert_eq!(comparison.site("1").unwrap().worst(), 0.0);
        assert_eq!(comparison.logits, Figure { difference: 3.0, scale: 3.0, ratio: 1.0 });
    }

    #[test]
    fn top1_counts_the_images_for_which_both_name_the_same_class() {
        let (a, b) = (network(vec![pointwise(1.0)]), network(vec![pointwise(-1.0)]));
        let images = || batches(&[&[1.0, 0.0, -1.0, 0.0], &[3.0, 0.0]]);
        assert_eq!(compare(&a, &a, images()).unwrap().top1_equal, 3);
        assert_eq!(compare(&a, &b, images()).unwrap().top1_equal, 0);
        assert_eq!(classes(&Tensor::from_vec([2, 3], vec![1.0, 3.0, 2.0, 5.0, 5.0, 4.0]).unwrap()), [1, 0]);
    }

    #[test]
    fn a_nan_in_b_is_a_figure_that_never_passes() {
        let a = network(vec![pointwise(1.0)]);
        let broken = || AnySite::new(SiteSpec::pointwise(1, 1), |x| x.map(|x| if x == 2.0 { f64::NAN } else { x }));
        let comparison = compare(&a, &network(vec![broken()]), batches(&[&[2.0, 1.0, 1.0, 1.0], &[1.0, 1.0]])).unwrap();
        assert!(comparison.worst_site().is_nan() && !comparison.logits.within(f64::INFINITY));
        assert_eq!(comparison.top1_equal, 2);
    }

    fn refusal(a: &AnyNetwork, b: &AnyNetwork, images: Vec<Result<Tensor<f64>>>) -> String {
        compare(a, b, images).unwrap_err().to_string()
    }

    #[test]
    fn other_sites_are_another_network() {
        let images = || batches(&[&[1.0, 1.0]]);
        let a = network(vec![pointwise(1.0)]);
        let more = network(vec![pointwise(1.0), pointwise(1.0)]);
        assert!(refusal(&a, &more, images()).contains("A has 1 sites and B 2"));
        let other = network(vec![AnySite::new(SiteSpec::same(1, 1, 3, 1), Tensor::clone)]);
        let why = refusal(&a, &other, images());
        assert!(why.contains("site `0` is 1x1 1 -> 1 in A and 3x3 1 -> 1"), "{why}");
        // Whether a site may be replaced is no part of the function.
        let fixed = network(vec![AnySite::new(SiteSpec::pointwise(1, 1).fixed(), Tensor::clone)]);
        assert!(compare(&a, &fixed, images()).is_ok());
    }

    #[test]
    fn other_shapes_are_errors() {
        let images = || batches(&[&[1.0, 1.0]]);
        let a = network(vec![pointwise(1.0)]);
        let more_classes = AnyNetwork::new(vec![pointwise(1.0)], |y| Tensor::zeros([y.shape()[0], 3]));
        assert!(refusal(&a, &more_classes, images()).contains("logits of B"));
        let narrow = AnyNetwork::new(
            vec![AnySite::new(SiteSpec::pointwise(1, 1), |x| Tensor::zeros([x.shape()[0], 1, 1, 1]))],
            |y| Tensor::zeros([y.shape()[0], 2]),
        );
        let why = refusal(&a, &narrow, images());
        assert!(why.contains("y of B") && why.contains('0'), "{why}");
    }

    #[test]
    fn nothing_to_compare_over_is_an_error() {
        let a = network(vec![pointwise(1.0)]);
        assert!(refusal(&a, &a, Vec::new()).contains("no images"));
        assert!(refusal(&a, &a, batches(&[&[]])).contains("no images"));
    }
}
