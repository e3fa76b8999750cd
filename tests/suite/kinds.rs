//! Every kind of convolution from the command line: trained, folded and verified.

use gatefold_layers::ConvKind;

use super::cifar10;
use super::program::Folder;

/// Kinds that replace kernels larger than 1x1 only.
const WIDE: [&str; 2] = ["acnet", "repvgg"];

#[test]
fn every_kind_is_trained_and_its_fold_verified() {
    let folder = Folder::new();
    cifar10::write(&folder, 4);
    for kind in ConvKind::NAMES {
        let model = if WIDE.contains(kind) { "--model resnet18 --width 0.1" } else { "--model smallnet" };
        let train = format!("train cifar10 --data-dir . {model} --conv {kind} --batch-size 10 --epochs 1 --out {kind}");
        let verdict = if *kind == "se" { "NOT FOLDABLE" } else { "EQUAL" };
        let said = folder.run(&train);
        let last = said.out.lines().last().unwrap_or_default();
        assert!(last.starts_with(verdict), "{kind}: {last}");
    }
}

#[test]
fn a_kind_that_does_not_fit_a_site_says_which_and_why() {
    let folder = Folder::new();
    cifar10::write(&folder, 4);
    for kind in WIDE {
        folder.fails(&format!("train cifar10 --data-dir . --conv {kind}"), 2, &["1x1", kind, "--model resnet18"]);
    }
}
