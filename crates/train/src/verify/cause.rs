//! Why two networks part: a short list of checks, from the most telling to the least, the first that speaks is the cause.

use gatefold_autograd::Var;
use gatefold_layers::Site;
use gatefold_models::Network;
use gatefold_tensor::{Real, Tensor};

use super::compare::{Input, Pass};
use super::tensors::{self, State};
use super::{Comparison, PartsAt, Question, SiteFigures};
use crate::Result;
use crate::evaluate::Images;

/// Two networks that were compared, and B's file if there is one.
pub(super) struct Suspects<'a, T: Real> {
    pub a: &'a dyn Network<T>,
    pub b: &'a dyn Network<T>,
    pub stored: Option<Stored<'a>>,
}

/// What B's file holds, in f64, and what it should hold: the tensors of A's fold, or of A if B has A's form.
#[derive(Clone, Copy)]
pub(super) struct Stored<'a> {
    pub b: &'a dyn Network<f64>,
    pub a: &'a dyn Network<f64>,
    pub fold: Option<&'a dyn Network<f64>>,
    /// A against B, both in f64.
    pub comparison: &'a Comparison,
}

impl<'a, T: Real> Suspects<'a, T> {
    /// The first place beyond its limit, if there is one, and the likely cause.
    pub fn parts_at(
        &self,
        comparison: &Comparison,
        question: Question,
        (site, network): (f64, f64),
        images: &Images,
    ) -> Result<Option<PartsAt>> {
        let (path, cause) = if let Some(figures) = comparison.first_beyond(site) {
            (figures.path.as_str(), self.at_site(figures, site, images)?)
        } else if !comparison.logits.within(network) {
            ("logits", self.at_logits(network))
        } else {
            return Ok(None);
        };
        Ok(Some(PartsAt { path: path.to_owned(), question, cause }))
    }

    fn at_site(&self, figures: &SiteFigures, limit: f64, images: &Images) -> Result<String> {
        let Some(evidence) = self.evidence(figures, limit, images)? else {
            return Ok("another run of the same comparison does not part: A or B is not deterministic".to_owned());
        };
        let checks: [fn(&Evidence<'_, T>) -> Cause; 6] =
            [a_not_finite, only_at_the_border, only_rounded, stored_tensors, another_image, permuted];
        for check in checks {
            if let Some(cause) = check(&evidence)? {
                return Ok(cause);
            }
        }
        Ok(match self.stored {
            Some(_) => "B computes this site otherwise, from the tensors of A's own fold",
            None => "A's own fold computes this site otherwise: its formula is not A's",
        }
        .to_owned())
    }

    /// The first batch over which the site is beyond its limit.
    fn evidence(&self, figures: &SiteFigures, limit: f64, images: &Images) -> Result<Option<Evidence<'a, T>>> {
        let (Some(a), Some(b)) = (site(self.a, &figures.path), site(self.b, &figures.path)) else { return Ok(None) };
        let allowed = limit * figures.scale();
        for images in images.batches::<T>()? {
            let pass = Pass::of(self.a, &Var::constant(images?))?;
            let input = pass.input(&figures.path)?;
            let (y_a, y_b) = (input.output(a)?, input.output(b)?);
            if !within(&y_a, &y_b, allowed) {
                return Ok(Some(Evidence {
                    b,
                    input,
                    y_a,
                    y_b,
                    figures: figures.clone(),
                    limit,
                    allowed,
                    stored: self.stored,
                }));
            }
        }
        Ok(None)
    }

    /// Every site is within its limit, the logits are not.
    fn at_logits(&self, limit: f64) -> String {
        if let Some(stored) = self.stored {
            if stored.comparison.logits.within(limit) {
                let ratio = stored.comparison.logits.ratio;
                return format!(
                    "rounding: every site agrees, and in f64 the logits do to {ratio:.1e}; together the sites round more"
                );
            }
            let (expected, given) = (outside_sites(stored.a), outside_sites(stored.b));
            if let Some(cause) = tensors::difference(&expected, &given, "", 1) {
                return cause;
            }
        }
        "every site agrees on A's inputs: the layers between the sites, or their rounding together, part".to_owned()
    }
}

/// The site at `path`.
fn site<'a, T: Real>(network: &'a dyn Network<T>, path: &str) -> Option<&'a dyn Site<T>> {
    network.sites().into_iter().find(|(of, _)| of == path).map(|(_, site)| site)
}

/// The tensors that belong to no site.
fn outside_sites(network: &dyn Network<f64>) -> State {
    let sites: Vec<_> = network.sites().into_iter().map(|(path, _)| format!("{path}.")).collect();
    let outside = |key: &String| !sites.iter().any(|site| key.starts_with(site));
    network.state().into_iter().filter(|(key, _)| outside(key)).collect()
}

/// Whether max|Δ| is at most `allowed`; a NaN never is.
fn within<T: Real>(a: &Tensor<T>, b: &Tensor<T>, allowed: f64) -> bool {
    a.max_abs_diff(b).is_ok_and(|difference| difference.f64() <= allowed)
}

/// What is known of the site at which two networks part.
struct Evidence<'a, T: Real> {
    b: &'a dyn Site<T>,
    /// A's input of a batch over which the site parts, and both outputs.
    input: Input<T>,
    y_a: Tensor<T>,
    y_b: Tensor<T>,
    /// The figures over all images, and the limit that they broke.
    figures: SiteFigures,
    limit: f64,
    /// The largest |Δ| that the limit allows.
    allowed: f64,
    stored: Option<Stored<'a>>,
}

type Cause = Result<Option<String>>;

fn a_not_finite<T: Real>(e: &Evidence<'_, T>) -> Cause {
    let cause = "not finite: A itself puts out a NaN or an infinity here, so its own weights or statistics are broken";
    Ok((!e.y_a.is_finite()).then(|| cause.to_owned()))
}

fn only_at_the_border<T: Real>(e: &Evidence<'_, T>) -> Cause {
    let (Some(border), Some(interior)) = (e.figures.border, e.figures.interior) else { return Ok(None) };
    Ok((interior.within(e.limit) && !border.within(e.limit)).then(|| {
        let (border, interior) = (border.ratio, interior.ratio);
        format!(
            "padding: only the border parts ({border:.1e}, interior {interior:.1e}); padding and the shift of a batch \
             norm were applied in the wrong order"
        )
    }))
}

/// In f64 the same tensors agree.
fn only_rounded<T: Real>(e: &Evidence<'_, T>) -> Cause {
    let in_f64 = e.stored.and_then(|stored| stored.comparison.site(&e.figures.path));
    Ok(in_f64.filter(|figures| figures.within(e.limit)).map(|figures| {
        let ratio = figures.worst();
        format!("rounding: in f64 the stored tensors agree to {ratio:.1e}, only the sums in f32 part")
    }))
}

fn stored_tensors<T: Real>(e: &Evidence<'_, T>) -> Cause {
    let Some(stored) = e.stored else { return Ok(None) };
    let path = e.figures.path.as_str();
    let state = |network| site(network, path).map_or_else(State::new, |site| site.state());
    let given = state(stored.b);
    let forms = stored.fold.into_iter().chain([stored.a]).map(state);
    Ok(match forms.into_iter().find(|expected| tensors::same_form(expected, &given)) {
        Some(expected) => tensors::difference(&expected, &given, path, e.b.spec().groups),
        None => {
            let keys: Vec<_> = given.keys().map(String::as_str).collect();
            Some(format!("another kind of convolution: B holds {} here, neither A's fold nor A does", keys.join(", ")))
        }
    })
}

/// Image by image B agrees, in a batch it does not.
fn another_image<T: Real>(e: &Evidence<'_, T>) -> Cause {
    let [images, ..] = e.input.x.value().dims::<4>("verify", "x")?;
    if images < 2 {
        return Ok(None);
    }
    for i in 0..images {
        let alone = e.input.image(i)?.output(e.b)?;
        if !within(&image(&e.y_a, i)?, &alone, e.allowed) {
            return Ok(None);
        }
    }
    Ok(Some(format!("gate of another image: image by image B agrees with A, in a batch of {images} it does not")))
}

/// The i-th image of a batch, as a batch of one.
fn image<T: Real>(batch: &Tensor<T>, i: usize) -> Result<Tensor<T>> {
    let [n, c, h, w] = batch.dims("verify", "batch")?;
    let size = batch.len() / n;
    Ok(Tensor::from_memory([1, c, h, w], batch.as_slice()[i * size..(i + 1) * size].to_vec())?)
}

/// Every output channel of B is one of A's, but not the one in its place.
fn permuted<T: Real>(e: &Evidence<'_, T>) -> Cause {
    let [_, channels, ..] = e.y_a.dims::<4>("verify", "y")?;
    let pixels = || e.y_a.as_slice().chunks_exact(channels).zip(e.y_b.as_slice().chunks_exact(channels));
    let equal = |of_a: usize, of_b: usize| pixels().all(|(a, b)| (a[of_a] - b[of_b]).abs().f64() <= e.allowed);
    let what = if e.b.spec().groups > 1 { "groups" } else { "channels" };
    Ok(tensors::moved(channels, equal).map(|moved| {
        let (channel, of_a) = moved[0];
        format!("{what} mixed up: B puts out A's channels in another order, channel {channel} is A's {of_a}")
    }))
}

#[cfg(test)]
mod tests {
    use gatefold_layers::{Param, SiteSpec};
    use gatefold_tensor::random::randn;

    use super::super::testing::{AnyNetwork, AnySite, images};
    use super::super::{Figure, compare};
    use super::*;

    const LIMITS: (f64, f64) = (1e-5, 1e-4);
    const PLACE: SiteSpec = SiteSpec {
        cin: 1,
        cout: 4,
        kernel: 1,
        stride: 1,
        padding: 0,
        dilation: 1,
        groups: 2,
        block: 1,
        replaceable: false,
    };

    /// `[N,1,2,3]` → `[N,4,2,3]`: channel c is (c + 1)·x + c.
    fn honest(x: &Tensor<f64>) -> Tensor<f64> {
        let x = x.view();
        Tensor::from_fn([x.shape()[0], 4, 2, 3], |i| (i[1] + 1) as f64 * x[[i[0], 0, i[2], i[3]]] + i[1] as f64)
    }

    fn network(site: AnySite) -> AnyNetwork {
        AnyNetwork::new(vec![site], |y| Tensor::zeros([y.shape()[0], 2]))
    }

    /// Where an honest A and a B whose site computes `b` part.
    fn against(b: impl Fn(&Tensor<f64>) -> Tensor<f64> + 'static) -> Option<PartsAt> {
        let (a, b) = (network(AnySite::new(PLACE, honest)), network(AnySite::new(PLACE, b)));
        parts(&a, &b, None)
    }

    fn parts(a: &AnyNetwork, b: &AnyNetwork, stored: Option<Stored<'_>>) -> Option<PartsAt> {
        let images = images((0..18).map(|i| i * 14).collect());
        let comparison = compare(a, b, images.batches().unwrap()).unwrap();
        Suspects { a, b, stored }.parts_at(&comparison, Question::Rounding, LIMITS, &images).unwrap()
    }

    fn cause(parts_at: Option<PartsAt>) -> String {
        let parts_at = parts_at.expect("they part");
        assert_eq!(parts_at.path, "0");
        parts_at.cause
    }

    #[test]
    fn networks_that_agree_part_nowhere() {
        assert_eq!(against(honest), None);
        assert_eq!(against(|x| honest(x).map(|y| y * (1.0 + 0.9e-5))), None);
    }

    #[test]
    fn a_itself_may_be_broken() {
        let a = network(AnySite::new(PLACE, |x| honest(x).map(|_| f64::NAN)));
        let cause = cause(parts(&a, &network(AnySite::new(PLACE, honest)), None));
        assert!(cause.starts_with("not finite: A itself"), "{cause}");
    }

    #[test]
    fn a_border_that_parts_alone_is_padding() {
        let evidence = |border, interior| {
            let figure = |ratio| Some(Figure { difference: ratio, scale: 1.0, ratio });
            SiteFigures { path: "0".to_owned(), border: figure(border), interior: figure(interior) }
        };
        let site = AnySite::new(PLACE, honest);
        let x = Var::constant(randn([1, 1, 2, 3], 1));
        let y = honest(x.value());
        let cause = |figures| {
            let (y_a, y_b) = (y.clone(), y.clone());
            only_at_the_border(&Evidence {
                b: &site,
                input: Input { x: x.clone(), shared: None },
                y_a,
                y_b,
                figures,
                limit: 1e-5,
                allowed: 0.0,
                stored: None,
            })
        };
        assert!(cause(evidence(1e-2, 1e-7)).unwrap().unwrap().starts_with("padding: only the border parts (1.0e-2"));
        assert!(cause(evidence(f64::NAN, 1e-7)).unwrap().unwrap().starts_with("padding"));
        assert_eq!(cause(evidence(1e-2, 1e-2)).unwrap(), None);
        assert_eq!(cause(evidence(1e-2, f64::NAN)).unwrap(), None);
        assert_eq!(cause(SiteFigures { interior: None, ..evidence(1e-2, 0.0) }).unwrap(), None);
    }

    #[test]
    fn a_gate_of_another_image_parts_in_a_batch_only() {
        let next = |x: &Tensor<f64>| {
            let (y, n) = (honest(x), x.shape()[0]);
            Tensor::from_fn(*y.shape(), |i| {
                y.view()[[i[0], i[1], i[2], i[3]]] + y.view()[[(i[0] + 1) % n, 0, 0, 0]] - y.view()[[i[0], 0, 0, 0]]
            })
        };
        let found = cause(against(next));
        assert!(found.starts_with("gate of another image: image by image B agrees with A, in a batch of 3"), "{found}");
    }

    #[test]
    fn channels_in_another_order_are_mixed_groups() {
        let swapped = |x: &Tensor<f64>| {
            let y = honest(x);
            Tensor::from_fn(*y.shape(), |i| y.view()[[i[0], (i[1] + 2) % 4, i[2], i[3]]])
        };
        let found = cause(against(swapped));
        assert_eq!(found, "groups mixed up: B puts out A's channels in another order, channel 0 is A's 2");
        let another = |x: &Tensor<f64>| honest(x).map(|y| 2.0 * y + 1.0);
        assert!(cause(against(another)).starts_with("A's own fold computes this site otherwise"));
    }

    #[test]
    fn what_agrees_in_f64_is_rounding() {
        let (a, b) =
            (network(AnySite::new(PLACE, honest)), network(AnySite::new(PLACE, |x| honest(x).map(|y| 1.1 * y))));
        let wide_a = network(AnySite::new(PLACE, honest));
        let wide_b = network(AnySite::new(PLACE, |x| honest(x).map(|y| y * (1.0 + 1e-7))));
        let storage = compare(&wide_a, &wide_b, images(vec![9; 6]).batches().unwrap()).unwrap();
        let stored = Stored { a: &wide_a, b: &wide_b, fold: None, comparison: &storage };
        let found = cause(parts(&a, &b, Some(stored)));
        assert!(found.starts_with("rounding: in f64 the stored tensors agree to 1.0e-7"), "{found}");
    }

    /// The cause where A's fold holds `expected` and B `given`.
    fn of_tensors(expected: [(&'static str, Tensor<f64>); 1], given: [(&'static str, Tensor<f64>); 1]) -> String {
        let holding = |tensors: [(&'static str, Tensor<f64>); 1], factor: f64| {
            let site = AnySite::new(PLACE, move |x| honest(x).map(|y| factor * y));
            network(tensors.into_iter().fold(site, |site, (key, tensor)| site.holding(key, tensor)))
        };
        let (a, fold, b) = (network(AnySite::new(PLACE, honest)), holding(expected, 1.0), holding(given, 1.1));
        let storage = compare(&a, &b, images(vec![9; 6]).batches().unwrap()).unwrap();
        let stored = Stored { a: &a, b: &b, fold: Some(&fold), comparison: &storage };
        cause(parts(&a, &b, Some(stored)))
    }

    #[test]
    fn the_stored_tensor_that_differs_is_named() {
        let bias = |last| Tensor::from_vec([4], vec![1.0, 2.0, -4.0, last]).unwrap();
        let found = of_tensors([("conv.bias", bias(0.5))], [("conv.bias", bias(0.54))]);
        assert!(found.starts_with("statistics: the kernels agree, `0.conv.bias` is 1.0e-2 of its largest"), "{found}");
        let found = of_tensors([("conv.bias", bias(0.5))], [("conv.bias", bias(0.5 + 1e-7))]);
        assert_eq!(found, "B computes this site otherwise, from the tensors of A's own fold");
        let found = of_tensors([("conv.bias", bias(0.5))], [("conv.weight", bias(0.5))]);
        assert!(found.starts_with("another kind of convolution: B holds conv.weight here"), "{found}");
    }

    #[test]
    fn logits_part_by_the_layers_between_the_sites() {
        let network = |head: f64, factor: f64| {
            let logits = move |y: &Tensor<f64>| Tensor::full([y.shape()[0], 2], factor);
            let mut network = AnyNetwork::new(vec![AnySite::new(PLACE, honest)], logits);
            network.head = Some(Param::new(Tensor::full([2], head)));
            network
        };
        let at_logits = |a: &AnyNetwork, b: &AnyNetwork, wide_b: &AnyNetwork| {
            let storage = compare(a, wide_b, images(vec![9; 6]).batches().unwrap()).unwrap();
            let stored = Stored { a, b: wide_b, fold: None, comparison: &storage };
            let parts_at = parts(a, b, Some(stored)).expect("they part");
            assert_eq!(parts_at.path, "logits");
            parts_at.cause
        };
        let a = network(1.0, 1.0);
        let found = at_logits(&a, &network(1.02, 1.02), &network(1.02, 1.02));
        assert!(found.starts_with("weights or statistics: `head` is 2.0e-2"), "{found}");
        let found = at_logits(&a, &network(1.0, 1.02), &network(1.0, 1.02));
        assert!(found.starts_with("every site agrees on A's inputs"), "{found}");
        let found = at_logits(&a, &network(1.0, 1.02), &network(1.0, 1.0 + 1e-7));
        assert!(found.starts_with("rounding: every site agrees, and in f64 the logits do to 1.0e-7"), "{found}");
    }
}
