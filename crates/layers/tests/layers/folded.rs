//! Training folded and training expanded are one function of the same parameters: (ft.1) to (ft.8) against (md.1).

mod net;

use gatefold_autograd::GradCheck;
use gatefold_autograd::profile::profile;
use gatefold_layers::sites::{Static, StaticConv};
use gatefold_layers::{
    Activation, BranchActivation, ConvKind, Cx, Form, Gate, Init, MaConv, Mode, Site, SiteSpec, Walk,
};
use gatefold_tensor::random::randn;

use crate::support::{eval, gradcheck, maconv, mdconv, places, site};
use net::{After, Before, Case, apart, away_from_kinks, far_from_zero, kinds, ratio, step, with_form};

/// N, Cin, Cout, H, W and m: one sample, several in a task, one position, one channel, channels that fill no vector and more
/// than one.
const SIZES: [([usize; 5], usize); 11] = [
    ([3, 4, 3, 3, 4], 5),
    ([1, 3, 20, 5, 3], 20),
    ([1, 20, 3, 1, 9], 1),
    ([4, 3, 5, 1, 1], 20),
    ([2, 24, 40, 3, 3], 20),
    ([5, 40, 24, 4, 1], 1),
    ([2, 1, 1, 3, 3], 1),
    ([3, 1, 17, 2, 5], 20),
    ([2, 16, 16, 9, 8], 20),
    ([19, 33, 2, 2, 2], 3),
    ([35, 20, 24, 2, 2], 20),
];

/// Those with a form option, and the static one.
fn all_kinds(m: usize) -> Vec<ConvKind> {
    kinds(m).into_iter().chain([ConvKind::Static(Static {})]).collect()
}

/// Every kind at every size with every neighbour and activation.
fn cases() -> Vec<Case> {
    let with_form = SIZES.iter().flat_map(|&(sizes, m)| kinds(m).into_iter().map(move |kind| (sizes, kind)));
    let without = SIZES.iter().map(|&(sizes, _)| (sizes, ConvKind::Static(Static {})));
    let mut cases = Vec::new();
    for (sizes, kind) in with_form.chain(without) {
        for before in [Before::Plain, Before::Pending, Before::Shared] {
            for after in [After::Loss, After::Plain, After::Depthwise, After::Both] {
                for activation in [Activation::Identity, Activation::Relu, Activation::Relu6] {
                    let (kind, seed) = (kind.clone(), cases.len() as u64);
                    let dead = seed % 3 == 2;
                    cases.push(Case { kind, sizes, before, after, activation, dead, seed });
                }
            }
        }
    }
    cases
}

/// Worst ratios of outputs, gradients and statistics so far, with the case.
#[derive(Default)]
struct Worst([(f64, String); 3]);

impl Worst {
    /// Compares two steps; fails beyond `limits`.
    #[track_caller]
    fn take(&mut self, case: &Case, a: &net::Step, b: &net::Step, limits: [f64; 3]) {
        let parts = [(ratio(&a.y, &b.y), "y".to_owned()), apart(&a.gradients, &b.gradients), apart(&a.after, &b.after)];
        for ((worst, (ratio, key)), limit) in self.0.iter_mut().zip(parts).zip(limits) {
            assert!(ratio <= limit, "{key} is {ratio:e} apart, limit {limit:e}, in {case:?}"); // false for a NaN
            if ratio > worst.0 {
                *worst = (ratio, format!("{key} of {case:?}"));
            }
        }
    }
}

impl Drop for Worst {
    fn drop(&mut self) {
        for (what, (ratio, case)) in ["outputs", "gradients", "statistics"].iter().zip(&self.0) {
            println!("{what}: {ratio:.1e} apart at most ({case})");
        }
    }
}

// ANCHOR: one_function
#[test]
fn folded_training_is_expanded_training() {
    let mut worst = Worst::default();
    for case in cases() {
        let (state, x) = (case.state(), case.input());
        let expanded = step::<f64>(&case, Form::Expanded, &state, &x, true);
        let folded = step::<f64>(&case, Form::Folded, &state, &x, true);
        let op = if matches!(case.kind, ConvKind::Static(_)) { "single_site" } else { "folded_site" };
        assert!(folded.ops.contains(&op) && !expanded.ops.contains(&op));
        worst.take(&case, &folded, &expanded, [1e-9; 3]);
    }
}
// ANCHOR_END: one_function

#[test]
fn the_folded_form_rounds_no_worse() {
    let mut worst = Worst::default();
    for case in cases() {
        // A rectifier's gradient jumps; rounding may not decide on which side.
        let case = away_from_kinks(case, 1e-4);
        let (state, x) = (case.state(), case.input());
        let truth = step::<f64>(&case, Form::Expanded, &state, &x, true);
        let expanded = step::<f32>(&case, Form::Expanded, &state, &x, true);
        let folded = step::<f32>(&case, Form::Folded, &state, &x, true);
        // Batch norms of four values, or of a constant channel, lose more digits, and do so in either form.
        let lost = apart(&expanded.gradients, &truth.gradients).0;
        // Of four values the covariance of three channels is nearly singular, and the variances that it gives lose twice the digits.
        let [n, _, _, h, w] = case.sizes;
        let limit = if n * h * w <= 4 { 1e-3 } else { 2e-4 };
        worst.take(&case, &folded, &truth, [1e-4, f64::max(limit, 3.0 * lost), 1e-5]);
    }
}

#[test]
fn a_mean_of_a_thousand_deviations_does_no_harm() {
    for (i, kind) in all_kinds(20).into_iter().enumerate() {
        let (before, after, activation) = (Before::Plain, After::Loss, Activation::Relu);
        let sizes = [8, 16, 24, 6, 5];
        let case = Case { kind, sizes, before, after, activation, dead: false, seed: i as u64 };
        let mut state = case.state();
        let x = far_from_zero(&case, &mut state);
        let truth = step::<f64>(&case, Form::Expanded, &state, &x, true);
        let [expanded, folded] = [Form::Expanded, Form::Folded].map(|form| step::<f32>(&case, form, &state, &x, true));
        let [of_expanded, of_folded] = [&expanded, &folded].map(|step| apart(&step.gradients, &truth.gradients));
        let y = ratio(&folded.y, &truth.y);
        println!("{}: output {y:.1e}, gradients {of_folded:?}, expanded {of_expanded:?}", case.kind.name());
        assert!(y <= 1e-4, "output {y:e} apart in {case:?}");
        assert!(of_folded.0 <= 1e-2 && of_folded.0 <= of_expanded.0, "{of_folded:?} in {case:?}, {of_expanded:?}");
    }
}

#[test]
fn gradients_of_the_folded_form_are_central_differences() {
    let check = GradCheck { step: 1e-5, atol: 1e-6, rtol: 1e-5, seed: 2 };
    let (spec, [h, w]) = places()[0];
    let x = randn([3, spec.cin, h, w], 7);
    for kind in kinds(2).iter().map(|kind| with_form(kind, Form::Folded)) {
        let report = gradcheck(&kind, spec, x.clone(), Mode::Train, &check);
        let report = report.unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        assert_eq!(report.entries, x.len() + site(&kind, spec, 3).parameters());
    }
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    for (i, kind) in all_kinds(20).into_iter().enumerate() {
        let (before, after, activation) = (Before::Pending, After::Depthwise, Activation::Relu);
        let sizes = [19, 24, 40, 16, 15]; // enough work for several threads
        let case = &Case { kind, sizes, before, after, activation, dead: false, seed: i as u64 };
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let step = step::<f32>(case, Form::Folded, &case.state(), &case.input(), true);
                let tensors = [step.y].into_iter().chain(step.gradients.into_values()).chain(step.after.into_values());
                tensors.flat_map(|t| t.to_vec()).map(f64::to_bits).collect::<Vec<_>>()
            })
        };
        let one = with(1);
        assert!(one.len() > 50_000);
        assert!(one == with(2) && one == with(3), "{case:?}");
    }
}

#[test]
fn evaluation_is_the_same_in_either_form() {
    let (spec, [h, w]) = places()[0];
    let x = randn([3, spec.cin, h, w], 5);
    for kind in kinds(5) {
        let of = |form| eval(&site(&with_form(&kind, form), spec, 6), &x);
        assert_eq!(of(Form::Folded).to_vec(), of(Form::Expanded).to_vec(), "{kind:?}");
        assert_eq!(of(Form::Auto).to_vec(), of(Form::Expanded).to_vec(), "{kind:?}");
    }
}

#[test]
fn auto_folds_where_that_costs_less() {
    let folds = |sizes| {
        let (before, after, activation) = (Before::Plain, After::Loss, Activation::Relu);
        let kind = mdconv(Form::Auto, 20, true, Gate::Sigmoid, 1.0);
        let case = Case { kind, sizes, before, after, activation, dead: false, seed: 0 };
        step::<f32>(&case, Form::Auto, &case.state(), &case.input(), false).ops.contains(&"folded_site")
    };
    assert!(folds([2, 16, 16, 32, 32])); // a thousand positions for one small matrix
    assert!(!folds([2, 336, 56, 4, 4])); // as many positions as the matrix has rows
}

#[test]
fn a_static_site_folds_where_few_channels_become_many() {
    let ops = |[c, o, size]: [usize; 3], mode| {
        let site = StaticConv::<f32>::new(SiteSpec::pointwise(c, o), &Init::new(0));
        let cx = Cx::new(mode, true);
        let x = cx.input(randn([32, c, size, size], 0), true);
        let (_, events) = profile(|| site.forward(&cx, &x, Activation::Relu).unwrap());
        events.iter().map(|event| event.op).collect::<Vec<_>>()
    };
    assert!(ops([8, 48, 32], Mode::Train).contains(&"single_site"));
    assert!(!ops([8, 48, 32], Mode::Eval).contains(&"single_site")); // by the running statistics
    assert!(!ops([8, 48, 8], Mode::Train).contains(&"single_site")); // a small map
    assert!(!ops([24, 144, 32], Mode::Train).contains(&"single_site")); // a large covariance
    assert!(!ops([16, 32, 64], Mode::Train).contains(&"single_site")); // hardly more channels
}

#[test]
fn only_pointwise_sites_without_a_rectifier_train_folded() {
    let error = |kind: &ConvKind, spec| match kind.build::<f64>(spec, &Init::new(0)) {
        Ok(_) => panic!("{kind:?} was built at {spec}"),
        Err(error) => error.to_string(),
    };
    let folded = maconv(Form::Folded, 6, true);
    let strided = SiteSpec { stride: 2, ..SiteSpec::pointwise(4, 6) };
    let grouped = SiteSpec { groups: 2, ..SiteSpec::pointwise(4, 6) };
    for spec in [SiteSpec::same(4, 6, 3, 1), strided, grouped] {
        let message = error(&folded, spec);
        assert!(message.contains("cannot train folded") && message.contains("form auto"), "{message}");
    }
    let cx = Cx::train();
    let x = cx.input(randn([2, 4, 3, 3], 0), true);
    let of_static = StaticConv::<f64>::new(strided, &Init::new(0)).forward_folded(&cx, &x, Activation::Relu);
    assert!(of_static.err().unwrap().to_string().contains("cannot train folded"));
    let relu = ConvKind::MaConv(MaConv { activation: BranchActivation::Relu, form: Form::Folded, ..MaConv::default() });
    assert!(error(&relu, SiteSpec::pointwise(4, 6)).contains("cannot train folded"));
}

#[test]
fn one_value_a_channel_has_no_variance() {
    let spec = SiteSpec::pointwise(3, 4);
    for form in [Form::Expanded, Form::Folded] {
        for kind in [maconv(form, 5, true), mdconv(form, 5, true, Gate::Sigmoid, 1.0)] {
            let cx = Cx::train();
            let x = cx.input(randn([1, 3, 1, 1], 0), true);
            let Err(error) = site(&kind, spec, 1).forward(&cx, &x, Activation::Relu) else { panic!("{kind:?}") };
            assert!(error.to_string().contains("variance"), "{kind:?}: {error}");
        }
    }
    let cx = Cx::train();
    let x = cx.input(randn([1, 3, 1, 1], 0), true);
    let of_static = StaticConv::<f64>::new(spec, &Init::new(0)).forward_folded(&cx, &x, Activation::Relu);
    assert!(of_static.err().unwrap().to_string().contains("variance"));
}
