//! The kinds that generate a kernel for each sample, and the gate behind a convolution: DYConv, CondConv, WeightNet, DCD,
//! the dynamic filter and SE.

use std::collections::BTreeMap;

use gatefold_autograd::GradCheck;
use gatefold_layers::{
    Activation, CondConv, ConvKind, Cx, Dcd, DyConv, DynamicFilter, FoldError, Folded, Init, Mode, Module, Se, Share,
    Site, SiteSpec, Walk, WeightNet,
};
use gatefold_tensor::kernels::concat::concat;
use gatefold_tensor::plan::Builder;
use gatefold_tensor::random::randn;
use gatefold_tensor::{Real, Tensor};

use crate::support::{assert_close, eval, gradcheck, places, randomise, site, train_step};

fn dyconv() -> ConvKind {
    ConvKind::DyConv(DyConv { kernels: 3, temperature: 2.0, hidden: 2.0, anneal: 0 })
}

fn annealed() -> ConvKind {
    ConvKind::DyConv(DyConv { kernels: 2, temperature: 5.0, hidden: 1.0, anneal: 4 })
}

fn weightnet(m: usize, g: usize) -> ConvKind {
    ConvKind::WeightNet(WeightNet { m, g, ..WeightNet::default() })
}

/// Every kind with the places that it can take, the input maps beside them.
fn cases() -> Vec<(ConvKind, SiteSpec, [usize; 2])> {
    let mut cases = Vec::new();
    let depthwise = SiteSpec { replaceable: true, ..SiteSpec::depthwise(3, 3, 2) };
    for (spec, map) in places().into_iter().chain([(depthwise, [4, 5])]) {
        let filter = ConvKind::DynamicFilter(DynamicFilter { hidden: 1.0 });
        let condconv = ConvKind::CondConv(CondConv { experts: 3, ..CondConv::default() });
        let se = ConvKind::Se(Se { reduction: 2 });
        cases.extend([dyconv(), annealed(), condconv, weightnet(2, 1), filter, se].map(|kind| (kind, spec, map)));
        let each: usize = spec.weight_shape()[1..].iter().product();
        if each.is_multiple_of(2) {
            cases.extend([weightnet(2, 2), weightnet(4, 2)].map(|kind| (kind, spec, map)));
        }
        if spec.groups == 1 && spec.padding == spec.kernel / 2 {
            cases.extend([2, 16].map(|squeeze| (ConvKind::Dcd(Dcd { squeeze }), spec, map)));
        }
    }
    // A head that looks at four quarters.
    cases.push((ConvKind::Dcd(Dcd { squeeze: 8 }), SiteSpec::pointwise(2, 5), [3, 4]));
    cases.push((ConvKind::Dcd(Dcd { squeeze: 8 }), SiteSpec::pointwise(2, 5), [1, 1]));
    cases
}

fn input(spec: &SiteSpec, [h, w]: [usize; 2]) -> Tensor<f64> {
    randn([3, spec.cin, h, w], 7)
}

fn check_gradients(mode: Mode) {
    let check = GradCheck { step: 1e-5, atol: 1e-6, rtol: 1e-5, seed: 2 };
    for (kind, spec, map) in cases() {
        let x = input(&spec, map);
        let report = gradcheck(&kind, spec, x.clone(), mode, &check)
            .unwrap_or_else(|error| panic!("{kind:?} at {spec}, {mode:?}: {error}"));
        assert_eq!(report.entries, x.len() + site(&kind, spec, 3).parameters());
    }
}

#[test]
fn gradients_in_train_mode() {
    check_gradients(Mode::Train);
}

#[test]
fn gradients_in_eval_mode() {
    check_gradients(Mode::Eval);
}

#[test]
fn every_parameter_gets_a_gradient_that_is_not_zero() {
    for (kind, spec, map) in cases() {
        let step = train_step(&mut site(&kind, spec, 4), &input(&spec, map), 9);
        for (key, gradient) in &step.gradients {
            // A constant before a batch norm is taken out again: P β_2.
            let zero = key == "bn2.bias";
            assert_eq!(gradient.max_abs() < 1e-12, zero, "{kind:?} at {spec}, {key}: {:e}", gradient.max_abs());
        }
    }
}

fn apart<T: Real>(a: &Tensor<T>, b: &Tensor<T>) -> f64 {
    assert_eq!(a.shape(), b.shape());
    a.max_abs_diff(b).unwrap().f64() / b.max_abs().f64().max(1.0)
}

#[test]
fn a_site_and_its_fold_are_one_function() {
    for (kind, spec, map) in cases().into_iter().filter(|(kind, ..)| kind.name() != "se") {
        let what = format!("{kind:?} at {spec}");
        let mut site = site(&kind, spec, 5);
        let (x, before) = (input(&spec, map), site.state());
        let y = eval(&site, &x);
        let folded = site.fold().unwrap();
        let difference = apart(&eval(&folded, &x), &y);
        assert!(difference < 1e-10, "{what}: {difference:e} apart");
        assert!(matches!(folded, Folded::Generated(_)), "{what}");
        assert_eq!(*folded.spec(), spec);
        for (key, value) in site.state() {
            assert_eq!(value.to_vec(), before[&key].to_vec(), "folding changes {key}");
        }
        // The check has teeth: statistics one percent off show.
        site.walk_mut("", &mut |key, mut entry| {
            if key == "bn.running_var" {
                *entry.value() = entry.value().map(|v| 1.01 * v);
            }
        });
        assert!(apart(&eval(&site, &x), &y) > 1e-4, "{what}");
    }
}

#[test]
fn a_fold_in_f32_stays_within_its_rounding() {
    for (kind, spec, map) in cases().into_iter().filter(|(kind, ..)| kind.name() != "se") {
        let state: BTreeMap<_, _> =
            site(&kind, spec, 5).state().into_iter().map(|(key, value)| (key, value.cast::<f32>())).collect();
        let mut site = kind.build::<f32>(spec, &Init::new(0)).unwrap();
        site.load(&state).unwrap();
        let x = input(&spec, map).cast::<f32>();
        let cx = Cx::eval();
        let y = site.forward(&cx, &cx.input(x.clone(), false), Activation::Identity).unwrap();
        let folded = site.fold().unwrap().forward(&cx, &cx.input(x, false), Activation::Identity).unwrap();
        let difference = apart(folded.value(), y.value());
        assert!(difference < 1e-5, "{kind:?} at {spec}: {difference:e} apart");
    }
}

#[test]
fn a_folded_site_runs_by_a_plan() {
    for (kind, spec, [h, w]) in cases().into_iter().filter(|(kind, ..)| kind.name() != "se") {
        let folded = site(&kind, spec, 5).fold().unwrap();
        let (mut plan, x) = Builder::<f64>::new([spec.cin, h, w]);
        let Some(y) = folded.plan(&mut plan, x, Activation::Relu).unwrap() else {
            assert!(kind.name() == "dcd" && h.min(w) == 1, "{kind:?} at {spec} has no plan"); // a line has no quarters
            continue;
        };
        let x = input(&spec, [h, w]);
        let expected = eval(&folded, &x).map(|y| y.max(0.0));
        let y = plan.finish(y).run(&x).unwrap();
        let y = Tensor::from_memory(expected.shape(), y.as_slice().to_vec()).unwrap();
        assert_close(&format!("{kind:?} at {spec}"), &y, &expected, 1e-12);
    }
}

#[test]
fn squeeze_and_excitation_refuses_to_fold() {
    match site(&ConvKind::Se(Se::default()), SiteSpec::pointwise(4, 8), 1).fold() {
        Err(FoldError::NotFoldable(why)) => assert!(why.contains("output"), "{why}"),
        other => panic!("{other:?}"),
    }
}

fn keys(walk: &impl Walk<f64>) -> String {
    let keys: Vec<_> =
        walk.state().into_keys().filter(|key| !key.starts_with("bn.") && !key.contains(".running_")).collect();
    keys.join(" ")
}

#[test]
fn keys_of_sites_and_of_their_folds() {
    let attention = "attention.fc1.bias attention.fc1.weight attention.fc2.bias attention.fc2.weight";
    let (fc, head) = (
        "fc1.bias fc1.weight fc2.bias fc2.weight",
        "head.fc1.weight head.fc2.weight head.fc_phi.weight head.fc_scale.weight",
    );
    let expected = [
        ("dyconv", format!("{attention} experts.weight"), format!("{attention} bias experts.weight")),
        (
            "condconv",
            "experts.weight router.bias router.weight".to_owned(),
            "bias experts.weight router.bias router.weight".to_owned(),
        ),
        (
            "weightnet",
            "fc1.bias fc1.weight fc2.weight reduce.bias reduce.weight".to_owned(),
            "bias fc1.bias fc1.weight fc2.weight reduce.bias reduce.weight".to_owned(),
        ),
        (
            "dcd",
            format!("bn1.bias bn1.weight bn2.bias bn2.weight conv.weight conv_p.weight conv_q.weight {head}"),
            format!("bias conv.weight conv_p.weight conv_q.bias conv_q.weight {head} shift"),
        ),
        ("dynamicfilter", fc.to_owned(), format!("bias {fc}")),
        ("se", "conv.weight se.fc1.bias se.fc1.weight se.fc2.bias se.fc2.weight".to_owned(), String::new()),
    ];
    for (name, trained, folded) in expected {
        let site = site(&ConvKind::named(name).unwrap(), SiteSpec::pointwise(8, 6), 1);
        assert_eq!(keys(&site), trained, "{name}");
        for of_bn in ["bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"] {
            assert!(site.state().contains_key(of_bn), "{name} has no {of_bn}");
        }
        if name != "se" {
            assert_eq!(keys(&site.fold().unwrap()), folded, "{name}");
        }
    }
    assert!(site(&annealed(), SiteSpec::pointwise(8, 6), 1).state().contains_key("temperature"));
}

#[test]
fn costs_are_the_papers() {
    let (spec, map) = (SiteSpec::same(32, 48, 3, 2), [6, 8]);
    let [c, o, kernel, p] = [32, 48, 48 * 32 * 9, 12];
    let cost = |name| {
        let cost = site(&ConvKind::named(name).unwrap(), spec, 1).cost(map).unwrap();
        (cost.parameters - 2 * o, cost.macs - p * kernel, cost.coefficients, cost.generated)
    };
    let q = 8;
    let attention = c * q + q * 4;
    assert_eq!(cost("dyconv"), (4 * kernel + attention + q + 4, 4 * kernel + attention, 4, kernel));
    assert_eq!(cost("condconv"), (8 * kernel + c * 8 + 8, 8 * kernel + c * 8, 8, kernel));
    let (cg, alpha) = (16, 2 * o);
    let weights = c * cg + cg * alpha + kernel;
    assert_eq!(cost("weightnet"), (weights + cg + alpha, weights, alpha, kernel));
    let (l, s) = (11, 8); // √128, max(128, 121)/16
    let head = 4 * c * s + s * s + s * l * l + s * o;
    let parameters = kernel + c * l + l * o + 4 * l + head;
    assert_eq!(cost("dcd"), (parameters, p * (c * l + l * l + l * o + o) + head, l * l + o, 0));
    assert_eq!(cost("dynamicfilter"), (c * q + q + (q + 1) * kernel, c * q + q * kernel, kernel, kernel));
    let gate = 2 * o * o / 4;
    assert_eq!(cost("se"), (kernel + gate + o / 4 + o, gate + p * o, o, 0));
}

#[test]
fn equal_kernels_are_a_static_convolution() {
    let (spec, map) = places()[2];
    let mut dynamic = site(&dyconv(), spec, 6);
    let mut fixed = site(&ConvKind::named("static").unwrap(), spec, 60);
    let mut state = dynamic.state();
    let w = fixed.state()["conv.weight"].to_vec();
    let experts = state.get_mut("experts.weight").unwrap();
    *experts = Tensor::from_vec(experts.shape(), w.repeat(3)).unwrap();
    dynamic.load(&state).unwrap();
    state.retain(|key, _| key.starts_with("bn."));
    state.insert("conv.weight".to_owned(), fixed.state()["conv.weight"].clone());
    fixed.load(&state).unwrap();
    let x = input(&spec, map);
    assert_close("output", &eval(&dynamic, &x), &eval(&fixed, &x), 1e-12);
}

#[test]
fn the_temperature_goes_to_one() {
    let kind = annealed();
    let mut site = kind.build::<f64>(SiteSpec::pointwise(3, 2), &Init::new(0)).unwrap();
    let mut seen = Vec::new();
    for epoch in 0..7 {
        kind.begin_epoch(epoch, &mut site);
        seen.push(site.state()["temperature"].to_vec()[0]);
    }
    assert_eq!(seen, [5.0, 4.0, 3.0, 2.0, 1.0, 1.0, 1.0]);
    // It is the temperature of the gates.
    randomise(&mut site, 3);
    let x = randn([2, 3, 2, 2], 1);
    let mut at = |epoch| {
        kind.begin_epoch(epoch, &mut site);
        (eval(&site, &x), eval(&site.fold().unwrap(), &x))
    };
    let ((hot, hot_folded), (cold, cold_folded)) = (at(0), at(4));
    assert!(apart(&hot, &cold) > 1e-3);
    assert_close("hot", &hot_folded, &hot, 1e-12);
    assert_close("cold", &cold_folded, &cold, 1e-12);
}

/// (wn.3) by its definition.
#[test]
fn weightnet_makes_the_kernel_in_groups() {
    let (spec, x) = (SiteSpec::pointwise(4, 3), randn([1, 4, 2, 3], 2));
    let kind = weightnet(4, 2);
    let site = site(&kind, spec, 6);
    let state = site.state();
    let [m, g, e] = [4, 2, 4];
    let means: Vec<f64> = (0..4).map(|c| (0..6).map(|i| x.view()[[0, c, i / 3, i % 3]]).sum::<f64>() / 6.0).collect();
    let dense = |layer: &str, z: &[f64]| -> Vec<f64> {
        let (w, b) = (&state[&format!("{layer}.weight")], &state[&format!("{layer}.bias")]);
        (0..b.len())
            .map(|o| b.to_vec()[o] + z.iter().enumerate().map(|(i, z)| w.view()[[o, i]] * z).sum::<f64>())
            .collect()
    };
    let alpha: Vec<f64> = dense("fc1", &dense("reduce", &means)).iter().map(|o| 1.0 / (1.0 + (-o).exp())).collect();
    let v = &state["fc2.weight"];
    let w = Tensor::from_fn([3, 4, 1, 1], |at| {
        let (o, e_at) = (at[0], at[1]);
        (0..m / g).map(|j| v.view()[[o * e + e_at, j]] * alpha[(o * g + e_at * g / e) * (m / g) + j]).sum()
    });
    let mut fixed = ConvKind::named("static").unwrap().build::<f64>(spec, &Init::new(0)).unwrap();
    let mut of_fixed: BTreeMap<_, _> = state.into_iter().filter(|(key, _)| key.starts_with("bn.")).collect();
    of_fixed.insert("conv.weight".to_owned(), w);
    fixed.load(&of_fixed).unwrap();
    assert_close("output", &eval(&site, &x), &eval(&fixed, &x), 1e-12);
}

#[test]
fn dcd_without_dynamics_is_a_static_convolution_and_a_constant() {
    let (spec, map) = places()[2];
    let mut site = site(&ConvKind::Dcd(Dcd::default()), spec, 6);
    site.walk_mut("", &mut |key, mut entry| {
        if key.starts_with("head.") || key == "conv_p.weight" {
            *entry.value() = entry.value().map(|_| 0.0); // Λ = h(0) = 1, Φ = 0, P = 0
        }
    });
    let mut fixed = ConvKind::named("static").unwrap().build::<f64>(spec, &Init::new(0)).unwrap();
    let state = site.state().into_iter().filter(|(key, _)| key.starts_with("bn.") || key == "conv.weight").collect();
    fixed.load(&state).unwrap();
    let x = input(&spec, map);
    assert_close("output", &eval(&site, &x), &eval(&fixed, &x), 1e-12);
}

#[test]
fn a_line_is_a_half_of_itself_to_dcd() {
    let site = site(&ConvKind::Dcd(Dcd::default()), SiteSpec::pointwise(4, 8), 6); // Cin < Cout: it looks at quarters
    for (line, axis) in [([2, 4, 1, 5], 2), ([2, 4, 5, 1], 3)] {
        let twice = |x: &Tensor<f64>| concat(&[x, x], axis).unwrap();
        let x = randn(line, 1);
        assert_close("output", &eval(&site, &twice(&x)), &twice(&eval(&site, &x)), 1e-12);
    }
}

#[test]
fn a_site_that_shares_a_layer_needs_its_block() {
    let condconv = ConvKind::CondConv(CondConv { experts: 3, share: Share::Block });
    let weightnet = ConvKind::WeightNet(WeightNet { m: 2, g: 1, share: Share::Block });
    for (kind, name, shape) in [(condconv, "router", [3, 7]), (weightnet, "reduce", [16, 7])] {
        let spec = SiteSpec::pointwise(4, 5).in_block(7);
        let site = site(&kind, spec, 2);
        let (x, of_block) = (randn([2, 4, 3, 3], 1), randn([2, 7, 5, 5], 2));
        let cx = Cx::eval();
        let run = || site.forward(&cx, &cx.input(x.clone(), false), Activation::Identity);
        let error = run().err().expect("no block runs it").to_string();
        assert!(error.contains("no block runs it"), "{error}");
        let (mut plan, input) = Builder::<f64>::new([4, 3, 3]);
        assert!(site.fold().unwrap().plan(&mut plan, input, Activation::Identity).is_err());

        let shared = kind.shared::<f64>(spec.block, &Init::new(3)).unwrap();
        let state = shared.state();
        assert_eq!(state[&format!("{name}.weight")].shape()[..], shape);
        let values = shared.layer.forward(&cx, &cx.input(of_block, false)).unwrap();
        let y = cx.sharing(values.clone(), run).unwrap();
        assert!(cx.shared().is_none());
        let folded = site.fold().unwrap();
        let z = cx.sharing(values, || folded.forward(&cx, &cx.input(x.clone(), false), Activation::Identity)).unwrap();
        assert_close(name, z.value(), y.value(), 1e-12);
    }
    for own in [ConvKind::named("condconv"), ConvKind::named("weightnet"), ConvKind::named("dyconv")] {
        assert!(own.unwrap().shared::<f64>(7, &Init::new(3)).is_none());
    }
}

#[test]
fn options_that_cannot_be_are_errors_that_say_why() {
    let message = |kind: ConvKind, spec: SiteSpec| match kind.build::<f64>(spec, &Init::new(0)) {
        Ok(_) => panic!("{kind:?}: no error"),
        Err(error) => error.to_string(),
    };
    let (plain, grouped) = (places()[0].0, places()[3].0);
    assert!(message(ConvKind::DyConv(DyConv { kernels: 0, ..DyConv::default() }), plain).contains("0 kernels"));
    assert!(
        message(ConvKind::DyConv(DyConv { temperature: -1.0, ..DyConv::default() }), plain).contains("temperature -1")
    );
    assert!(
        message(ConvKind::DyConv(DyConv { hidden: f64::NAN, ..DyConv::default() }), plain).contains("hidden ratio")
    );
    assert!(
        message(ConvKind::CondConv(CondConv { experts: usize::MAX, ..CondConv::default() }), plain).contains("experts")
    );
    assert!(message(weightnet(3, 2), plain).contains("g = 2 does not divide m = 3"));
    assert!(message(weightnet(0, 1), plain).contains("m = 0"));
    assert!(message(weightnet(2, 2), SiteSpec::pointwise(3, 4)).contains("3 weights of an output channel"));
    assert!(message(ConvKind::Dcd(Dcd { squeeze: 0 }), plain).contains("squeeze 0"));
    assert!(message(ConvKind::Dcd(Dcd::default()), grouped).contains("no groups"));
    assert!(
        message(ConvKind::Dcd(Dcd::default()), SiteSpec { padding: 0, ..SiteSpec::same(2, 2, 3, 1) })
            .contains("central tap")
    );
    assert!(message(ConvKind::DynamicFilter(DynamicFilter { hidden: 0.0 }), plain).contains("hidden ratio 0"));
    assert!(message(ConvKind::Se(Se { reduction: 0 }), plain).contains("reduction 0"));
}
