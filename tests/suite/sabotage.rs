//! Folds that are wrong on purpose. Each must end in NOT EQUAL, at the right site and for the right reason; the same
//! networks folded rightly end in EQUAL.

mod files;
mod net;

use gatefold_autograd::Var;
use gatefold_layers::{
    Activation, BatchNorm2d, ConvKind, Cost, Cx, Entry, EntryMut, FoldError, Folded, MaConv, MdConv, Module, Site,
    SiteSpec, Walk, fold,
};
use gatefold_models::BackboneSite;
use gatefold_tensor::kernels::conv::conv2d;
use gatefold_tensor::{Real, Result, Tensor};
use gatefold_train::verify::{Question, Report};
use net::{FoldedNet, GROUPED, GROUPS, Net, STRIDED, Subject};

fn static_kind() -> ConvKind {
    ConvKind::named("static").unwrap()
}

fn maconv() -> ConvKind {
    ConvKind::MaConv(MaConv { m: 8, ..MaConv::default() })
}

fn mdconv() -> ConvKind {
    ConvKind::MdConv(MdConv { m: 8, ..MdConv::default() })
}

/// NOT EQUAL as stored, at `site`, for a cause that begins so.
fn assert_parts(report: &Report, site: usize, cause: &str) {
    let parts_at = report.parts_at.as_ref().expect("a sabotaged fold is NOT EQUAL");
    assert!(!report.equal && report.exit_status() == 1);
    assert_eq!((parts_at.path.as_str(), parts_at.question), (format!("sites.{site}").as_str(), Question::Rounding));
    assert!(parts_at.cause.starts_with(cause), "{}", parts_at.cause);
    assert!(report.algebra.as_ref().unwrap().worst_site() <= report.limits.algebra, "A's own fold is right");
}

#[test]
fn an_honest_fold_is_equal() {
    for kind in [static_kind(), maconv(), mdconv()] {
        let subject = Subject::trained(&kind);
        let report = subject.against(&subject.stored(&subject.wide_a.folded()));
        assert!(report.equal && report.exit_status() == 0, "{}: {:?}", kind.name(), report.parts_at);
        assert_eq!((report.rounding.images, report.rounding.top1_equal), (150, 150));
        // The statistics are real, some γ are negative, and the two do not agree to the last bit: something was compared.
        let state = subject.a.state();
        let any = |key: &str, is: &dyn Fn(f32) -> bool| {
            state
                .iter()
                .filter(|(of, _)| of.contains("bn") && of.ends_with(key))
                .any(|(_, v)| v.to_vec().iter().any(|&v| is(v)))
        };
        assert!(any("weight", &|gamma| gamma < -0.5) && any("running_mean", &|mean| mean.abs() > 0.1));
        assert!(report.algebra.as_ref().unwrap().worst_site() > 0.0 && report.rounding.worst_site() > 0.0);
        // The 3x3 sites have a border and an interior, the pointwise one has no border.
        let has = report.rounding.sites.iter().map(|site| (site.border.is_some(), site.interior.is_some()));
        assert_eq!(has.collect::<Vec<_>>(), [(true, true), (true, true), (true, true), (false, true)]);
    }
}

/// A folded site that computes otherwise than it should.
struct Saboteur<T: Real> {
    site: Folded<T>,
    how: How<T>,
}

enum How<T: Real> {
    /// It does not.
    Honest,
    /// The padding comes after the shift of BN_1: the part `W_2' b_1'` of the bias comes in through the taps of the
    /// first kernel, and taps in the padding bring nothing.
    PaddedAfterShift { through: Tensor<T> },
    /// Image n gets the gate of image n + 1.
    GateOfNext,
}

impl<T: Real> Walk<T> for Saboteur<T> {
    fn walk<'a>(&'a self, prefix: &str, visit: &mut dyn FnMut(&str, Entry<'a, T>)) {
        self.site.walk(prefix, visit);
    }

    fn walk_mut<'a>(&'a mut self, prefix: &str, visit: &mut dyn FnMut(&str, EntryMut<'a, T>)) {
        self.site.walk_mut(prefix, visit);
    }
}

impl<T: Real> Site<T> for Saboteur<T> {
    fn spec(&self) -> &SiteSpec {
        self.site.spec()
    }

    fn forward(&self, cx: &Cx<T>, x: &Var<T>, activation: Activation) -> Result<Var<T>> {
        match (&self.how, &self.site) {
            (How::Honest, site) => site.forward(cx, x, activation),
            (How::PaddedAfterShift { through }, Folded::Conv(site)) => {
                let (spec, geometry) = (self.spec(), self.spec().geometry());
                let mut rest = site.conv.bias.as_ref().unwrap().value.clone();
                rest.zip_apply(through, |b, through| *b -= through)?;
                let [n, _, h, w] = x.value().dims("sabotage", "x")?;
                let k = spec.kernel;
                let tap = |i: &[usize]| through.as_slice()[i[0]] / T::of((k * k) as f64);
                let taps = Tensor::from_fn([spec.cout, 1, k, k], tap);
                let y = conv2d(x.value(), &site.conv.weight.value, Some(&rest), &geometry)?;
                let shift = conv2d(&Tensor::ones([n, 1, h, w]), &taps, None, &geometry.groups(1))?;
                Ok(activation.apply(Var::constant(y).add(&Var::constant(shift))?))
            }
            // ANCHOR: gate_of_next
            (How::GateOfNext, Folded::Dynamic(site)) => {
                let [n, c, h, w] = x.value().dims("sabotage", "x")?;
                let of = x.value().view();
                let next = Tensor::from_fn([n, c, h, w], |i| of[[(i[0] + 1) % n, i[1], i[2], i[3]]]);
                let a = site.attention.forward(cx, &Var::constant(next))?;
                let a = a.reshape([n, a.shape()[1], 1, 1])?;
                let branch = site.branch.conv2.forward(cx, &site.branch.conv1.forward(cx, x)?.mul(&a)?)?;
                Ok(activation.apply(site.bypass.as_ref().unwrap().conv.forward(cx, x)?.add(&branch)?))
            }
            // ANCHOR_END: gate_of_next
            _ => panic!("no such sabotage of this site"),
        }
    }

    fn cost(&self, input: [usize; 2]) -> Result<Cost> {
        self.site.cost(input)
    }
}

impl<T: Real> BackboneSite<T> for Saboteur<T> {
    fn folded(&self) -> Result<Folded<T>, FoldError> {
        Err(FoldError::NotFoldable("it is folded already".to_owned()))
    }
}

/// The network with one site sabotaged.
fn sabotaged<T: Real>(net: FoldedNet<T>, at: usize, how: How<T>) -> Net<T, Saboteur<T>> {
    let mut how = Some(how);
    let mut saboteur = |(i, site)| {
        let how = if i == at { how.take() } else { None };
        Saboteur { site, how: how.unwrap_or(How::Honest) }
    };
    Net { sites: net.sites.into_iter().enumerate().map(&mut saboteur).collect(), classifier: net.classifier }
}

/// `W_2' b_1'` of a site, from the values of A.
fn bias_through_branch(subject: &Subject, site: usize) -> Tensor<f64> {
    let state = subject.wide_a.state();
    let value = |key: &str| state[&format!("sites.{site}.branch.{key}")].clone();
    let norm = |name: &str| {
        let mut bn = BatchNorm2d::new(value(&format!("{name}.weight")).len());
        bn.weight.value = value(&format!("{name}.weight"));
        bn.bias.value = value(&format!("{name}.bias"));
        bn.running_mean.value = value(&format!("{name}.running_mean"));
        bn.running_var.value = value(&format!("{name}.running_var"));
        bn
    };
    let (bn1, bn2) = (norm("bn1"), norm("bn2"));
    let b1 = fold::shift(&bn1, &Tensor::zeros(*bn1.bias.value.shape())).unwrap();
    let w2 = fold::scale_kernels(&value("conv2.weight"), &fold::scale(&bn2).unwrap());
    fold::bias_through(&w2, &b1, 1).unwrap()
}

#[test]
fn a_border_padded_before_the_batch_norm_is_not_equal() {
    let subject = Subject::trained(&maconv());
    let through = bias_through_branch(&subject, STRIDED);
    let (stored, wide) = subject.stored(&subject.wide_a.folded());
    let b = (
        sabotaged(stored, STRIDED, How::PaddedAfterShift { through: through.cast() }),
        sabotaged(wide, STRIDED, How::PaddedAfterShift { through }),
    );
    let report = subject.against(&b);
    assert_parts(&report, STRIDED, "padding: only the border parts");
    let site = report.storage.site("sites.2").unwrap();
    let (border, interior) = (site.border.unwrap(), site.interior.unwrap());
    assert!(border.ratio > 1e-3 && interior.ratio < 1e-6, "{border:?} {interior:?}");
}

#[test]
fn statistics_one_percent_off_are_not_equal() {
    // What is changed at which site of which kind; the tensor of the file in which it shows, and the cause.
    let cases = [
        (static_kind(), "sites.1.bn.running_var", "sites.1.conv.weight", "statistics: "),
        (static_kind(), "sites.2.bn.running_mean", "sites.2.conv.bias", "statistics: the kernels agree"),
        (mdconv(), "sites.1.bypass.bn.running_var", "sites.1.bypass.conv.weight", "statistics: "),
        (mdconv(), "sites.2.branch.bn1.running_var", "sites.2.branch.conv1.weight", "statistics: "),
        // In one composed kernel the three batch norms cannot be told apart.
        (maconv(), "sites.2.bypass.bn.running_var", "sites.2.conv.", "weights or statistics: "),
    ];
    for (kind, changed, shows_in, cause) in cases {
        let subject = Subject::trained(&kind);
        let other = subject.changed(&kind, |state| {
            let value = state.get_mut(changed).unwrap();
            *value = value.map(|v| v * 1.01);
        });
        let report = subject.against(&subject.stored(&other.folded()));
        let site = changed["sites.".len()..].split('.').next().unwrap().parse().unwrap();
        assert_parts(&report, site, cause);
        let cause = report.parts_at.unwrap().cause;
        assert!(cause.contains(shows_in), "{changed}: {cause}");
        if changed.ends_with("running_var") && cause.starts_with("statistics") {
            // 1/√1.01; a variance as small as ε moves less.
            assert!(cause.contains("kernels times 0.99") && cause.contains("another running variance"), "{cause}");
        }
    }
}

#[test]
fn groups_mixed_up_are_not_equal() {
    for kind in [static_kind(), maconv()] {
        let subject = Subject::trained(&kind);
        let mut fold = subject.wide_a.folded();
        let mut state = fold.state();
        let kernels = state.get_mut(&format!("sites.{GROUPED}.conv.weight")).unwrap();
        let group = kernels.len() / GROUPS;
        let (first, rest) = kernels.as_mut_slice().split_at_mut(group);
        first.swap_with_slice(&mut rest[2 * group..]);
        fold.load(&state).unwrap();
        let report = subject.against(&subject.stored(&fold));
        let cause = "groups mixed up: in `sites.1.conv.weight` group 0 has the kernels of group 3 (8 kernels moved)";
        assert_parts(&report, GROUPED, cause);
    }
}

#[test]
fn a_gate_of_another_sample_is_not_equal() {
    let subject = Subject::trained(&mdconv());
    let (stored, wide) = subject.stored(&subject.wide_a.folded());
    let b = (sabotaged(stored, STRIDED, How::GateOfNext), sabotaged(wide, STRIDED, How::GateOfNext));
    let report = subject.against(&b);
    assert_parts(&report, STRIDED, "gate of another image: image by image B agrees with A, in a batch of 100");
}

#[test]
fn an_honest_saboteur_is_equal() {
    for kind in [maconv(), mdconv()] {
        let subject = Subject::trained(&kind);
        let (stored, wide) = subject.stored(&subject.wide_a.folded());
        let b = (sabotaged(stored, STRIDED, How::Honest), sabotaged(wide, STRIDED, How::Honest));
        assert!(subject.against(&b).equal);
    }
}
