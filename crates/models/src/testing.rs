//! What the tests of the backbones share.

use std::collections::BTreeMap;

use gatefold_layers::{ConvKind, Cx, EntryMut, MdConv, ParamGradients, Walk};
use gatefold_tensor::plan::Builder;
use gatefold_tensor::random::{self, Purpose, randn};
use gatefold_tensor::{Result, Tensor};

use crate::description::{Backbone, Normalisation};
use crate::{Description, Model, Network, Resolution, Summary};

/// A model for images with three channels.
pub fn model(backbone: Backbone, conv: &ConvKind, width: f64, side: usize, classes: usize) -> Result<Model<f32>> {
    let description = Description {
        backbone,
        width,
        conv: conv.clone(),
        folded: false,
        input: [3, side, side],
        classes: (0..classes).map(|i| i.to_string()).collect(),
        dataset: "none".to_owned(),
        normalisation: Normalisation { maximum: 255, mean: vec![0.0; 3], std: vec![1.0; 3] },
    };
    Model::new(description, 0)
}

/// A kind with its default options.
pub fn named(name: &str) -> ConvKind {
    ConvKind::named(name).unwrap()
}

/// A row of the paper's table of totals: the network, and what is published or derived of it.
pub struct Totals {
    pub width: f64,
    pub side: usize,
    pub classes: usize,
    /// Parameters with static convolutions.
    pub parameters: usize,
    /// And their multiply-accumulates, in tenths of a million.
    pub macs: usize,
    /// What MDConv adds to the parameters, trained.
    pub mdconv: usize,
    /// Multiply-accumulates of MDConv expanded, in tenths of a million.
    pub expanded: usize,
    /// The same with one generated kernel at every site.
    pub compact: usize,
    /// What MAConv adds to the parameters, trained.
    pub maconv: usize,
}

/// A number of operations in tenths of a million.
pub fn tenths(macs: usize) -> usize {
    (macs + 50_000) / 100_000
}

/// Holds a backbone to a row.
pub fn assert_totals(backbone: Backbone, row: &Totals) {
    let of = |kind: &str| model(backbone, &named(kind), row.width, row.side, row.classes).unwrap();
    let name = format!("{} {} {} {}", backbone.name(), row.width, row.side, row.classes);
    let (fixed, maconv) = (Summary::of(&of("static")).unwrap(), Summary::of(&of("maconv")).unwrap());
    let dynamic = of("mdconv");
    let mdconv = Summary::of(&dynamic).unwrap();
    let parameters = |summary: &Summary| summary.trained().parameters;
    assert_eq!(parameters(&fixed), row.parameters, "{name}: static");
    assert_eq!(parameters(&maconv) - row.parameters, row.maconv, "{name}: maconv");
    assert_eq!(parameters(&mdconv) - row.parameters, row.mdconv, "{name}: mdconv");
    assert_eq!(tenths(fixed.trained().macs), row.macs, "{name}: MACs, static");
    assert_eq!(tenths(mdconv.trained().macs), row.expanded, "{name}: MACs, expanded");
    // Paper 2.9: m·Cout·Cin·k² + 2m·Cout and the attention network, at every replaced site.
    let m = MdConv::default().m;
    let composed = dynamic.network.sites().into_iter().map(|(_, site)| site.spec()).filter(|spec| spec.replaceable);
    let composed = composed.map(|spec| {
        let kernel: usize = spec.weight_shape().iter().product();
        m * kernel + 2 * m * spec.cout + spec.cin / 4 * (spec.cin + m)
    });
    assert_eq!(tenths(fixed.trained().macs + composed.sum::<usize>()), row.compact, "{name}: MACs, compact");
    // MAConv folds to the static convolution; MDConv runs each site in its cheaper form.
    assert_eq!(maconv.folded().unwrap(), fixed.folded().unwrap(), "{name}");
    assert!(mdconv.folded().unwrap().macs <= mdconv.trained().macs, "{name}");
    assert_eq!(fixed.trained().macs, fixed.folded().unwrap().macs, "{name}");
}

/// Values far from those of a fresh network, whose batch norms (0 and 1) and gates (all equal) hide mistakes.
pub fn randomise(network: &mut dyn Network<f64>) {
    let mut rng = random::stream(0, Purpose::Test, 2, 0);
    network.walk_mut("", &mut |key, mut entry| {
        let shape = *entry.value().shape();
        // Experts are kernels behind an axis of their own.
        let fan_in: usize = shape.iter().skip(shape.len().saturating_sub(3).max(1)).product();
        // A layer of few inputs makes kernels of many: these would blow up what runs through them.
        let fan_in = if shape.len() == 2 { fan_in.max(32) } else { fan_in };
        for v in entry.value().as_mut_slice() {
            *v = match () {
                () if key.ends_with("running_var") => random::uniform(&mut rng, 0.5, 2.0),
                () if shape.len() == 1 && key.ends_with("weight") => random::uniform(&mut rng, 0.5, 1.5),
                () if shape.len() == 1 => random::uniform(&mut rng, -0.3, 0.3),
                () => random::normal(&mut rng) * (2.0 / fan_in as f64).sqrt(),
            };
        }
    });
}

fn logits(network: &dyn Network<f64>, x: &Tensor<f64>) -> Tensor<f64> {
    let cx = Cx::eval();
    network.forward(&cx, &cx.input(x.clone(), false)).unwrap().value().clone()
}

/// The folded network has a plan, and it makes the logits `z` of `x`.
fn assert_plans(folded: &dyn Network<f64>, x: &Tensor<f64>, z: &Tensor<f64>) {
    let [_, c, h, w] = x.dims("plan", "x").unwrap();
    let (mut plan, input) = Builder::new([c, h, w]);
    let output = folded.plan(&mut plan, input).unwrap().expect("every folded site has steps");
    let planned = plan.finish(output).run(x).unwrap();
    let apart = planned.max_abs_diff(z).unwrap() / z.max_abs();
    assert!(apart < 1e-11, "the plan is {apart:e} apart");
}

/// The folded network is the same function, and so is its plan; the check has teeth.
pub fn assert_folds(mut network: Box<dyn Network<f64>>, map: [usize; 2]) {
    randomise(&mut *network);
    let x = randn([2, 3, map[0], map[1]], 7);
    let folded = network.fold().unwrap();
    let (y, z) = (logits(&*network, &x), logits(&*folded, &x));
    assert_eq!(y.shape()[0], 2);
    let apart = |y: &Tensor<f64>| y.max_abs_diff(&z).unwrap() / z.max_abs();
    assert!(y.max_abs() > 1e-3, "logits of {}", y.max_abs());
    assert!(apart(&y) < 1e-10, "{:e} apart", apart(&y));
    let paths = |network: &dyn Network<f64>| network.sites().into_iter().map(|(path, _)| path).collect::<Vec<_>>();
    assert_eq!(paths(&*network), paths(&*folded));
    assert_plans(&*folded, &x, &z);
    // Every site is run, under its path, and a change in any shows.
    let mut seen = Vec::new();
    let cx = Cx::eval().observed(|path, _, _| seen.push(path.to_owned()));
    network.forward(&cx, &cx.input(x.clone(), false)).unwrap();
    drop(cx);
    for path in paths(&*network) {
        assert_eq!(seen.iter().filter(|of| **of == path).count(), 1, "{path}");
        let before = network.state();
        network.walk_mut("", &mut |key, mut entry| {
            if key.starts_with(&format!("{path}.")) && key.ends_with("running_var") {
                entry.value().as_mut_slice().iter_mut().for_each(|v| *v *= 1.5);
            }
        });
        let moved = apart(&logits(&*network, &x));
        assert!(moved > 1e-6, "{path} has no effect: {moved:e}");
        network.load(&before).unwrap();
    }
}

/// The gradients in training, against central differences along a random direction in each part of the network.
pub fn assert_gradients(mut network: Box<dyn Network<f64>>, map: [usize; 2]) {
    randomise(&mut *network);
    let x = randn([4, 3, map[0], map[1]], 7);
    let projection = randn::<f64>([4, 3], 8);
    let loss = |network: &dyn Network<f64>| -> f64 {
        let cx = Cx::<f64>::train();
        let y = network.forward(&cx, &cx.input(x.clone(), false)).unwrap();
        y.value().as_slice().iter().zip(projection.as_slice()).map(|(y, r)| y * r).sum()
    };
    let cx = Cx::train();
    let y = network.forward(&cx, &cx.input(x.clone(), false)).unwrap();
    assert_eq!(y.shape()[..], [4, 3]);
    let of_y = gatefold_autograd::Var::constant(projection.clone());
    let gradients = cx.backward(&y.mul(&of_y).unwrap().sum(&[0, 1], false).unwrap()).unwrap();

    let part =
        |key: &str| key.split('.').take(if key.starts_with("blocks") { 2 } else { 1 }).collect::<Vec<_>>().join(".");
    let mut analytic = BTreeMap::<String, f64>::new();
    for_each_parameter(&mut *network, &gradients, |key, _, gradient, direction| {
        let along: f64 = gradient.as_slice().iter().zip(direction.as_slice()).map(|(g, d)| g * d).sum();
        *analytic.entry(part(key)).or_default() += along;
    });
    assert!(analytic.len() >= 10, "{:?}", analytic.keys());
    let scale = analytic.values().fold(0.0, |scale: f64, v| scale.max(v.abs()));
    for (name, analytic) in analytic {
        // Some of the thousands of rectifiers stand close to their kinks; the smaller the step, the fewer it takes across.
        const STEP: f64 = 1e-9;
        let mut moved = |by: f64| {
            for_each_parameter(&mut *network, &gradients, |key, value, _, direction| {
                if part(key) == name {
                    value.zip_apply(direction, |v, d| *v += by * d).unwrap();
                }
            });
            loss(&*network)
        };
        let (up, down) = (moved(STEP), moved(-2.0 * STEP));
        moved(STEP);
        let numeric = (up - down) / (2.0 * STEP);
        let apart = (analytic - numeric).abs();
        assert!(apart <= 1e-3 * numeric.abs() + 1e-5 * scale, "{name}: {analytic} by the tape, {numeric} numerically");
    }
}

/// Every parameter with its gradient and a random direction that its key names.
fn for_each_parameter(
    network: &mut dyn Network<f64>,
    gradients: &ParamGradients<f64>,
    mut visit: impl FnMut(&str, &mut Tensor<f64>, &Tensor<f64>, &Tensor<f64>),
) {
    network.walk_mut("", &mut |key, entry| {
        if let EntryMut::Param(param) = entry {
            let seed = key.bytes().fold(1, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
            let gradient = gradients.get(param).unwrap_or_else(|| panic!("no gradient at {key}")).clone();
            let direction = randn(*param.value.shape(), seed);
            visit(key, &mut param.value, &gradient, &direction);
        }
    });
}

/// A network of one backbone for three channels and three classes, as small as it gets.
type Tiny<'a> = &'a dyn Fn(&ConvKind, Resolution) -> Box<dyn Network<f64>>;

fn thin_mdconv() -> ConvKind {
    ConvKind::MdConv(MdConv { m: 2, ..MdConv::default() })
}

/// Holds the gradients of a backbone in both forms to central differences.
pub fn assert_all_gradients(tiny: Tiny<'_>, cifar: [usize; 2], imagenet: [usize; 2]) {
    assert_gradients(tiny(&named("static"), Resolution::Cifar), cifar);
    assert_gradients(tiny(&named("static"), Resolution::Imagenet), imagenet);
    assert_gradients(tiny(&thin_mdconv(), Resolution::Cifar), cifar);
}

/// Holds the folds of a backbone to what they were made of.
pub fn assert_all_folds(tiny: Tiny<'_>) {
    for conv in [named("static"), named("maconv"), thin_mdconv()] {
        assert_folds(tiny(&conv, Resolution::Cifar), [9, 12]);
    }
    assert_folds(tiny(&thin_mdconv(), Resolution::Imagenet), [37, 33]);
}

/// The keys of a backbone with static sites at width 1, for ten classes.
pub struct Keys<'a> {
    pub side: usize,
    /// Every site below these parts, with the shape of its kernels.
    pub parts: &'a [&'a str],
    pub sites: &'a [(&'a str, [usize; 4])],
    /// Channels that the classifier reads.
    pub features: usize,
    /// Sites of the whole network.
    pub count: usize,
}

/// Holds a backbone to its keys, trained and folded.
pub fn assert_keys(backbone: Backbone, expected: &Keys<'_>) {
    let trained = model(backbone, &named("static"), 1.0, expected.side, 10).unwrap();
    let folded = trained.fold().unwrap();
    let looked_at = |key: &str| expected.parts.iter().any(|part| key.starts_with(part));
    assert_eq!(keys(&*trained.network, looked_at), static_keys(expected.sites));
    let of_folded = expected.sites.iter().flat_map(|(path, shape)| {
        [format!("{path}.conv.bias [{}]", shape[0]), format!("{path}.conv.weight {shape:?}")]
    });
    let mut of_folded: Vec<_> = of_folded.collect();
    of_folded.sort();
    assert_eq!(keys(&*folded.network, looked_at), of_folded);
    let classifier = ["classifier.bias [10]".to_owned(), format!("classifier.weight [10, {}]", expected.features)];
    for (model, values) in [(&trained, 5), (&folded, 2)] {
        assert_eq!(keys(&*model.network, |key| key.starts_with("classifier")), classifier);
        assert_eq!(model.network.state().len(), expected.count * values + 2);
    }
}

/// `key shape` of every value whose key passes, one a line.
pub fn keys(network: &dyn Network<f32>, filter: impl Fn(&str) -> bool) -> Vec<String> {
    let state = network.state();
    state.iter().filter(|(key, _)| filter(key)).map(|(key, value)| format!("{key} {:?}", value.shape())).collect()
}

/// The keys of static sites, from `path weight-shape`, sorted.
fn static_keys(sites: &[(&str, [usize; 4])]) -> Vec<String> {
    let mut keys: Vec<_> = (sites.iter())
        .flat_map(|(path, shape)| {
            let norm =
                ["bias", "running_mean", "running_var", "weight"].map(|v| format!("{path}.bn.{v} [{}]", shape[0]));
            norm.into_iter().chain([format!("{path}.conv.weight {shape:?}")])
        })
        .collect();
    keys.sort();
    keys
}
