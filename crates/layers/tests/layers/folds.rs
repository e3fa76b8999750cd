//! Random sites and their folds are the same function in eval mode.

use gatefold_layers::sites::CompactDynamic;
use gatefold_layers::{
    BranchActivation, ConvKind, Evaluation, FoldError, Folded, Form, Gate, MaConv, MdConv, Site, SiteSpec, Walk,
};
use gatefold_tensor::Tensor;
use gatefold_tensor::random::{self, Purpose, randn};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::support::{AnySite, FORMS, eval, kinds, maconv, mdconv, places, site};

/// A site, the shape of its input, and the seed of its values.
#[derive(Debug, Clone)]
struct Sample {
    kind: ConvKind,
    spec: SiteSpec,
    x: [usize; 4],
    seed: u64,
}

prop_compose! {
    fn any_spec()(
        kernel in prop::sample::select(vec![1usize, 3, 5]),
        [stride, padding, dilation] in [1usize..4, 0..4, 1..4],
        groups in 1usize..4,
        [cin, cout] in [1usize..4, 1..4],
    ) -> SiteSpec {
        let plain = SiteSpec::pointwise(cin * groups, cout * groups);
        SiteSpec { kernel, stride, padding, dilation, groups, ..plain }
    }
}

prop_compose! {
    fn any_sample()(spec in any_spec())(
        spec in Just(spec),
        kind in 0..5,
        form in prop::sample::select(FORMS.to_vec()),
        m in 1usize..7,
        bypass in any::<bool>(),
        [n, h, w] in [1usize..4, 0..6, 0..6],
        seed in any::<u64>(),
    ) -> Sample {
        let m = m * spec.groups;
        let kind = match kind {
            0 => ConvKind::named("static").unwrap(),
            1 => maconv(form, m, bypass),
            2 => mdconv(form, m, bypass, Gate::Sigmoid, 1.0),
            3 => mdconv(form, m, bypass, Gate::Softmax, 0.3),
            _ => mdconv(form, m, bypass, Gate::Softmax, 30.0),
        };
        // The smallest map that the kernel fits, and somewhat more.
        let least = (spec.dilation * (spec.kernel - 1) + 1).saturating_sub(2 * spec.padding).max(1);
        Sample { kind, spec, x: [n, spec.cin, least + h, least + w], seed }
    }
}

/// Batch norms as training may leave them: γ of either sign or zero, variances from next to nothing to large.
fn rough_statistics(site: &mut AnySite, seed: u64) {
    let mut rng = random::stream(seed, Purpose::Test, 2, 0);
    let mut choose = |of: &[f64]| of[(random::uniform(&mut rng, 0.0, of.len() as f64) as usize).min(of.len() - 1)];
    site.walk_mut("", &mut |key, mut entry| {
        let gamma = key.ends_with("weight") && entry.value().shape().len() == 1;
        for v in entry.value().as_mut_slice() {
            if gamma {
                *v *= choose(&[1.0, 1.0, -1.0, 0.0, 1e-3]);
            } else if key.ends_with("running_var") {
                *v *= choose(&[1.0, 1.0, 100.0, 1e-5, 1e-12, 0.0]);
            }
        }
    });
}

fn apart(a: &Tensor<f64>, b: &Tensor<f64>) -> f64 {
    assert_eq!(a.shape(), b.shape());
    a.max_abs_diff(b).unwrap() / b.max_abs().max(1.0)
}

fn evaluated(site: &CompactDynamic<f64>, evaluation: Evaluation) -> CompactDynamic<f64> {
    let mut site = site.clone();
    site.evaluation = evaluation;
    site
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(20),
        failure_persistence: None,
        ..ProptestConfig::with_cases(400)
    })]

    // ANCHOR: one_function
    #[test]
    fn a_site_and_its_fold_are_one_function(sample in any_sample()) {
        let Sample { kind, spec, x, seed } = sample;
        let mut site = site(&kind, spec, seed);
        rough_statistics(&mut site, seed);
        let (x, before) = (randn(x, seed), site.state());
        let y = eval(&site, &x);
        prop_assert!(y.is_finite());
        let folded = site.fold().unwrap();
        let difference = apart(&eval(&folded, &x), &y);
        prop_assert!(difference < 1e-10, "{:e} apart", difference);
        prop_assert_eq!(folded.spec(), &spec);
        match (&folded, &kind) {
            (Folded::Dynamic(folded), ConvKind::MdConv(_)) => {
                for evaluation in [Evaluation::Compact, Evaluation::Expanded, Evaluation::Auto] {
                    let difference = apart(&eval(&evaluated(folded, evaluation), &x), &y);
                    prop_assert!(difference < 1e-10, "{:?}: {:e} apart", evaluation, difference);
                }
            }
            (Folded::Conv(_), ConvKind::Static(_) | ConvKind::MaConv(_)) => {}
            _ => prop_assert!(false, "{} folds to another type", kind.name()),
        }
        // Folding leaves the site alone.
        for (key, value) in site.state() {
            prop_assert_eq!(value.to_vec(), before[&key].to_vec(), "{}", key);
        }
    }
    // ANCHOR_END: one_function
}

// ANCHOR: one_percent
#[test]
fn a_bias_one_percent_off_shows() {
    let spec = SiteSpec::same(3, 4, 3, 1);
    let site = site(&maconv(Form::Expanded, 4, true), spec, 2);
    let x = randn([2, 3, 5, 4], 3);
    let y = eval(&site, &x);
    let Folded::Conv(mut folded) = site.fold().unwrap() else { panic!("MAConv folds to one convolution") };
    assert!(apart(&eval(&folded, &x), &y) < 1e-12);
    let bias = &mut folded.conv.bias.as_mut().unwrap().value;
    *bias = bias.map(|b| b * 1.01);
    assert!(apart(&eval(&folded, &x), &y) > 1e-4);
}
// ANCHOR_END: one_percent

#[test]
fn auto_takes_the_evaluation_that_costs_less() {
    let spec = SiteSpec::pointwise(8, 6);
    let site = site(&mdconv(Form::Expanded, 5, true, Gate::Sigmoid, 1.0), spec, 2);
    let Folded::Dynamic(folded) = site.fold().unwrap() else { panic!("MDConv folds to a dynamic site") };
    let macs = |evaluation, input| evaluated(&folded, evaluation).cost(input).unwrap().macs;
    let mut cheaper = Vec::new();
    for input in [[1, 1], [3, 3], [8, 8], [32, 32]] {
        let [auto, compact, expanded] =
            [Evaluation::Auto, Evaluation::Compact, Evaluation::Expanded].map(|e| macs(e, input));
        assert_eq!(auto, compact.min(expanded), "at {input:?}");
        cheaper.push(compact < expanded);
    }
    assert_eq!(cheaper, [false, true, true, true], "one pixel is not worth a kernel of its own");
}

#[test]
fn a_rectifier_inside_the_branch_refuses_to_fold() {
    let (spec, _) = places()[0];
    let activation = BranchActivation::Relu;
    for form in [Form::Expanded, Form::ExpandedBnAfter] {
        let kinds = [
            ConvKind::MaConv(MaConv { m: 2, form, activation, bypass: true }),
            ConvKind::MdConv(MdConv { m: 2, form, activation, ..MdConv::default() }),
        ];
        for kind in kinds {
            match site(&kind, spec, 1).fold() {
                Err(FoldError::NotFoldable(why)) => assert!(why.contains("ReLU"), "{why}"),
                other => panic!("{kind:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn keys_of_folded_sites() {
    let (spec, _) = places()[2];
    for kind in kinds(2) {
        let Ok(folded) = site(&kind, spec, 1).fold() else { continue };
        let mut keys: Vec<_> = folded.state().into_keys().collect();
        keys.retain(|key| !key.starts_with("attention."));
        let expected: &[&str] = match &kind {
            ConvKind::MdConv(MdConv { bypass: true, .. }) => &[
                "branch.conv1.bias",
                "branch.conv1.weight",
                "branch.conv2.weight",
                "bypass.conv.bias",
                "bypass.conv.weight",
            ],
            ConvKind::MdConv(_) => {
                &["branch.conv1.bias", "branch.conv1.weight", "branch.conv2.bias", "branch.conv2.weight"]
            }
            _ => &["conv.bias", "conv.weight"],
        };
        assert_eq!(keys, expected, "{kind:?}");
    }
}
