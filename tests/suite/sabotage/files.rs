//! The same through the program: a run, files of its fold that were tampered with, and what `verify` says of them.

use gatefold_models::Model;
use gatefold_tensor::Tensor;

use crate::suite::program::{Folder, Said};

/// The last line of what the program said, after it ended with `status`.
fn verdict(folder: &Folder, words: &str, status: i32) -> String {
    let said = Said::of(folder.command(words)).ends(status, words);
    said.out.lines().last().unwrap_or_default().to_owned()
}

/// Writes the model of one file into another, with one tensor changed.
fn tamper(folder: &Folder, from: &str, to: &str, key: &str, change: impl Fn(&mut Tensor<f32>)) {
    let mut model = Model::<f32>::load(&folder.path(from)).unwrap();
    let mut state = model.network.state();
    change(state.get_mut(key).unwrap());
    model.network.load(&state).unwrap();
    model.save(&folder.path(to)).unwrap();
}

#[test]
fn the_program_names_where_a_tampered_file_parts() {
    let folder = Folder::new();
    let last = verdict(&folder, "train --conv mdconv --steps 20 --out run", 0);
    assert!(last.starts_with("EQUAL"), "{last}");
    let verify = |b: &str, status| verdict(&folder, &format!("verify run {b} --limit 120 --report {b}.json"), status);
    let last = verify("run/folded/model.safetensors", 0);
    assert!(last.starts_with("EQUAL over 120 images"), "{last}");

    let folded = "run/folded/model.safetensors";
    // Two depthwise kernels swapped: 16 groups of one channel.
    tamper(&folder, folded, "groups", "blocks.0.depthwise.conv.weight", |w| {
        let (first, rest) = w.as_mut_slice().split_at_mut(9);
        first.swap_with_slice(&mut rest[..9]);
    });
    // Folded, by the program, from a model whose running variance is 1 % larger.
    let key = "blocks.1.pointwise.bypass.bn.running_var";
    tamper(&folder, "run/model.safetensors", "other", key, |v| *v = v.map(|v| 1.01 * v));
    let last = verdict(&folder, "fold other --out statistics", 0);
    assert!(last.starts_with("EQUAL"), "{last}");
    // One number is none.
    tamper(&folder, folded, "nan", "stem.conv.bias", |b| b.as_mut_slice()[3] = f32::NAN);
    // One weight behind all sites.
    tamper(&folder, folded, "classifier", "classifier.weight", |w| w.as_mut_slice()[0] += 0.5);

    let cases = [
        ("groups", "`blocks.0.depthwise` (rounding): groups mixed up: in `blocks.0.depthwise.conv.weight` group 0"),
        ("statistics", "`blocks.1.pointwise` (rounding): statistics: `blocks.1.pointwise.bypass.conv.weight` is "),
        ("nan", "`stem` (rounding): not finite: `stem.conv.bias` of B"),
        ("classifier", "`logits` (rounding): weights or statistics: `classifier.weight` is "),
    ];
    for (name, expected) in cases {
        let last = verify(name, 1);
        assert!(last.starts_with(&format!("NOT EQUAL: parts first at {expected}")), "{name}: {last}");
        let report = folder.json(&format!("{name}.json"));
        assert_eq!(report["equal"], false);
        assert!(expected.starts_with(&format!("`{}`", report["parts_at"]["path"].as_str().unwrap())));
    }
}

#[test]
fn a_layer_that_a_block_shares_belongs_to_no_site() {
    let folder = Folder::new();
    let last = verdict(&folder, "train --conv condconv --set conv.share=block --steps 20 --out run", 0);
    assert!(last.starts_with("EQUAL"), "{last}");
    let key = "blocks.1.shared.router.weight";
    tamper(&folder, "run/folded/model.safetensors", "router", key, |w| w.as_mut_slice()[0] += 0.5);
    let last = verdict(&folder, "verify run router --limit 120", 1);
    let expected = format!("NOT EQUAL: parts first at `logits` (rounding): weights or statistics: `{key}` is ");
    assert!(last.starts_with(&expected), "{last}");
}

#[test]
fn a_model_that_normalises_otherwise_is_not_equal() {
    let folder = Folder::new();
    let last = verdict(&folder, "train --conv static --steps 2 --out run", 0);
    assert!(last.starts_with("EQUAL"), "{last}");
    let mut model = Model::<f32>::load(&folder.path("run/folded/model.safetensors")).unwrap();
    model.description.normalisation.mean[0] += 0.01;
    model.save(&folder.path("b")).unwrap();
    let last = verdict(&folder, "verify run b", 1);
    let expected = "NOT EQUAL: parts first at `input` (rounding): normalisation: the mean of a pixel";
    assert!(last.starts_with(expected), "{last}");
}
