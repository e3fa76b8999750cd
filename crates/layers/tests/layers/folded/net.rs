//! A site between other layers: its input comes plain or pending, its output goes to ops of every sort.

use gatefold_autograd::{Var, profile::profile};
use gatefold_layers::sites::StaticConv;
use gatefold_layers::{
    Activation, ConvKind, Cost, Cx, Entry, EntryMut, FoldError, Folded, Form, Gate, Init, MaConv, MdConv, Site,
    SiteSpec, TrainedSite, Walk, walk_fields,
};
use gatefold_tensor::random::{self, Purpose, randn, uniform};
use gatefold_tensor::{Real, Result, Tensor};

use crate::support::{State, maconv, mdconv, randomise};

/// What the site's input is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Before {
    /// Made.
    Plain,
    /// A batch norm and a rectifier that nobody has written down.
    Pending,
    /// The same, and another op reads it too.
    Shared,
}

/// Who reads the site's output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum After {
    /// Nobody but the loss.
    Loss,
    /// An op that needs it made.
    Plain,
    /// A depthwise convolution, which reads pending maps.
    Depthwise,
    /// Both.
    Both,
}

/// A site, its neighbours, and the input.
#[derive(Debug, Clone)]
pub struct Case {
    pub kind: ConvKind,
    /// N, Cin, Cout, H, W.
    pub sizes: [usize; 5],
    pub before: Before,
    pub after: After,
    pub activation: Activation,
    /// Whether the first channel of the site's input is 0 everywhere.
    pub dead: bool,
    pub seed: u64,
}

pub struct Net<T: Real> {
    before: Option<StaticConv<T>>,
    site: Box<dyn TrainedSite<T>>,
    after: Option<StaticConv<T>>,
}

walk_fields!(impl<T> Net<T> { before, site, after });

/// A static site that trains folded whatever its extents.
struct FoldedStatic<T: Real>(StaticConv<T>);

impl<T: Real> Walk<T> for FoldedStatic<T> {
    fn walk<'a>(&'a self, prefix: &str, visit: &mut dyn FnMut(&str, Entry<'a, T>)) {
        self.0.walk(prefix, visit);
    }

    fn walk_mut<'a>(&'a mut self, prefix: &str, visit: &mut dyn FnMut(&str, EntryMut<'a, T>)) {
        self.0.walk_mut(prefix, visit);
    }
}

impl<T: Real> Site<T> for FoldedStatic<T> {
    fn spec(&self) -> &SiteSpec {
        self.0.spec()
    }

    fn forward(&self, cx: &Cx<T>, x: &Var<T>, activation: Activation) -> Result<Var<T>> {
        self.0.forward_folded(cx, x, activation)
    }

    fn cost(&self, input: [usize; 2]) -> Result<Cost> {
        self.0.cost(input)
    }
}

impl<T: Real> TrainedSite<T> for FoldedStatic<T> {
    fn fold(&self) -> Result<Folded<T>, FoldError> {
        self.0.fold()
    }
}

/// The kinds that have a folded form.
pub fn kinds(m: usize) -> Vec<ConvKind> {
    let form = Form::Auto;
    let both = |bypass| {
        let dynamic = |gate, temperature| mdconv(form, m, bypass, gate, temperature);
        [maconv(form, m, bypass), dynamic(Gate::Sigmoid, 1.0), dynamic(Gate::Softmax, 0.5)]
    };
    [both(true), both(false)].concat()
}

pub fn with_form(kind: &ConvKind, form: Form) -> ConvKind {
    match kind.clone() {
        ConvKind::MaConv(options) => ConvKind::MaConv(MaConv { form, ..options }),
        ConvKind::MdConv(options) => ConvKind::MdConv(MdConv { form, ..options }),
        kind => kind,
    }
}

impl Case {
    fn net<T: Real>(&self, form: Form) -> Net<T> {
        let ([_, cin, cout, ..], init) = (self.sizes, Init::new(self.seed));
        let spec = SiteSpec::pointwise(cin, cout);
        let site = with_form(&self.kind, form).build(spec, &init).unwrap();
        let folded = matches!((&self.kind, form), (ConvKind::Static(_), Form::Folded));
        Net {
            before: (self.before != Before::Plain).then(|| StaticConv::new(SiteSpec::pointwise(3, cin), &init)),
            site: if folded { Box::new(FoldedStatic(StaticConv::new(spec, &init))) } else { site },
            after: matches!(self.after, After::Depthwise | After::Both)
                .then(|| StaticConv::new(SiteSpec::depthwise(cout, 3, 2), &init)),
        }
    }

    /// Parameters and statistics far from those of a fresh net.
    pub fn state(&self) -> State {
        let mut net = self.net::<f64>(Form::Expanded);
        randomise(&mut net, self.seed);
        net.walk_mut("", &mut |key, mut entry: EntryMut<'_, f64>| {
            if self.dead && key == "before.bn.bias" {
                entry.value().as_mut_slice()[0] = -100.0;
            }
        });
        net.state()
    }

    pub fn input(&self) -> Tensor<f64> {
        let [n, cin, _, h, w] = self.sizes;
        let c = if self.before == Before::Plain { cin } else { 3 };
        let mut rng = random::stream(self.seed, Purpose::Test, 3, 0);
        Tensor::from_fn([n, c, h, w], |i| {
            let v = random::normal(&mut rng) + 0.3 * i[1] as f64;
            if self.dead && self.before == Before::Plain && i[1] == 0 { 0.0 } else { v }
        })
    }

    fn forward<T: Real>(&self, net: &Net<T>, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>> {
        let x = match &net.before {
            Some(before) => before.forward(cx, x, Activation::Relu)?,
            None => x.clone(),
        };
        let y = net.site.forward(cx, &x, self.activation)?;
        // Everything flattened and one after another, so that one gradient goes to all.
        let [n, ..] = self.sizes;
        let flat = |v: &Var<T>| v.reshape([n, v.value().len() / n]);
        let mut parts = match self.after {
            After::Loss if self.before != Before::Shared => return Ok(y),
            After::Loss => vec![flat(&y)?],
            After::Plain => vec![flat(&y.sigmoid())?],
            After::Depthwise | After::Both => {
                let after = net.after.as_ref().expect("built with one");
                vec![flat(&after.forward(cx, &y, Activation::Identity)?)?]
            }
        };
        if self.after == After::Both {
            parts.push(flat(&y.sigmoid())?);
        }
        if self.before == Before::Shared {
            parts.push(flat(&x.sigmoid())?);
        }
        Var::concat(&parts, 1)
    }
}

/// What a training step sees, widened: the output, the gradient at the input (under `x`, if wanted) and at every
/// parameter, and the statistics it leaves.
pub struct Step {
    pub y: Tensor<f64>,
    pub gradients: State,
    pub after: State,
    /// The ops of the forward pass.
    pub ops: Vec<&'static str>,
}

/// A step in the precision of `T`, from values in f64.
pub fn step<T: Real>(case: &Case, form: Form, state: &State, x: &Tensor<f64>, want_x: bool) -> Step {
    let mut net = case.net::<T>(form);
    net.load(&state.iter().map(|(key, value)| (key.clone(), value.cast())).collect()).unwrap();
    let cx = Cx::train();
    let x = cx.input(x.cast(), want_x);
    let (y, events) = profile(|| case.forward(&net, &cx, &x).unwrap());
    let dy = randn::<f64>(*y.shape(), case.seed + 1).cast();
    let mut of = y.backward_with(dy).unwrap();
    let mut gradients = State::new();
    if want_x {
        gradients.insert("x".to_owned(), of.take(&x).expect("every site depends on its input").cast());
    }
    net.walk("", &mut |key, entry| {
        if let Entry::Param(param) = entry {
            let gradient = of.take(&param.var(&cx)).unwrap_or_else(|| panic!("no gradient at {key}"));
            gradients.insert(key.to_owned(), gradient.cast());
        }
    });
    cx.into_statistics().apply(&mut net).unwrap();
    let after = net.state().into_iter().filter(|(key, _)| key.contains("running_"));
    let after = after.map(|(key, value)| (key, value.cast())).collect();
    Step { y: y.value().cast(), gradients, after, ops: events.iter().map(|event| event.op).collect() }
}

/// A seed for which no output of the site lies so close to a kink of its activation that rounding could move it across.
pub fn away_from_kinks(mut case: Case, margin: f64) -> Case {
    let kinks: &[f64] = match case.activation {
        Activation::Identity => return case,
        Activation::Relu => &[0.0],
        Activation::Relu6 => &[0.0, 6.0],
    };
    loop {
        let raw = Case { after: After::Loss, activation: Activation::Identity, ..case.clone() };
        let raw = Case { before: if raw.before == Before::Shared { Before::Pending } else { raw.before }, ..raw };
        let y = step::<f64>(&raw, Form::Expanded, &raw.state(), &raw.input(), false).y;
        if y.as_slice().iter().all(|y| kinks.iter().all(|kink| (y - kink).abs() > margin * y.abs().max(1.0))) {
            return case;
        }
        case.seed += 1000;
    }
}

/// max |a − b| over max(1, max |b|): the worst of all entries, and which one it is.
pub fn apart(a: &State, b: &State) -> (f64, String) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    let ratios = a.iter().map(|(key, value)| (ratio(value, &b[key]), key.clone()));
    ratios.fold((0.0, String::new()), |worst, next| if next.0 > worst.0 || next.0.is_nan() { next } else { worst })
}

/// The same for one tensor.
pub fn ratio(a: &Tensor<f64>, b: &Tensor<f64>) -> f64 {
    a.max_abs_diff(b).unwrap() / b.max_abs().max(1.0)
}

/// Input whose mean is a thousand deviations and parameters, all rounded to f32, and attention that does not saturate there.
pub fn far_from_zero(case: &Case, state: &mut State) -> Tensor<f64> {
    for (key, value) in state {
        let scale = if key.ends_with("fc1.weight") { 1e-3 } else { 1.0 };
        *value = value.map(|v| f64::from((scale * v) as f32));
    }
    let mut rng = random::stream(case.seed, Purpose::Test, 4, 0);
    let means: Vec<f64> = (0..case.sizes[1]).map(|_| uniform(&mut rng, 900.0, 1100.0)).collect();
    let [n, c, _, h, w] = case.sizes;
    Tensor::from_fn([n, c, h, w], |i| f64::from((means[i[1]] + random::normal(&mut rng)) as f32))
}
