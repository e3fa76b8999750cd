//! Every kind of site: a step of training, the statistics it leaves, eval mode with these, and the fold.

use std::collections::BTreeMap;

use gatefold_layers::{Activation, ConvKind, Cx, Entry, FoldError, Init, Site, SiteSpec, TrainedSite, Walk};
use gatefold_tensor::{Real, Tensor};
use serde_json::Value;

use super::{Case, Golden};

fn files() -> [Golden; 3] {
    [Golden::open("sites"), Golden::with_own_cases("dynamic"), Golden::with_own_cases("reparameterised")]
}

#[test]
fn sites_in_f64() {
    files().iter().for_each(|file| file.for_each(|case| check::<f64>(case, 1e-12)));
}

#[test]
fn sites_in_f32() {
    files().iter().for_each(|file| file.for_each(|case| check::<f32>(case, 1e-4)));
}

fn check<T: Real>(case: &Case<'_>, tolerance: f64) {
    let (spec, kind) = (place(case), kind(case));
    let mut site = kind.build::<T>(spec, &Init::new(0)).unwrap_or_else(|error| panic!("{}: {error}", case.name));
    let state: BTreeMap<_, _> =
        case.below("state/").into_iter().map(|key| (key.clone(), at(case, "state", &key))).collect();
    site.load(&state).unwrap_or_else(|error| panic!("{}: {error}", case.name));

    train(case, &mut site, tolerance);
    case.compare("y_eval", &eval(case, &site), tolerance);

    let conv = case.option("conv");
    let naive = conv["padding"] == "naive" && conv["inner-norms"] == true;
    let bare = conv["activation"] == "relu" || kind.name() == "se" || naive;
    let fold_is_written = conv["form"] == "expanded" || case.golden.name == "reparameterised";
    match site.fold() {
        Ok(folded) => {
            assert!(!bare, "{}: folded", case.name);
            case.compare("y_eval", &eval(case, &folded), tolerance);
            let written = case.below("folded/");
            assert_eq!(!written.is_empty(), fold_is_written, "{}: {written:?}", case.name);
            for (key, value) in folded.state() {
                if key.starts_with("attention.") {
                    assert_eq!(value.to_vec(), state[&key].to_vec(), "{}: a fold changes `{key}`", case.name);
                } else if !written.is_empty() {
                    assert!(written.contains(&key), "{}: PyTorch's fold has no `{key}`", case.name);
                    case.compare(&format!("folded/{key}"), &value, tolerance);
                }
            }
        }
        Err(FoldError::NotFoldable(_)) if bare => {}
        Err(error) => panic!("{}: {error}", case.name),
    }
}

/// One step in train mode: output, gradients at the input and at every parameter, and statistics.
fn train<T: Real>(case: &Case<'_>, site: &mut Box<dyn TrainedSite<T>>, tolerance: f64) {
    let cx = Cx::train();
    let x = cx.input(case.tensor("x"), true);
    let y = site.forward(&cx, &x, Activation::Identity).unwrap();
    case.compare("y", y.value(), tolerance);
    let mut gradients = y.backward_with(case.tensor("dy")).unwrap();
    case.compare("dx", &gradients.take(&x).unwrap(), tolerance);
    let mut running = Vec::new();
    site.walk("", &mut |key, entry| match entry {
        Entry::Param(param) => {
            let gradient = gradients.take(&param.var(&cx)).unwrap_or_else(|| panic!("{}: none at {key}", case.name));
            case.compare(&format!("gradient/{key}"), &gradient, tolerance);
        }
        Entry::Buffer(_) => running.push(key.to_owned()),
    });
    cx.into_statistics().apply(site).unwrap();
    let after = site.state();
    running.iter().for_each(|key| case.compare(&format!("after/{key}"), &after[key], tolerance));
}

fn eval<T: Real>(case: &Case<'_>, site: &impl Site<T>) -> Tensor<T> {
    let cx = Cx::eval();
    site.forward(&cx, &cx.input(case.tensor("x"), false), Activation::Identity).unwrap().value().clone()
}

fn at<T: Real>(case: &Case<'_>, what: &str, key: &str) -> Tensor<T> {
    case.tensor(&format!("{what}/{key}"))
}

fn place(case: &Case<'_>) -> SiteSpec {
    let site = case.option("site");
    let of = |key: &str| usize::try_from(site[key].as_u64().unwrap()).unwrap();
    SiteSpec {
        kernel: of("k"),
        stride: of("stride"),
        padding: of("padding"),
        dilation: of("dilation"),
        groups: of("groups"),
        ..SiteSpec::pointwise(of("cin"), of("cout"))
    }
}

/// The kind, read as model files hold it. Options that static, MAConv and MDConv do not have are there with their
/// defaults.
fn kind(case: &Case<'_>) -> ConvKind {
    let options: &[&str] = match case.option("conv")["kind"].as_str().unwrap() {
        "static" => &["kind"],
        "maconv" => &["kind", "m", "bypass", "activation", "form"],
        "mdconv" => &["kind", "m", "bypass", "activation", "form", "gate", "temperature", "hidden"],
        _ => &[],
    };
    let mut all = case.option("conv").as_object().unwrap().clone();
    all.retain(|key, _| options.is_empty() || options.contains(&key.as_str()));
    serde_json::from_value(Value::Object(all)).unwrap_or_else(|error| panic!("{}: {error}", case.name))
}
