//! One batch norm after the sum, (md.2), and the compact form, (md.3), are the same function of the same parameters.

use gatefold_layers::{BranchActivation, ConvKind, Form, Gate, Init, MdConv, Walk};
use gatefold_tensor::random::randn;

use crate::support::{
    FORMS, assert_all_close, assert_close, eval, maconv, mdconv, places, randomise, site, train_step,
};

// ANCHOR: identity
#[test]
fn expanded_with_one_batch_norm_equals_compact() {
    for (spec, [h, w]) in places() {
        let (m, x) = (3 * spec.groups, randn([3, spec.cin, h, w], 5));
        for bypass in [true, false] {
            let kinds = [
                |form, m, bypass| maconv(form, m, bypass),
                |form, m, bypass| mdconv(form, m, bypass, Gate::Sigmoid, 1.0),
                |form, m, bypass| mdconv(form, m, bypass, Gate::Softmax, 0.5),
            ];
            for kind in kinds {
                let mut expanded = site(&kind(Form::ExpandedBnAfter, m, bypass), spec, 6);
                let mut compact = site(&kind(Form::Compact, m, bypass), spec, 60);
                compact.load(&expanded.state()).unwrap(); // either loads the other
                let what = format!("{} at {spec}, bypass {bypass}", kind(Form::Compact, m, bypass).name());
                let [a, b] = [&mut expanded, &mut compact].map(|site| train_step(site, &x, 11));
                assert_close(&what, &b.y, &a.y, 1e-11);
                assert_all_close(&what, &b.gradients, &a.gradients, 1e-11);
                assert_all_close(&what, &b.after, &a.after, 1e-11);
                assert_close(&format!("{what}, eval"), &eval(&compact, &x), &eval(&expanded, &x), 1e-11);
            }
        }
    }
}
// ANCHOR_END: identity

#[test]
fn a_compact_bias_of_zero_is_the_compact_form() {
    let (spec, [h, w]) = places()[3];
    let x = randn([2, spec.cin, h, w], 5);
    let mut with = site(&mdconv(Form::CompactBias, 4, true, Gate::Sigmoid, 1.0), spec, 6);
    let mut state = with.state();
    for (key, value) in &mut state {
        if key.contains("conv") && key.ends_with("bias") {
            *value = value.map(|_| 0.0);
        }
    }
    with.load(&state).unwrap();
    let mut without = site(&mdconv(Form::Compact, 4, true, Gate::Sigmoid, 1.0), spec, 6);
    state.retain(|key, _| !(key.contains("conv") && key.ends_with("bias")));
    without.load(&state).unwrap();
    let [a, b] = [&mut with, &mut without].map(|site| train_step(site, &x, 11));
    assert_close("output", &a.y, &b.y, 1e-12);
    assert_all_close("statistics", &a.after, &b.after, 1e-12);
}

#[test]
fn keys_are_the_state_dicts() {
    let (spec, _) = places()[2];
    let keys = |form, bypass| {
        let site = site(&mdconv(form, 2, bypass, Gate::Sigmoid, 1.0), spec, 1);
        let mut keys: Vec<_> = site.state().into_keys().filter(|key| !key.contains("running_")).collect();
        keys.retain(|key| !key.starts_with("attention."));
        keys.join(" ")
    };
    let found = FORMS.map(|form| [true, false].map(|bypass| keys(form, bypass)));
    let inner = "branch.bn1.bias branch.bn1.weight branch.bn2.bias branch.bn2.weight branch.conv1.weight \
                 branch.conv2.weight";
    let branch = "branch.conv1.weight branch.conv2.weight";
    let biased = "branch.conv1.bias branch.conv1.weight branch.conv2.bias branch.conv2.weight";
    let plain = [format!("bn.bias bn.weight {branch} bypass.conv.weight"), format!("bn.bias bn.weight {branch}")];
    let expected = [
        [format!("{inner} bypass.bn.bias bypass.bn.weight bypass.conv.weight"), inner.to_owned()],
        plain.clone(),
        plain,
        [
            format!("bn.bias bn.weight {biased} bypass.conv.bias bypass.conv.weight"),
            format!("bn.bias bn.weight {biased}"),
        ],
    ];
    assert_eq!(found, expected);
}

#[test]
fn options_that_cannot_be_are_errors_that_say_why() {
    let (spec, _) = places()[3];
    let message = |options: MdConv| match ConvKind::MdConv(options).build::<f64>(spec, &Init::new(0)) {
        Ok(_) => panic!("no error"),
        Err(error) => error.to_string(),
    };
    let m4 = MdConv { m: 4, ..MdConv::default() };
    assert!(message(MdConv { m: 5, ..m4.clone() }).contains("m = 5 must be a multiple of 2 groups"));
    assert!(message(MdConv { m: 0, ..m4.clone() }).contains("m = 0"));
    assert!(message(MdConv { hidden: f64::NAN, ..m4.clone() }).contains("hidden ratio"));
    assert!(message(MdConv { temperature: 0.0, ..m4.clone() }).contains("temperature 0"));
    let relu = MdConv { form: Form::Compact, activation: BranchActivation::Relu, ..m4 };
    assert!(message(relu).contains("no compact form"));
}

#[test]
fn random_values_reach_every_entry() {
    let (spec, _) = places()[0];
    let mut site = site(&mdconv(Form::Expanded, 3, true, Gate::Sigmoid, 1.0), spec, 1);
    let before = site.state();
    randomise(&mut site, 2);
    for (key, value) in site.state() {
        assert!(value.max_abs_diff(&before[&key]).unwrap() > 0.0, "{key}");
    }
}
