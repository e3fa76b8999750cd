//! Options, the configuration file, `--set`, and what is said where they are wrong.

use super::program::Folder;

const QUICK: &str = "--limit 64 --epochs 1 --batch-size 32";

#[test]
fn an_unknown_option_is_wrong_usage() {
    let folder = Folder::new();
    for (words, part) in
        [("train --epoch 3", "--epoch"), ("train --steps many", "many"), ("trian", "trian"), ("resume", "<RUN>")]
    {
        let said = super::program::Said::of(folder.command(words)).ends(2, words);
        assert!(said.err.contains(part) && said.err.contains("--help"), "{}", said.err);
        assert_eq!(said.out, "");
    }
    folder.fails("train digit", 2, &["digit", "digits"]);
    folder.fails("train --conv mdcon", 2, &["--conv", "mdconv"]);
    folder.fails("train --epochs 0", 2, &["--epochs", "at least 1"]);
    assert!(super::program::names(&folder.path("")).is_empty());
}

#[test]
fn an_unknown_key_is_a_wrong_configuration() {
    let folder = Folder::new();
    folder.fails("train --set epoch=3", 4, &["--set epoch=3", "unknown key `epoch`", "--set epochs=3"]);
    folder.fails("summary --set conv.mm=3", 4, &["unknown key `conv.mm`", "conv.m"]);
    folder.write("my.toml", "lr = 1\n[conv]\nkind = 'mdconv'\ntemprature = 3");
    folder.fails("train --config my.toml", 4, &["`my.toml`", "unknown key `conv.temprature`", "`conv.temperature`"]);
    folder.write("my.toml", "lr = 1\nepochs = = 3");
    folder.fails("train --config my.toml", 4, &["`my.toml`, line 2"]);
    folder.fails("train --config no.toml", 6, &["no.toml"]);
}

#[test]
fn a_runs_broken_configuration_is_named_with_its_path() {
    let folder = Folder::new();
    folder.run(&format!("train {QUICK} --out run"));
    folder.write("run/config.toml", "epochs = -1");
    folder.fails("resume run", 4, &["`run/config.toml`: `epochs` is `-1`, expected a whole number of at least 1"]);
    folder.write("run/config.toml", "dataset = ");
    folder.fails("resume run", 4, &["`run/config.toml`, line 1"]);
    std::fs::remove_file(folder.path("run/config.toml")).unwrap();
    folder.fails("resume run", 6, &["`run/config.toml`"]);
}

#[test]
fn later_options_beat_earlier_ones_and_can_unset_them() {
    let folder = Folder::new();
    folder.write("my.toml", "limit = 32\nsteps = 1\ninit = 'nowhere'\naugment = false\nlr = 0.5\nbatch-size = 32\n[conv]\nkind = 'maconv'\nm = 3");
    folder
        .run("train --config my.toml --limit 96 --epochs 1 --set steps=none init=none augment=true conv.m=4 --out run");
    let config: toml::Table = String::from_utf8(folder.read("run/config.toml")).unwrap().parse().unwrap();
    assert!(!config.contains_key("steps") && !config.contains_key("init"), "{config}");
    for (key, value) in [("limit", "96"), ("augment", "true"), ("lr", "0.5"), ("epochs", "1")] {
        assert_eq!(config[key].to_string(), value, "{key}");
    }
    assert_eq!(config["conv"]["m"].as_integer(), Some(4));
    // The whole set, of which 96 images were left, and one step of them.
    folder.run("train --config my.toml --epochs 1 --set limit=none init=none --out all");
    let config: toml::Table = String::from_utf8(folder.read("all/config.toml")).unwrap().parse().unwrap();
    assert!(!config.contains_key("limit"), "{config}");
}

#[test]
fn a_run_is_made_again_from_its_configuration() {
    let folder = Folder::new();
    folder.run(&format!("train {QUICK} --conv maconv --set conv.m=3 --seed 5 --out one"));
    folder.run("train --config one/config.toml --out two");
    super::program::assert_same_run(&folder, "one", "two");
    folder.run(&format!("train {QUICK} --conv maconv --set conv.m=3 --seed 6 --out three"));
    assert_ne!(folder.read("one/model.safetensors"), folder.read("three/model.safetensors"));
}

#[test]
fn a_summary_follows_set() {
    let folder = Folder::new();
    let parameters = |words: &str| {
        let json: serde_json::Value = serde_json::from_str(&folder.run(words).out).unwrap();
        json["trained"]["parameters"].as_u64().unwrap()
    };
    let plain = parameters("summary --json");
    assert!(parameters("summary --json --set conv.m=40") > plain);
    assert_eq!(parameters("summary --json --set conv=static"), parameters("summary --json --conv static"));
    folder.fails("summary --set lr=1", 2, &["--set lr=1", "conv.*"]);
}
