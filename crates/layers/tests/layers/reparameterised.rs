//! ExpandNet, ACNet and RepVGG: gradients, folds at the border and inside, keys, costs and refusals.

use std::collections::BTreeMap;

use gatefold_autograd::{GradCheck, profile::profile};
use gatefold_layers::sites::{AcNet, ExpandNet, ExpandedConv, FoldedConv, Padding, RepVgg, RowForm};
use gatefold_layers::{Activation, ConvKind, Cx, FoldError, Folded, Init, Mode, Site, SiteSpec, TrainedSite, Walk};
use gatefold_tensor::random::randn;
use gatefold_tensor::{Real, Tensor};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::support::{assert_all_close, assert_close, eval, gradcheck, randomise, site, train_step};

fn expandnet(rate: usize, bias: bool, inner_norms: bool, padding: Padding) -> ConvKind {
    ConvKind::ExpandNet(ExpandNet { rate, bias, inner_norms, padding, form: RowForm::Expanded })
}

/// Rows that train as one convolution.
fn folded_rows() -> Vec<ConvKind> {
    let row = |bias, padding| ExpandNet { rate: 2, bias, inner_norms: false, padding, form: RowForm::Folded };
    let rows = [row(false, Padding::First), row(true, Padding::First), row(false, Padding::Naive)];
    rows.into_iter().map(ConvKind::ExpandNet).collect()
}

/// Every kind with every option.
fn kinds() -> Vec<ConvKind> {
    let mut kinds = vec![
        ConvKind::AcNet(AcNet::default()),
        ConvKind::RepVgg(RepVgg::default()),
        ConvKind::RepVgg(RepVgg { identity: false, ..RepVgg::default() }),
        ConvKind::RepVgg(RepVgg { pointwise: false, ..RepVgg::default() }),
    ];
    for bias in [false, true] {
        for inner_norms in [false, true] {
            kinds.extend([Padding::First, Padding::Naive].map(|padding| expandnet(2, bias, inner_norms, padding)));
        }
    }
    kinds.extend(folded_rows());
    kinds
}

/// Places in which a mistake shows: cropping and padding beyond the centre, strides, dilation, groups, depthwise.
fn places() -> Vec<(SiteSpec, [usize; 2])> {
    let same = |c, k| SiteSpec::same(c, c, k, 1);
    vec![
        (SiteSpec::pointwise(3, 4), [3, 4]),
        (SiteSpec { padding: 1, groups: 2, ..SiteSpec::pointwise(4, 2) }, [3, 2]),
        (same(3, 3), [4, 5]),
        (SiteSpec::same(3, 4, 3, 2), [5, 6]),
        (SiteSpec { groups: 2, dilation: 2, padding: 2, ..same(4, 3) }, [5, 4]),
        (SiteSpec { padding: 1, ..same(2, 5) }, [6, 7]),
        (SiteSpec { padding: 0, dilation: 2, ..SiteSpec::same(2, 3, 3, 2) }, [7, 6]),
        (SiteSpec { padding: 3, ..same(2, 3) }, [3, 2]),
        (SiteSpec::depthwise(4, 3, 1), [4, 3]),
    ]
    .into_iter()
    .map(|(spec, map)| (SiteSpec { replaceable: true, ..spec }, map))
    .collect()
}

/// The kinds that `spec` can hold.
fn kinds_at(spec: &SiteSpec) -> Vec<ConvKind> {
    kinds().into_iter().filter(|kind| spec.kernel > 1 || matches!(kind, ConvKind::ExpandNet(_))).collect()
}

#[test]
fn gradients_in_both_modes() {
    let check = GradCheck { step: 1e-5, atol: 1e-6, rtol: 1e-5, seed: 2 };
    for (spec, [h, w]) in places() {
        let x = randn([3, spec.cin, h, w], 7);
        for kind in kinds_at(&spec) {
            for mode in [Mode::Train, Mode::Eval] {
                let report = gradcheck(&kind, spec, x.clone(), mode, &check)
                    .unwrap_or_else(|error| panic!("{kind:?} at {spec}, {mode:?}: {error}"));
                assert_eq!(report.entries, x.len() + site(&kind, spec, 3).parameters());
            }
        }
    }
}

/// The same row, convolution by convolution.
fn expanded(kind: &ConvKind) -> ConvKind {
    let ConvKind::ExpandNet(options) = kind else { panic!("{kind:?} is no row") };
    ConvKind::ExpandNet(ExpandNet { form: RowForm::Expanded, ..options.clone() })
}

#[test]
fn a_folded_row_trains_as_the_expanded_one() {
    for (spec, [h, w]) in places() {
        for kind in folded_rows() {
            let x = randn([3, spec.cin, h, w], 6);
            let [folded, expanded] =
                [kind.clone(), expanded(&kind)].map(|kind| train_step(&mut site(&kind, spec, 4), &x, 9));
            let what = format!("{kind:?} at {spec}");
            assert_close(&what, &folded.y, &expanded.y, 1e-9);
            assert_all_close(&what, &folded.gradients, &expanded.gradients, 1e-9);
            assert_all_close(&what, &folded.after, &expanded.after, 1e-9);
        }
    }
}

#[test]
fn a_row_folds_by_itself_where_that_is_exact_and_costs_less() {
    let spec = SiteSpec::same(4, 4, 3, 1);
    let ops = |options: ExpandNet, spec, images| {
        let mut site = site(&ConvKind::ExpandNet(options), spec, 2);
        let (_, events) = profile(|| train_step(&mut site, &randn([images, 4, 6, 6], 1), 3));
        events.iter().filter(|event| event.op == "conv2d" && !event.backward).count()
    };
    let (row, grouped) = (ExpandNet::default(), SiteSpec { groups: 2, ..spec });
    assert_eq!(ops(row.clone(), spec, 8), 1);
    assert_eq!(ops(row.clone(), grouped, 8), 1);
    assert_eq!(ops(ExpandNet { form: RowForm::Expanded, ..row.clone() }, spec, 8), 3);
    assert_eq!(ops(ExpandNet { inner_norms: true, ..row.clone() }, spec, 8), 3);
    assert_eq!(ops(ExpandNet { bias: true, padding: Padding::Naive, ..row.clone() }, spec, 8), 3);
    // Four places of the kernel: to contract it costs as much as to run the row on more than one image.
    let few = SiteSpec { kernel: 5, padding: 0, ..spec };
    assert_eq!((ops(row.clone(), few, 1), ops(row, few, 2)), (3, 1));
}

#[test]
fn every_parameter_counts() {
    for (spec, [h, w]) in places() {
        for kind in kinds_at(&spec) {
            let step = train_step(&mut site(&kind, spec, 4), &randn([3, spec.cin, h, w], 8), 9);
            for (key, gradient) in &step.gradients {
                // A constant before a batch norm is taken out again; behind zeros in its place it is none.
                let ConvKind::ExpandNet(options) = &kind else {
                    assert!(gradient.max_abs() > 1e-12, "{kind:?} at {spec}, {key}");
                    continue;
                };
                let uneven = options.padding == Padding::Naive && spec.padding > 0 && spec.kernel > 1;
                let gone = match key.as_str() {
                    "conv1.bias" => options.inner_norms || !uneven,
                    "bn1.bias" => !uneven,
                    "conv2.bias" | "conv3.bias" | "bn2.bias" => true,
                    _ => false,
                };
                if spec.kernel > 1 || spec.padding == 0 {
                    assert_eq!(gradient.max_abs() < 1e-11, gone, "{kind:?} at {spec}, {key}: {}", gradient.max_abs());
                }
            }
        }
    }
}

prop_compose! {
    fn any_spec()(
        kernel in prop::sample::select(vec![1usize, 3, 5]),
        [stride, padding, dilation] in [1usize..4, 0..4, 1..3],
        groups in 1usize..4,
        [cin, cout] in [1usize..4, 1..4],
        square in any::<bool>(),
    ) -> SiteSpec {
        let cout = if square { cin } else { cout };
        SiteSpec { kernel, stride, padding, dilation, groups, ..SiteSpec::pointwise(cin * groups, cout * groups) }
    }
}

prop_compose! {
    fn any_sample()(spec in any_spec())(
        kind in prop::sample::select(kinds_at(&spec)),
        spec in Just(spec),
        [n, h, w] in [1usize..4, 0..6, 0..6],
        seed in any::<u64>(),
    ) -> (ConvKind, SiteSpec, [usize; 4], u64) {
        let least = (spec.dilation * (spec.kernel - 1) + 1).saturating_sub(2 * spec.padding).max(1);
        (kind, spec, [n, spec.cin, least + h, least + w], seed)
    }
}

/// max |a − b| where a window leaves the map, and where none does.
fn border_and_interior(spec: &SiteSpec, map: [usize; 2], a: &Tensor<f64>, b: &Tensor<f64>) -> [f64; 2] {
    assert_eq!(a.shape(), b.shape());
    let [n, c, oh, ow] = a.dims("test", "a").unwrap();
    let inside = |i: usize, extent: usize| {
        let first = i * spec.stride;
        first >= spec.padding && first + spec.dilation * (spec.kernel - 1) < extent + spec.padding
    };
    let mut apart = [0.0f64; 2];
    for (n, o, i, j) in (0..n * c * oh * ow).map(|v| (v / (c * oh * ow), v / (oh * ow) % c, v / ow % oh, v % ow)) {
        let which = usize::from(inside(i, map[0]) && inside(j, map[1]));
        apart[which] = apart[which].max((a.view()[[n, o, i, j]] - b.view()[[n, o, i, j]]).abs());
    }
    apart
}

fn state<T: Real>(state: BTreeMap<String, Tensor<f64>>) -> BTreeMap<String, Tensor<T>> {
    state.into_iter().map(|(key, value)| (key, value.cast())).collect()
}

fn eval_f32(site: &impl Site<f32>, x: &Tensor<f64>) -> Tensor<f64> {
    let cx = Cx::eval();
    site.forward(&cx, &cx.input(x.cast(), false), Activation::Identity).unwrap().value().cast()
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(21),
        failure_persistence: None,
        ..ProptestConfig::with_cases(300)
    })]

    #[test]
    fn a_site_and_its_fold_are_one_function((kind, spec, x, seed) in any_sample()) {
        let (site, map) = (site(&kind, spec, seed), [x[2], x[3]]);
        let (x, before) = (randn(x, seed), site.state());
        let y = eval(&site, &x);
        let naive = match &kind {
            ConvKind::ExpandNet(options) => {
                options.padding == Padding::Naive && spec.padding > 0 && (options.bias || options.inner_norms)
            }
            _ => false,
        };
        let folded = match site.fold() {
            Err(FoldError::NotFoldable(why)) if naive => {
                prop_assert!(why.contains("wrong at the border"), "{}", why);
                return Ok(());
            }
            Ok(folded @ Folded::Conv(_)) if !naive => folded,
            other => panic!("{kind:?} at {spec}: {other:?}"),
        };
        prop_assert_eq!(folded.parameters(), spec.weight_shape().iter().product::<usize>() + spec.cout);
        let scale = y.max_abs().max(1.0);
        let [border, interior] = border_and_interior(&spec, map, &eval(&folded, &x), &y);
        prop_assert!(border < 1e-10 * scale, "{:e} apart at the border", border);
        prop_assert!(interior < 1e-10 * scale, "{:e} apart inside", interior);
        // Folding leaves the site alone.
        for (key, value) in site.state() {
            prop_assert_eq!(value.to_vec(), before[&key].to_vec(), "{}", key);
        }

        let mut single = kind.build::<f32>(spec, &Init::new(0)).unwrap();
        single.load(&state(site.state())).unwrap();
        let (trained, folded) = (eval_f32(&single, &x), eval_f32(&single.fold().unwrap(), &x));
        let apart = border_and_interior(&spec, map, &folded, &trained);
        prop_assert!(apart.iter().all(|apart| *apart < 1e-5 * scale), "{:?} apart in f32, scale {}", apart, scale);
    }
}

/// Values and statistics as some steps of training leave them.
fn trained(kind: &ConvKind, spec: SiteSpec, x: [usize; 4]) -> Box<dyn TrainedSite<f64>> {
    let mut site = site(kind, spec, 5);
    for step in 0..20 {
        train_step(&mut site, &randn(x, step).map(|v| v + 0.5), step);
    }
    site
}

#[test]
fn folds_after_training_at_the_border_and_inside() {
    let x = [4, 6, 8, 7];
    for kind in kinds() {
        for spec in [SiteSpec::same(6, 6, 3, 1), SiteSpec { groups: 2, ..SiteSpec::same(6, 8, 5, 2) }] {
            let site = trained(&kind, spec, x);
            let Ok(folded) = site.fold() else { continue };
            let x = randn(x, 99);
            let y = eval(&site, &x);
            let apart = border_and_interior(&spec, [8, 7], &eval(&folded, &x), &y);
            assert!(apart.iter().all(|apart| *apart < 1e-10 * y.max_abs()), "{kind:?} at {spec}: {apart:?}");
            let mut single = kind.build::<f32>(spec, &Init::new(0)).unwrap();
            single.load(&state(site.state())).unwrap();
            let in_f32 = [eval_f32(&single, &x), eval_f32(&single.fold().unwrap(), &x)];
            let apart = border_and_interior(&spec, [8, 7], &in_f32[1], &in_f32[0]);
            assert!(apart.iter().all(|apart| *apart < 1e-5 * y.max_abs()), "{kind:?} at {spec}, f32: {apart:?}");
            // The comparison has teeth: every vector of a batch norm, every bias and every kernel matters.
            for key in site.state().into_keys() {
                let mut other = trained(&kind, spec, [4, 6, 8, 7]);
                let mut changed = other.state();
                changed.insert(key.clone(), changed[&key].map(|v| v * 1.01));
                other.load(&changed).unwrap();
                let apart = eval(&other, &x).max_abs_diff(&eval(&folded, &x)).unwrap();
                assert!(apart > 1e-6 * y.max_abs(), "{kind:?} at {spec}, {key}: {apart:e}");
            }
        }
    }
}

#[test]
fn the_naive_order_contracts_inside_and_fails_at_the_border() {
    let (spec, map) = (SiteSpec::same(3, 4, 3, 1), [6, 5]);
    let x = randn([2, 3, 6, 5], 2);
    let contracted = |padding, bias, inner_norms| {
        let options = ExpandNet { rate: 2, bias, inner_norms, padding, ..ExpandNet::default() };
        let mut site = ExpandedConv::<f64>::new(spec, &options, &Init::new(0)).unwrap();
        randomise(&mut site, 1);
        let (y, contraction): (_, FoldedConv<f64>) = (eval(&site, &x), site.contract().unwrap());
        let apart = border_and_interior(&spec, map, &eval(&contraction, &x), &y).map(|apart| apart / y.max_abs());
        (apart, site.fold().is_ok())
    };
    for (bias, inner_norms) in [(false, true), (true, false), (true, true)] {
        let ([border, interior], folds) = contracted(Padding::Naive, bias, inner_norms);
        assert!(interior < 1e-12 && border > 1e-2 && !folds, "{border:e} at the border, {interior:e} inside");
        let ([border, interior], folds) = contracted(Padding::First, bias, inner_norms);
        assert!(interior < 1e-12 && border < 1e-12 && folds, "{border:e} at the border, {interior:e} inside");
    }
    let ([border, interior], folds) = contracted(Padding::Naive, false, false);
    assert!(interior < 1e-12 && border < 1e-12 && folds, "without a shift there is nothing to miss");
}

#[test]
fn both_orders_without_a_shift_are_one_function() {
    let spec = SiteSpec::same(3, 4, 3, 2);
    let x = randn([2, 3, 6, 5], 2);
    let [first, naive] =
        [Padding::First, Padding::Naive].map(|padding| eval(&site(&expandnet(2, false, false, padding), spec, 3), &x));
    assert_close("orders", &first, &naive, 1e-12);
}

#[test]
fn the_keys_are_pinned() {
    let spec = SiteSpec::same(4, 4, 3, 1);
    let keys = |kind: &ConvKind, spec| {
        let state = site(kind, spec, 1).state();
        state.iter().map(|(key, value)| format!("{key} {:?}", value.shape())).collect::<Vec<_>>()
    };
    let expect = |lines: &[(&str, &str)]| {
        let norm = ["bias", "running_mean", "running_var", "weight"];
        let mut keys: Vec<_> = (lines.iter())
            .flat_map(|(key, shape)| match key.strip_suffix(".*") {
                Some(bn) => norm.iter().map(|name| format!("{bn}.{name} {shape}")).collect(),
                None => vec![format!("{key} {shape}")],
            })
            .collect();
        keys.sort();
        keys
    };
    let acnet = [
        ("square.conv.weight", "[4, 4, 3, 3]"),
        ("square.bn.*", "[4]"),
        ("vertical.conv.weight", "[4, 4, 3, 1]"),
        ("vertical.bn.*", "[4]"),
        ("horizontal.conv.weight", "[4, 4, 1, 3]"),
        ("horizontal.bn.*", "[4]"),
    ];
    let repvgg = [
        ("dense.conv.weight", "[4, 4, 3, 3]"),
        ("dense.bn.*", "[4]"),
        ("pointwise.conv.weight", "[4, 4, 1, 1]"),
        ("pointwise.bn.*", "[4]"),
        ("identity.bn.*", "[4]"),
    ];
    let expanded = [
        ("conv1.weight", "[16, 4, 1, 1]"),
        ("conv2.weight", "[16, 16, 3, 3]"),
        ("conv3.weight", "[4, 16, 1, 1]"),
        ("bn.*", "[4]"),
        ("bn1.*", "[16]"),
        ("bn2.*", "[16]"),
        ("conv1.bias", "[16]"),
        ("conv2.bias", "[16]"),
        ("conv3.bias", "[4]"),
    ];
    let named = |name| ConvKind::named(name).unwrap();
    assert_eq!(keys(&named("acnet"), spec), expect(&acnet));
    assert_eq!(keys(&named("repvgg"), spec), expect(&repvgg));
    let other = repvgg.map(|(key, shape)| (key, shape.replacen('4', "6", 1)));
    let other: Vec<_> = other[..4].iter().map(|(key, shape)| (*key, shape.as_str())).collect();
    assert_eq!(keys(&named("repvgg"), SiteSpec::same(4, 6, 3, 1)), expect(&other), "no identity where Cin is not Cout");
    assert_eq!(keys(&named("repvgg"), SiteSpec::same(4, 4, 3, 2)), expect(&repvgg[..4]), "nor where the stride is 2");
    assert_eq!(keys(&named("expandnet"), spec), expect(&expanded[..4]));
    assert_eq!(keys(&expandnet(4, false, true, Padding::First), spec), expect(&expanded[..6]));
    assert_eq!(keys(&expandnet(4, true, true, Padding::First), spec), expect(&expanded));
    for kind in [named("acnet"), named("repvgg"), named("expandnet")] {
        assert!(site(&kind, spec.fixed(), 1).state().contains_key("conv.weight"), "stays static elsewhere");
        let folded = site(&kind, spec, 1).fold().unwrap().state();
        assert_eq!(folded.into_keys().collect::<Vec<_>>(), ["conv.bias", "conv.weight"]);
    }
}

#[test]
fn costs_as_the_paper_counts_them() {
    let cost = |name: &str, spec: SiteSpec| {
        let site = ConvKind::named(name).unwrap().build::<f64>(SiteSpec { replaceable: true, ..spec }, &Init::new(0));
        let cost = site.unwrap().cost([9, 8]).unwrap();
        assert_eq!((cost.coefficients, cost.generated), (0, 0));
        (cost.parameters, cost.macs)
    };
    // Paper 6.6: r Cin² + r² Cin Cout k² + r Cout²; (H+2p)(W+2p) r Cin² + P (r² Cin Cout k² + r Cout²); stride 2: P = 5·4.
    let spec = SiteSpec::same(6, 8, 3, 2);
    let dense = 16 * 6 * 8 * 9 + 4 * 8 * 8;
    assert_eq!(cost("expandnet", spec), (4 * 36 + dense + 16, 11 * 10 * 4 * 36 + 20 * dense));
    // Paper 6.7: Cout Cin (k² + 2k) + 6 Cout.
    assert_eq!(cost("acnet", spec), (6 * 8 * 15 + 48, 20 * 6 * 8 * 15));
    // Paper 6.8: Cout Cin (9 + 1)/g + 4 Cout (+ 2 Cin).
    assert_eq!(cost("repvgg", spec), (6 * 8 * 10 + 32, 20 * 6 * 8 * 10));
    let square = SiteSpec { groups: 2, ..SiteSpec::same(6, 6, 3, 1) };
    assert_eq!(cost("repvgg", square), (6 * 3 * 10 + 36, 72 * 6 * 3 * 10));
    assert_eq!(cost("acnet", SiteSpec::depthwise(6, 5, 1)), (6 * 35 + 36, 72 * 6 * 35));
    // A pointwise site, all three convolutions 1 x 1.
    let dense = 16 * 48 + 4 * 64;
    assert_eq!(cost("expandnet", SiteSpec::pointwise(6, 8)), (4 * 36 + dense + 16, 72 * (4 * 36 + dense)));
}

#[test]
fn what_cannot_be_is_an_error_that_says_why() {
    let message = |kind: ConvKind, spec: SiteSpec| match kind.build::<f64>(spec, &Init::new(0)) {
        Ok(_) => panic!("no error"),
        Err(error) => error.to_string(),
    };
    let spec = SiteSpec::same(4, 4, 3, 1);
    for name in ["acnet", "repvgg"] {
        let kind = ConvKind::named(name).unwrap();
        for spec in [SiteSpec::pointwise(3, 4), SiteSpec { kernel: 2, ..spec }] {
            let message = message(kind.clone(), spec);
            assert!(message.contains(name) && message.contains("an odd kernel above 1x1"), "{message}");
        }
        let even = SiteSpec { kernel: 2, ..spec };
        assert!(kind.build::<f64>(even.fixed(), &Init::new(0)).is_ok(), "a site that stays static may have any kernel");
    }
    let nothing = ConvKind::RepVgg(RepVgg { pointwise: false, identity: false });
    assert!(nothing.check().unwrap_err().contains("use kind static") && message(nothing, spec).contains("static"));
    for gamma in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(message(ConvKind::AcNet(AcNet { gamma }), spec).contains("initial gamma"));
    }
    for rate in [0, 65] {
        assert!(message(expandnet(rate, false, false, Padding::First), spec).contains("1 ..= 64"));
    }
    let folded = |bias, inner_norms, padding| {
        let row = ExpandNet { rate: 2, bias, inner_norms, padding, form: RowForm::Folded };
        message(ConvKind::ExpandNet(row), spec)
    };
    assert!(folded(false, true, Padding::First).contains("without inner norms"));
    assert!(folded(true, false, Padding::Naive).contains("pad first"));
}

#[test]
fn the_initial_gamma_of_acnet_is_the_one_asked_for() {
    let kind = ConvKind::AcNet(AcNet { gamma: 1.0 / 3.0 });
    let site = kind.build::<f64>(SiteSpec::same(2, 3, 3, 1), &Init::new(0)).unwrap();
    for branch in ["square", "vertical", "horizontal"] {
        assert_eq!(site.state()[&format!("{branch}.bn.weight")].to_vec(), [1.0 / 3.0; 3]);
    }
}
