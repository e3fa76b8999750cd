//! ExpandNet, ACNet and RepVGG through the program: trained, folded to a plain convolution, verified, summed up.

use super::program::Folder;

/// Trains, folds and verifies, each of which ends EQUAL, and sums up the fold: as many parameters as the static network's.
fn equal_all_the_way(network: &str, options: &str) {
    let folder = Folder::new();
    let last = |words: &str| folder.run(words).out.lines().last().unwrap_or_default().to_owned();
    let train = format!("train {network} {options} --limit 128 --batch-size 16 --epochs 2 --out run");
    let folded = "run/folded/model.safetensors";
    for words in [&train[..], "fold run --out again", &format!("verify run {folded}"), "verify run again"] {
        let last = last(words);
        assert!(last.starts_with("EQUAL"), "`{words}`: {last}");
    }
    assert!(folder.read("again") == folder.read(folded), "two folds of one model");

    let plain = format!("train {network} --conv static --limit 128 --batch-size 16 --epochs 1 --out plain");
    last(&plain);
    let parameters = |model: &str| {
        folder.write("summary.json", folder.run(&format!("summary {model} --json")).out);
        folder.json("summary.json")["total"].clone()
    };
    assert_eq!(parameters(folded), parameters("plain/folded/model.safetensors"), "{options}");
}

#[test]
fn expandnet_trains_folds_and_is_equal() {
    equal_all_the_way("", "--conv expandnet");
    let sets = ["inner-norms=true", "bias=true", "rate=2"].map(|option| format!("--set conv.{option}"));
    equal_all_the_way("", &format!("--conv expandnet {}", sets.join(" ")));
}

#[test]
fn acnet_and_repvgg_train_fold_and_are_equal() {
    let network = "--model resnet18 --width 0.0625";
    equal_all_the_way(network, "--conv acnet --set conv.gamma=0.3333");
    equal_all_the_way(network, "--conv repvgg");
    equal_all_the_way(network, "--conv expandnet --set conv.inner-norms=true");
}

#[test]
fn a_network_of_repvgg_trains_with_any_kind_and_is_equal() {
    let of = |variant: &str, options: &str| equal_all_the_way(&format!("--model {variant} --width 0.125"), options);
    of("repvgg-a0", "--conv repvgg");
    of("repvgg-b1g2", "--conv acnet");
    of("repvgg-a0", "--conv maconv");
    let folder = Folder::new();
    let train =
        "train --model repvgg-b1g4 --width 0.0625 --limit 64 --batch-size 16 --epochs 1 --conv mdconv --out run";
    let said = folder.run(train);
    assert!(said.out.lines().last().unwrap_or_default().starts_with("EQUAL"), "{}", said.out);
}

#[test]
fn the_naive_order_trains_and_has_no_fold_at_a_padded_site() {
    let folder = Folder::new();
    let options = "--conv expandnet --set conv.padding=naive --set conv.inner-norms=true";
    let run = "--limit 32 --batch-size 16 --epochs 1 --out run";
    let said = folder.run(&format!("train --model resnet18 --width 0.0625 {options} {run}"));
    let last = said.out.lines().last().unwrap_or_default();
    assert!(last.starts_with("NOT FOLDABLE: site `blocks.0.first`") && last.contains("wrong at the border"), "{last}");
    assert!(folder.path("run/model.safetensors").exists() && !folder.path("run/folded/model.safetensors").exists());
}

#[test]
fn a_network_of_pointwise_sites_is_refused() {
    let folder = Folder::new();
    for conv in ["acnet", "repvgg"] {
        for model in ["smallnet", "mobilenetv2", "shufflenetv2"] {
            let words = format!("train --model {model} --conv {conv} --limit 32 --out run");
            let parts = [conv, "needs kernels larger than 1x1", model, "`--model resnet18`", "`--model repvgg-a0`"];
            folder.fails(&words, 2, &parts);
            assert!(!folder.path("run").exists());
        }
        folder.fails(&format!("summary --conv {conv}"), 2, &["needs kernels larger than 1x1"]);
        folder.write("run.toml", format!("conv.kind = '{conv}'"));
        folder.fails("train --config run.toml --out run", 4, &["`run.toml`", "needs kernels larger than 1x1"]);
    }
}
