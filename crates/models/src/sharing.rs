//! Blocks whose sites share a layer: CondConv's router and WeightNet's layer R.

use gatefold_layers::{CondConv, ConvKind, Cx, Init, Share, WeightNet};
use gatefold_tensor::random::randn;

use crate::repvgg::Variant;
use crate::testing::{assert_folds, assert_gradients, keys, model, named, randomise};
use crate::{Backbone, MobileNetV2, Network, RepVgg, ResNet18, Resolution, ShuffleNetV2, SmallNet, Summary};

fn condconv(experts: usize, share: Share) -> ConvKind {
    ConvKind::CondConv(CondConv { experts, share })
}

fn weightnet(m: usize, g: usize, share: Share) -> ConvKind {
    ConvKind::WeightNet(WeightNet { m, g, share })
}

/// The smallest network of each backbone.
fn networks(conv: &ConvKind) -> [Box<dyn Network<f64>>; 5] {
    let (form, init) = (Resolution::Cifar, || Init::new(1));
    [
        Box::new(SmallNet::new(conv, 3, 3, 0.25, &init()).unwrap()),
        Box::new(MobileNetV2::new(conv, form, 3, 3, 0.1, init()).unwrap()),
        Box::new(ShuffleNetV2::new(conv, form, 3, 3, 0.5, &init()).unwrap()),
        Box::new(ResNet18::new(conv, form, 3, 3, 0.0625, init()).unwrap()),
        Box::new(RepVgg::new(Variant::A0, conv, form, 3, 3, 0.0625, &init()).unwrap()),
    ]
}

#[test]
fn a_folded_network_with_shared_layers_is_the_trained_one() {
    for conv in [condconv(4, Share::Block), weightnet(2, 1, Share::Block)] {
        networks(&conv).into_iter().for_each(|network| assert_folds(network, [9, 12]));
    }
}

#[test]
fn gradients_through_shared_layers_are_central_differences() {
    for conv in [condconv(2, Share::Block), weightnet(2, 1, Share::Block)] {
        let [_, _, shuffle, residual, row] = networks(&conv);
        assert_gradients(shuffle, [9, 12]);
        assert_gradients(residual, [9, 12]);
        assert_gradients(row, [9, 12]);
    }
}

#[test]
fn a_shared_layer_runs_once_a_block_and_steers_its_sites() {
    for mut network in networks(&condconv(2, Share::Block)) {
        randomise(&mut *network);
        let x = randn([2, 3, 9, 12], 3);
        let mut seen = Vec::new();
        let cx = Cx::eval().observed(|path, x, y| seen.push((path.to_owned(), x.value().clone(), y.value().clone())));
        network.forward(&cx, &cx.input(x, false)).unwrap();
        drop(cx);
        let blocks = seen.iter().filter(|(path, ..)| path.starts_with("blocks.") && path.matches('.').count() == 1);
        let blocks: Vec<_> = blocks.collect();
        assert!(blocks.len() >= 3);
        for (block, input, _) in blocks {
            let shared: Vec<_> = seen.iter().filter(|(path, ..)| *path == format!("{block}.shared")).collect();
            let [(_, of, gates)] = shared[..] else { panic!("{block} has {} shared layers", shared.len()) };
            assert_eq!(gates.shape()[..], [2, 2], "{block}");
            let replaced = network
                .sites()
                .into_iter()
                .filter(|(path, site)| format!("{path}.").starts_with(&format!("{block}.")) && site.spec().replaceable);
            let (mut first, mut count) = (None, 0);
            for (path, site) in replaced {
                assert!(site.state().keys().all(|key| !key.starts_with("router")), "{path}");
                let at = |path: &str| seen.iter().find(|(of, ..)| of == path).map(|(_, x, _)| x).unwrap();
                // What reads the block's input, or the half of it that does not pass by, is the first site.
                first.get_or_insert_with(|| at(&path).max_abs_diff(of).ok());
                count += 1;
                assert!(of.shape()[1] == site.spec().block, "{path}");
            }
            assert!(count >= 1, "{block}");
            if of.shape() == input.shape() {
                assert_eq!(of.max_abs_diff(input).unwrap(), 0.0, "{block}");
            } else {
                assert_eq!(first, Some(Some(0.0)), "{block}: the branch's input");
            }
        }
    }
}

#[test]
fn keys_of_shared_layers() {
    let of = |conv: &ConvKind, filter: &str, folded: bool| {
        let model = model(Backbone::MobileNetV2, conv, 1.0, 32, 10).unwrap();
        let model = if folded { model.fold().unwrap() } else { model };
        keys(&*model.network, |key| key.starts_with(filter) && !key.contains(".bn."))
    };
    let shared = ["blocks.15.shared.reduce.bias [16]", "blocks.15.shared.reduce.weight [16, 160]"];
    let project = [
        "blocks.15.project.fc1.bias [320]",
        "blocks.15.project.fc1.weight [320, 16]",
        "blocks.15.project.fc2.weight [153600, 1]",
    ];
    let conv = weightnet(2, 2, Share::Block);
    assert_eq!(of(&conv, "blocks.15.shared", false), shared);
    assert_eq!(of(&conv, "blocks.15.project", false), project);
    assert_eq!(of(&conv, "blocks.15.shared", true), shared);
    assert_eq!(of(&conv, "blocks.15.project", true), [&["blocks.15.project.bias [160]"], &project[..]].concat());
    // A site of its own counts its own channels.
    let own = of(&weightnet(2, 2, Share::Site), "blocks.15.", false);
    assert!(own.contains(&"blocks.15.project.reduce.weight [60, 960]".to_owned()), "{own:?}");
    assert!(own.iter().all(|key| !key.contains("shared")), "{own:?}");
    let router = ["blocks.0.shared.router.bias [8]", "blocks.0.shared.router.weight [8, 32]"];
    assert_eq!(of(&condconv(8, Share::Block), "blocks.0.shared", false), router);
}

#[test]
fn shared_layers_are_counted_once() {
    let total = |backbone, conv: &ConvKind, width| {
        let summary = Summary::of(&model(backbone, conv, width, 32, 10).unwrap()).unwrap();
        let (trained, folded) = (summary.trained(), summary.folded().unwrap());
        // Folded, a site has a bias in place of its batch norm, and the same generator.
        assert_eq!((trained.macs, trained.coefficients), (folded.macs, folded.coefficients));
        trained
    };
    // WeightNet (paper 6.4): C_g·M·Cout + M·Cout a site, Cin·C_g + C_g a block; M/G = 1, so that the kernels count as static
    // ones do. Units of (4, 8, 4), branches of (24, 48, 96) channels, C_g = 16: three sites in the first unit of a stage.
    let stages = [(4, 24), (8, 48), (4, 96)];
    let sites = |units: usize| 2 * units + 1;
    let of_sites: usize = stages.iter().map(|(units, c)| sites(*units) * (16 * 2 * c + 2 * c)).sum();
    let of_layers = |layers: &dyn Fn(usize) -> usize| -> usize {
        stages.iter().map(|(units, c)| layers(*units) * (16 * c + 16)).sum()
    };
    let shuffle = |conv: &ConvKind| total(Backbone::ShuffleNetV2, conv, 0.5);
    let fixed = shuffle(&named("static"));
    let (own, shared) = (shuffle(&weightnet(2, 2, Share::Site)), shuffle(&weightnet(2, 2, Share::Block)));
    assert_eq!(shared.parameters - fixed.parameters, of_sites + of_layers(&|units| units));
    assert_eq!(own.parameters - fixed.parameters, of_sites + of_layers(&sites));
    assert_eq!((of_sites + of_layers(&|units| units), of_sites + of_layers(&sites)), (78_544, 95_360));
    assert_eq!(shared.coefficients, own.coefficients);

    // CondConv: n·Cout·Cin a site, Cin·n + n a block; the inputs of MobileNetV2's bottlenecks have 1216 channels in all.
    let mobile = |conv: &ConvKind| total(Backbone::MobileNetV2, conv, 1.0);
    let (fixed, shared) = (mobile(&named("static")), mobile(&condconv(8, Share::Block)));
    let network = model(Backbone::MobileNetV2, &named("static"), 1.0, 32, 10).unwrap().network;
    let replaced = network.sites().into_iter().map(|(_, site)| *site.spec()).filter(|spec| spec.replaceable);
    let kernels: usize = replaced.map(|spec| spec.cin * spec.cout).sum();
    assert_eq!(shared.parameters - fixed.parameters, 7 * kernels + 8 * 1216 + 8 * 17);
    assert_eq!(shared.macs - fixed.macs, 8 * kernels + 8 * 1216);
    assert_eq!(shared.coefficients, 8 * 17);
    assert_eq!(mobile(&condconv(8, Share::Site)).coefficients, 8 * 33);
}

#[test]
fn a_summary_has_a_row_for_a_shared_layer() {
    let summary = Summary::of(&model(Backbone::ResNet18, &condconv(4, Share::Block), 0.25, 32, 10).unwrap()).unwrap();
    let row = summary.rows.iter().find(|row| row.trained.path == "blocks.2.shared").unwrap();
    assert_eq!((row.trained.what.as_str(), &row.trained.output[..]), ("pool, linear 16 -> 4", &[4][..]));
    assert_eq!((row.trained.cost.parameters, row.trained.cost.macs), (68, 64));
    assert_eq!(row.folded, Some(row.trained.cost));
}
