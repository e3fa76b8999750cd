//! What the tests share: sites with values far from their initial ones, and a pass through a site as one function of
//! its input and parameters.

use std::collections::BTreeMap;

use gatefold_autograd::{GradCheck, GradCheckError, Op, Report, Sink, Tape, Var};
use gatefold_layers::{
    Activation, BranchActivation, ConvKind, Cx, Entry, Form, Gate, Init, MaConv, MdConv, Mode, Site, SiteSpec,
    TrainedSite, Walk,
};
use gatefold_tensor::random::{self, Purpose, randn, uniform};
use gatefold_tensor::{Result, Tensor};

pub type State = BTreeMap<String, Tensor<f64>>;
pub type AnySite = Box<dyn TrainedSite<f64>>;

pub const FORMS: [Form; 4] = [Form::Expanded, Form::ExpandedBnAfter, Form::Compact, Form::CompactBias];

/// A new site with random values.
pub fn site(kind: &ConvKind, spec: SiteSpec, seed: u64) -> AnySite {
    let mut site = kind.build(spec, &Init::new(seed)).unwrap_or_else(|error| panic!("{kind:?} at {spec}: {error}"));
    randomise(&mut site, seed);
    site
}

/// Values far from those of a fresh module, whose batch norms (0 and 1) and gates (all equal) hide mistakes.
pub fn randomise(module: &mut (impl Walk<f64> + ?Sized), seed: u64) {
    let mut rng = random::stream(seed, Purpose::Test, 1, 0);
    module.walk_mut("", &mut |key, mut entry| {
        let gamma = entry.value().shape().len() == 1 && key.ends_with("weight");
        for v in entry.value().as_mut_slice() {
            *v = match () {
                () if key.ends_with("running_var") || key.ends_with("temperature") => uniform(&mut rng, 0.5, 2.0),
                () if gamma => uniform(&mut rng, 0.5, 1.5).copysign(uniform(&mut rng, -1.0, 3.0)),
                () if key.ends_with("fc1.bias") => uniform(&mut rng, 0.2, 1.0), // hidden values that are alive
                () => 0.5 * random::normal(&mut rng),
            };
        }
    });
}

/// MAConv with its gate, that is, with nothing between the two convolutions.
pub fn maconv(form: Form, m: usize, bypass: bool) -> ConvKind {
    ConvKind::MaConv(MaConv { m, bypass, form, activation: BranchActivation::Gate })
}

/// MDConv, its attention network wider than the input.
pub fn mdconv(form: Form, m: usize, bypass: bool, gate: Gate, temperature: f64) -> ConvKind {
    ConvKind::MdConv(MdConv { m, bypass, form, gate, temperature, hidden: 2.0, activation: BranchActivation::Gate })
}

/// Every kind in every form, with and without what is optional.
pub fn kinds(m: usize) -> Vec<ConvKind> {
    let mut kinds = vec![ConvKind::named("static").unwrap()];
    for form in FORMS {
        for bypass in [true, false] {
            kinds.push(maconv(form, m, bypass));
            kinds.push(mdconv(form, m, bypass, Gate::Sigmoid, 1.0));
            kinds.push(mdconv(form, m, bypass, Gate::Softmax, 3.0));
        }
    }
    for form in [Form::Expanded, Form::ExpandedBnAfter] {
        let activation = BranchActivation::Relu;
        kinds.push(ConvKind::MaConv(MaConv { m, form, activation, ..MaConv::default() }));
        kinds.push(ConvKind::MdConv(MdConv { m, form, activation, ..MdConv::default() }));
    }
    kinds
}

/// Places and input maps in which a mistake shows.
pub fn places() -> Vec<(SiteSpec, [usize; 2])> {
    vec![
        (SiteSpec::pointwise(4, 3), [3, 4]),
        (SiteSpec { stride: 2, ..SiteSpec::pointwise(3, 5) }, [5, 4]),
        (SiteSpec::same(3, 4, 3, 2), [5, 6]),
        (SiteSpec { groups: 2, dilation: 2, padding: 2, ..SiteSpec::same(4, 6, 3, 1) }, [5, 4]),
        (SiteSpec { padding: 1, ..SiteSpec::same(2, 3, 5, 3) }, [6, 7]),
    ]
}

/// The output in eval mode.
pub fn eval(site: &(impl Site<f64> + ?Sized), x: &Tensor<f64>) -> Tensor<f64> {
    let cx = Cx::eval();
    site.forward(&cx, &cx.input(x.clone(), false), Activation::Identity).unwrap().value().clone()
}

/// What one step of training sees: output, the gradient of Σ dy ⊙ y at the input (under `x`) and at every parameter,
/// and the statistics that it leaves in the site.
pub struct Step {
    pub y: Tensor<f64>,
    pub gradients: State,
    pub after: State,
}

pub fn train_step(site: &mut AnySite, x: &Tensor<f64>, seed: u64) -> Step {
    let cx = Cx::train();
    let x = cx.input(x.clone(), true);
    let y = site.forward(&cx, &x, Activation::Identity).unwrap();
    let mut of = y.backward_with(randn(*y.shape(), seed)).unwrap();
    let mut gradients = State::from([("x".to_owned(), of.take(&x).expect("every site depends on its input"))]);
    site.walk("", &mut |key, entry| {
        if let Entry::Param(param) = entry {
            let gradient = of.take(&param.var(&cx)).unwrap_or_else(|| panic!("no gradient at {key}"));
            gradients.insert(key.to_owned(), gradient);
        }
    });
    cx.into_statistics().apply(site).unwrap();
    let after = site.state().into_iter().filter(|(key, _)| key.contains("running_")).collect();
    Step { y: y.value().clone(), gradients, after }
}

/// A pass through a site, recorded on the tape of a gradient check as one op.
struct Pass {
    y: Var<f64>,
    leaves: Vec<Var<f64>>,
}

impl Op<f64> for Pass {
    fn name(&self) -> &'static str {
        "pass"
    }

    fn backward(self: Box<Self>, dy: Tensor<f64>, dx: &mut Sink<'_, f64>) -> Result<()> {
        let mut gradients = self.y.backward_with(dy)?;
        for (i, leaf) in self.leaves.iter().enumerate() {
            if let Some(gradient) = gradients.take(leaf) {
                dx.add(i, gradient)?;
            }
        }
        Ok(())
    }
}

/// Checks the gradient of a site with respect to its input and every parameter.
pub fn gradcheck(
    kind: &ConvKind,
    spec: SiteSpec,
    x: Tensor<f64>,
    mode: Mode,
    check: &GradCheck,
) -> Result<Report, GradCheckError> {
    let state = site(kind, spec, 3).state();
    let (mut keys, mut inputs) = (Vec::new(), vec![x]);
    site(kind, spec, 3).walk("", &mut |key, entry| {
        if let Entry::Param(param) = entry {
            keys.push(key.to_owned());
            inputs.push(param.value.clone());
        }
    });
    check.run(&inputs, |v| {
        let mut state = state.clone();
        state.extend(keys.iter().cloned().zip(v[1..].iter().map(|v| v.value().clone())));
        let mut site = kind.build(spec, &Init::new(0))?;
        site.load(&state).expect("the same keys");
        let cx = Cx::new(mode, true);
        let x = cx.input(v[0].value().clone(), true);
        let y = site.forward(&cx, &x, Activation::Identity)?;
        let mut leaves = vec![x];
        site.walk("", &mut |_, entry| {
            if let Entry::Param(param) = entry {
                leaves.push(param.var(&cx));
            }
        });
        let inputs: Vec<_> = v.iter().map(Some).collect();
        Ok(Tape::record(y.value().clone(), &inputs, || Pass { y, leaves }))
    })
}

/// Fails unless max |a − b| ≤ tolerance · max(1, max |b|).
#[track_caller]
pub fn assert_close(what: &str, a: &Tensor<f64>, b: &Tensor<f64>, tolerance: f64) {
    assert_eq!(a.shape(), b.shape(), "{what}: shapes");
    let (apart, limit) = (a.max_abs_diff(b).unwrap(), tolerance * b.max_abs().max(1.0));
    assert!(apart <= limit, "{what}: {apart:e} apart, limit {limit:e}"); // false for a NaN
}

/// [`assert_close`] for every entry; the keys have to be the same.
#[track_caller]
pub fn assert_all_close(what: &str, a: &State, b: &State, tolerance: f64) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{what}: keys");
    assert!(!a.is_empty(), "{what}: nothing to compare");
    for (key, value) in a {
        assert_close(&format!("{what}, {key}"), value, &b[key], tolerance);
    }
}
