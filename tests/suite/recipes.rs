//! Recipes: shown, resolved, and beaten by what is given beside them.

use super::cifar10;
use super::program::{Folder, assert_same_run, config};

#[test]
fn recipes_are_listed_and_shown() {
    let folder = Folder::new();
    let listed = folder.run("recipes").out;
    for name in ["paper-cifar10", "paper-cifar100", "paper-svhn", "paper-imagenet"] {
        assert!(listed.lines().any(|line| line.split_whitespace().next() == Some(name)), "{listed}");
        let shown = folder.run(&format!("recipes {name}")).out;
        assert!(shown.contains("Luo and Zhan") && shown.parse::<toml::Table>().is_ok(), "{shown}");
    }
    folder.fails("recipes paper-cifar", 2, &["paper-cifar", "paper-cifar10"]);
    folder.fails("train --recipe paper", 2, &["no recipe `paper`", "gatefold recipes"]);
}

#[test]
fn a_recipe_is_what_its_file_says_and_what_is_given_beside_it_wins() {
    let folder = Folder::new();
    cifar10::write(&folder, 8);
    let beside = "--data-dir . --model smallnet --steps 2 --batch-size 16 --set conv.m=3";
    folder.run(&format!("train --recipe paper-cifar10 {beside} --out one"));
    let resolved = config(&folder, "one");
    for (key, value) in [
        ("dataset", "\"cifar10\""),
        ("model", "\"smallnet\""),
        ("width", "0.35"),
        ("epochs", "200"),
        ("batch-size", "16"),
        ("weight-decay", "0.0005"),
        ("weight-decay-scope", "\"all\""),
        ("pad", "2"),
    ] {
        assert_eq!(resolved[key].to_string(), value, "{key}");
    }
    assert_eq!(resolved["conv"]["m"].as_integer(), Some(3));
    // The file that is shown is the recipe.
    folder.write("mine.toml", folder.run("recipes paper-cifar10").out);
    folder.run(&format!("train --config mine.toml {beside} --out two"));
    assert_eq!(config(&folder, "two"), resolved);
    assert_same_run(&folder, "one", "two");
}
