use gatefold_layers::Gate;
use gatefold_layers::sites::{Form, MdConv};

use super::*;
use crate::schedule::Step;

fn sets(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn flags(text: &str) -> Table {
    text.parse().unwrap()
}

fn by_sets(pairs: &[(&str, &str)]) -> Result<Config> {
    Config::resolve(None, Table::new(), &sets(pairs))
}

fn by_file(text: &str) -> Result<Config> {
    Config::resolve(Some(&file(text)), Table::new(), &[])
}

fn file(text: &str) -> ConfigFile {
    ConfigFile { path: "my/config.toml".into(), text: text.to_owned() }
}

fn mdconv(config: &Config) -> &MdConv {
    match &config.conv {
        ConvKind::MdConv(options) => options,
        other => panic!("{other:?}"),
    }
}

#[test]
fn defaults_follow_the_data_set() {
    let digits = by_sets(&[]).unwrap();
    assert_eq!(digits, Config::defaults(Kind::Digits));
    assert_eq!((digits.epochs, digits.batch_size, digits.pad, digits.flip), (60, 64, 1, false));
    let cifar = Config::resolve(None, flags("dataset = 'cifar10'"), &[]).unwrap();
    assert_eq!((cifar.epochs, cifar.batch_size, cifar.pad, cifar.flip), (200, 128, 2, true));
    assert_eq!((cifar.lr, cifar.momentum, cifar.weight_decay, cifar.seed), (0.1, 0.9, 5e-4, 0));
    assert_eq!((cifar.conv.name(), cifar.schedule.name()), ("mdconv", "cosine"));
}

#[test]
fn later_layers_beat_earlier_ones() {
    let file =
        &file("epochs = 10\nbatch-size = 32\nlr = 1\nseed = 7\n[conv]\nkind = 'mdconv'\nm = 8\ngate = 'softmax'");
    let config =
        Config::resolve(Some(file), flags("batch-size = 16\nlr = 0.5"), &sets(&[("lr", "0.25"), ("conv.m", "4")]));
    let config = config.unwrap();
    assert_eq!((config.epochs, config.batch_size, config.lr, config.seed), (10, 16, 0.25, 7));
    assert_eq!((mdconv(&config).m, mdconv(&config).gate), (4, Gate::Softmax));
    // The last of two counts, also within --set.
    assert_eq!(by_sets(&[("lr", "1"), ("lr", "2")]).unwrap().lr, 2.0);
}

#[test]
fn texts_of_set_are_read_as_the_key_needs_them() {
    let config = by_sets(&[
        ("conv.form", "compact"),
        ("conv.bypass", "false"),
        ("conv.temperature", "30"),
        ("lr", ".5"),
        ("init", "17"),
        ("dataset", "\"cifar10\""),
        ("schedule", "step"),
        ("schedule.milestones", "[3, 5]"),
    ]);
    let config = config.unwrap();
    let MdConv { form, bypass, temperature, .. } = *mdconv(&config);
    assert_eq!((form, bypass, temperature), (Form::Compact, false, 30.0));
    assert_eq!((config.lr, config.init), (0.5, Some("17".into())));
    assert_eq!(config.dataset, "cifar10");
    assert_eq!(config.schedule, Schedule::Step(Step { every: 0, milestones: vec![3, 5], gamma: 0.1 }));
}

#[test]
fn another_kind_drops_the_options_of_the_one_before() {
    let file = &file("[conv]\nkind = 'mdconv'\nm = 8\ngate = 'softmax'\n[schedule]\nkind = 'step'\nevery = 3");
    let other = Config::resolve(Some(file), flags("conv = 'maconv'\nschedule = 'constant'"), &sets(&[("conv.m", "5")]));
    let other = other.unwrap();
    assert_eq!(other.conv, ConvKind::MaConv(gatefold_layers::sites::MaConv { m: 5, ..Default::default() }));
    assert_eq!(other.schedule.name(), "constant");
    let same = Config::resolve(Some(file), flags("conv = 'mdconv'"), &[]).unwrap();
    assert_eq!((mdconv(&same).m, mdconv(&same).gate), (8, Gate::Softmax));
    // Kind and options in one layer, in any order.
    assert_eq!(by_sets(&[("conv.m", "3"), ("conv", "maconv")]).unwrap().conv.name(), "maconv");
}

#[test]
fn the_later_way_to_place_steps_counts() {
    let file = &file("[schedule]\nkind = 'step'\nmilestones = [3]\ngamma = 0.5");
    let every = Config::resolve(Some(file), Table::new(), &sets(&[("schedule.every", "2")])).unwrap();
    assert_eq!(every.schedule, Schedule::Step(Step { every: 2, milestones: vec![], gamma: 0.5 }));
    let both = by_sets(&[("schedule", "step"), ("schedule.every", "2"), ("schedule.milestones", "[1]")]).unwrap_err();
    assert!(both.to_string().contains("schedule.every"), "{both}");
}

#[test]
fn what_has_no_default_can_be_unset_again() {
    let file = &file("limit = 5\nsteps = 3\ninit = 'a'");
    let of = |pairs| Config::resolve(Some(file), flags("limit = 7"), &sets(pairs)).unwrap();
    let config = of(&[("limit", "none"), ("steps", "none"), ("init", "none")]);
    assert_eq!((config.limit, config.steps, config.init), (None, None, None));
    // The last pair counts; a file of that name needs quotes.
    let config = of(&[("limit", "none"), ("limit", "2"), ("init", "\"none\"")]);
    assert_eq!((config.limit, config.steps, config.init), (Some(2), Some(3), Some("none".into())));
    // Other keys have values only.
    let error = by_sets(&[("epochs", "none")]).unwrap_err().to_string();
    assert_eq!(error, "--set epochs=none: `epochs` is `none`, expected a whole number of at least 1");
}

#[test]
fn a_file_that_is_no_text_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    std::fs::write(&path, b"lr = 1\n\xff").unwrap();
    let error = ConfigFile::read(&path).unwrap_err();
    assert_eq!(error.to_string(), format!("`{}`: it is no text in UTF-8 from byte 7 on", path.display()));
    assert_eq!(error.exit_status(), 4);
    assert_eq!(ConfigFile::read(folder.path()).unwrap_err().exit_status(), 6);
}

#[test]
fn what_it_writes_it_reads_back() {
    let texts = [
        "".to_owned(),
        "dataset = 'cifar10'\nlimit = 5\nsteps = 3\ninit = 'a\\\\b.safetensors'\nprecision = 'f64'".to_owned(),
        "schedule = 'step'\nconv = 'static'\nseed = 9223372036854775807".to_owned(),
        "[schedule]\nkind = 'step'\nmilestones = [1, 2]".to_owned(),
    ];
    // The kernels that ResNet18 replaces are large enough for every kind.
    let kinds = ConvKind::NAMES.iter().map(|name| format!("model = 'resnet18'\nconv = '{name}'"));
    for text in texts.into_iter().chain(kinds) {
        let config = by_file(&text).unwrap();
        assert_eq!(by_file(&config.to_toml()).unwrap(), config, "{text}");
    }
}

#[test]
fn an_unknown_key_is_an_error_that_names_the_nearest_one() {
    let cases = [
        ("epoch", "epochs"),
        ("batch_size", "batch-size"),
        ("gate", "conv.gate"),
        ("conv.temprature", "conv.temperature"),
        ("shedule.kind", "schedule.kind"),
        ("limt", "limit"),
        ("lr.value", "lr"),
    ];
    for (key, nearest) in cases {
        let error = by_sets(&[(key, "1")]).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(&format!("--set {key}=1: unknown key `{key}`")), "{text}");
        assert!(text.ends_with(&format!("the nearest one is `{nearest}`")), "{text}");
        assert_eq!(error.remedy().unwrap(), format!("did you mean `--set {nearest}=1`?"));
        assert_eq!(error.exit_status(), 4);
    }
    let error = by_file("[conv]\nkind = 'mdconv'\nwidht = 3").unwrap_err();
    assert!(error.to_string().starts_with("`my/config.toml`: unknown key `conv.widht`"), "{error}");
}

#[test]
fn no_kind_takes_a_key_it_does_not_know() {
    for name in ConvKind::NAMES {
        let error = by_sets(&[("conv", name), ("conv.nonsense", "1")]).unwrap_err();
        assert!(error.to_string().contains("unknown key `conv.nonsense`"), "{error}");
    }
    for name in Schedule::NAMES {
        let error = by_sets(&[("schedule", name), ("schedule.nonsense", "1")]).unwrap_err();
        assert!(error.to_string().contains("unknown key `schedule.nonsense`"), "{error}");
    }
    let error = by_sets(&[("conv", "static"), ("conv.gate", "softmax")]).unwrap_err();
    assert!(error.to_string().contains("it is an option of mdconv"), "{error}");
    assert!(error.to_string().contains("not of static"), "{error}");
}

#[test]
fn a_wrong_value_says_which_key_what_came_and_what_was_expected() {
    let cases = [
        ("epochs", "ten", "a whole number of at least 1"),
        ("epochs", "0", "a whole number of at least 1"),
        ("epochs", "1.5", "a whole number of at least 1"),
        ("batch-size", "-1", "a whole number of at least 1"),
        ("lr", "0", "a number above 0"),
        ("lr", "nan", "a number above 0"),
        ("lr", "inf", "a number above 0"),
        ("width", "-1", "a number above 0"),
        ("momentum", "1", "a number of at least 0 and below 1"),
        ("weight-decay", "-0.1", "a number of at least 0"),
        ("label-smoothing", "1", "a number of at least 0 and below 1"),
        ("weight-decay-scope", "biases", "one of all, kernels"),
        ("clip-norm", "-1", "a number of at least 0"),
        ("clip-norm", "inf", "a number of at least 0"),
        ("mixup", "-0.2", "0, or a number from 0.001 to 1000"),
        ("mixup", "1e-5", "0, or a number from 0.001 to 1000"),
        ("mixup", "nan", "0, or a number from 0.001 to 1000"),
        ("ema", "1", "a number of at least 0 and below 1"),
        ("bn-parts", "0", "a whole number of at least 1"),
        ("warmup-epochs", "60", "below `epochs`"),
        ("limit", "0", "a whole number of at least 1"),
        ("steps", "0", "a whole number of at least 1"),
        ("pad", "100000", "a whole number from 0"),
        ("seed", "-1", "a whole number from 0"),
        ("seed", "9223372036854775808", "a whole number from 0"),
        ("precision", "f16", "one of f32, f64"),
        ("model", "smalnet", "smallnet"),
        ("dataset", "minist", "digits"),
        ("conv", "mdcon", "mdconv"),
        ("conv", "3", "mdconv"),
        ("schedule", "linear", "one of cosine, step, constant"),
        ("flip", "1", "true or false"),
        ("conv.m", "many", "expected usize"),
        ("conv.gate", "softmin", "`softmax`"),
        ("conv.m", "0", "m"),
        ("conv.temperature", "-1", "temperature"),
    ];
    for (key, value, expected) in cases {
        let error = by_sets(&[(key, value)]).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(&format!("--set {key}={value}: `{key}")) || key.starts_with("conv."), "{text}");
        assert!(text.contains(expected), "{text} should contain {expected}");
        assert_eq!(error.exit_status(), 4, "{text}");
    }
    let error = by_file("lr = 'fast'").unwrap_err().to_string();
    assert_eq!(error, "`my/config.toml`: `lr` is `\"fast\"`, expected a number above 0");
    let error = by_file("lr = 1\nepochs = = 3").unwrap_err().to_string();
    assert!(error.starts_with("`my/config.toml`, line 2: "), "{error}");
    let error = by_sets(&[("schedule", "step"), ("schedule.gamma", "2")]).unwrap_err().to_string();
    assert!(error.contains("`schedule.gamma` is 2, expected a number above 0 and at most 1"), "{error}");
    // A default of the set that a lower number of epochs does not go with is nobody's flag.
    let error = Config::resolve(Some(&file("warmup-epochs = 5")), flags("epochs = 4"), &[]).unwrap_err().to_string();
    assert!(error.starts_with("`my/config.toml`: `warmup-epochs` is 5"), "{error}");
}

#[test]
fn a_wrong_flag_is_wrong_usage() {
    for (text, place) in [
        ("epochs = 0", "--epochs: "),
        ("lr = -1.0", "--lr: "),
        ("dataset = 'cifar11'", "the data set: "),
        ("conv = 'mdcon'", "--conv: "),
    ] {
        let error = Config::resolve(None, flags(text), &[]).unwrap_err();
        assert_eq!(error.exit_status(), 2, "{error}");
        assert!(error.to_string().starts_with(place), "{error}");
    }
}

#[test]
fn options_of_the_data_set_stand_in_a_table_of_their_own() {
    let config = |set: &str, pairs: &[(&str, &str)]| {
        Config::resolve(None, flags(&format!("dataset = '{set}'\n'data.fraction' = 0.5")), &sets(pairs))
    };
    let coarse = config("cifar100", &[("data.labels", "coarse")]).unwrap();
    assert_eq!((coarse.data.fraction, coarse.data.labels), (Some(0.5), Some(gatefold_data::Labels::Coarse)));
    assert_eq!(by_file(&coarse.to_toml()).unwrap(), coarse);
    assert_eq!(config("cifar100", &[("data.fraction", "none")]).unwrap().data, SetOptions::default());
    assert!(!by_sets(&[]).unwrap().to_toml().contains("[data]"), "nothing is said where nothing was asked for");

    let of_another = config("cifar10", &[("data.labels", "coarse")]).unwrap_err();
    assert_eq!(of_another.exit_status(), 4);
    let text = of_another.to_string();
    assert_eq!(text, "--set data.labels=coarse: `data.labels`: cifar10 has no such option; it is one of cifar100");
    let out_of_range = Config::resolve(None, flags("dataset = 'svhn'\n'data.fraction' = 1.5"), &[]).unwrap_err();
    assert_eq!(out_of_range.exit_status(), 2);
    assert!(out_of_range.to_string().starts_with("--fraction: `data.fraction`: 1.5 is no share"), "{out_of_range}");
    for (key, nearest) in
        [("fraction", "data.fraction"), ("data.label", "data.labels"), ("data.inputsize", "data.input-size")]
    {
        let text = by_sets(&[(key, "1")]).unwrap_err().to_string();
        assert!(text.ends_with(&format!("the nearest one is `{nearest}`")), "{text}");
    }
    let text = config("cifar100", &[("data.labels", "rough")]).unwrap_err().to_string();
    assert!(text.contains("`data.labels` is `rough`") && text.contains("coarse"), "{text}");
}

#[test]
fn imagenet_has_the_recipe_of_its_example() {
    let config = by_sets(&[("dataset", "imagenet")]).unwrap();
    assert_eq!(
        (config.epochs, config.batch_size, config.weight_decay, config.pad, config.flip),
        (90, 256, 1e-4, 0, true)
    );
    let rates: Vec<f64> = [0, 29, 30, 60, 89].iter().map(|&epoch| config.lr_at(epoch)).collect();
    for (rate, expected) in rates.iter().zip([0.1, 0.1, 0.01, 0.001, 0.001]) {
        assert!((rate - expected).abs() < 1e-12, "{rates:?}");
    }
}
