//! Every kind of site against central differences, at its input and at every parameter.

use gatefold_autograd::GradCheck;
use gatefold_layers::{BranchActivation, ConvKind, Mode, Site, Walk};
use gatefold_tensor::random::randn;

use crate::support::{gradcheck, kinds, places, site, train_step};

fn check_all(mode: Mode) {
    let check = GradCheck { step: 1e-5, atol: 1e-6, rtol: 1e-5, seed: 2 };
    for (spec, [h, w]) in places() {
        let x = randn([3, spec.cin, h, w], 7);
        for kind in kinds(2 * spec.groups) {
            let report = gradcheck(&kind, spec, x.clone(), mode, &check)
                .unwrap_or_else(|error| panic!("{kind:?} at {spec}, {mode:?}: {error}"));
            assert_eq!(report.entries, x.len() + site(&kind, spec, 3).parameters());
        }
    }
}

#[test]
fn gradients_of_every_site_in_train_mode() {
    check_all(Mode::Train);
}

#[test]
fn gradients_of_every_site_in_eval_mode() {
    check_all(Mode::Eval);
}

#[test]
fn a_site_that_is_not_replaceable_stays_static() {
    let (spec, _) = places()[0];
    for kind in kinds(2) {
        let site = site(&kind, spec.fixed(), 1);
        assert_eq!(site.state().keys().next().unwrap(), "bn.bias");
        assert_eq!(*site.spec(), spec.fixed());
        assert!(site.state().contains_key("conv.weight"));
    }
}

#[test]
fn every_parameter_gets_a_gradient_that_is_not_zero() {
    for (spec, [h, w]) in places() {
        for kind in kinds(2 * spec.groups) {
            let step = train_step(&mut site(&kind, spec, 4), &randn([3, spec.cin, h, w], 8), 9);
            // A constant before a batch norm is taken out again: the outer biases, and those between the two
            // convolutions where nothing that depends on the sample or is not linear follows. Everything else matters.
            let mut constants = vec!["bypass.conv.bias", "branch.conv2.bias"];
            if matches!(&kind, ConvKind::MaConv(options) if options.activation == BranchActivation::Gate) {
                constants.extend(["branch.bn1.bias", "branch.conv1.bias"]);
            }
            for (key, gradient) in &step.gradients {
                let zero = constants.contains(&key.as_str());
                assert_eq!(gradient.max_abs() < 1e-12, zero, "{kind:?} at {spec}, {key}: {}", gradient.max_abs());
            }
            assert!(step.gradients.len() > 2 || matches!(kind, ConvKind::Static(_)));
        }
    }
}
