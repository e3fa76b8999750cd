//! The options that change how a network is trained, all off by default.

use super::program::{EVERY_OPTION, Folder, config, epochs, names};

#[test]
fn every_option_reaches_the_configuration_and_the_network() {
    let folder = Folder::new();
    let train = |options: &str, out: &str| {
        folder.run(&format!("train --limit 64 --epochs 2 --batch-size 32 {options} --out {out}"));
    };
    train("", "plain");
    let words: Vec<&str> = EVERY_OPTION.split_whitespace().collect();
    for option in words.chunks(2) {
        let (name, value) = (option[0].trim_start_matches("--"), option[1]);
        train(&option.join(" "), name);
        let said = config(&folder, name)[name].to_string();
        assert_eq!(said.trim_matches('"'), value, "{name}");
        assert_ne!(config(&folder, "plain")[name].to_string().trim_matches('"'), value, "{name}");
        let weights = |run: &str| folder.read(&format!("{run}/model.safetensors"));
        // An average follows the weights and does not lead them.
        assert_eq!(weights(name) == weights("plain"), name == "ema", "{name}");
    }
}

#[test]
fn averaged_weights_are_a_model_of_their_own() {
    let folder = Folder::new();
    let said = folder.run("train --limit 200 --epochs 3 --batch-size 16 --ema 0.8 --out run");
    let line =
        said.out.lines().find(|line| line.starts_with("averaged weights ")).unwrap_or_else(|| panic!("{}", said.out));
    let accuracy = line.split_whitespace().nth(2).unwrap();
    let evaluated = folder.run("eval run/ema.safetensors --limit 200").out;
    assert!(evaluated.contains(&format!("test accuracy {accuracy} %")), "{evaluated} and {line}");
    // The last two columns before the clock's.
    let rows = epochs(&folder, "run");
    assert!(rows.iter().all(|row| row.len() == 8), "{rows:?}");
    let last: f64 = rows[2][7].parse().unwrap();
    assert_eq!(format!("{last:.2}"), accuracy);
    assert_ne!(folder.read("run/ema.safetensors"), folder.read("run/model.safetensors"));
    let folded = folder.run("fold run/ema.safetensors --out folded.safetensors").out;
    assert!(folded.lines().last().unwrap().starts_with("EQUAL"), "{folded}");
    folder.run("train --limit 64 --epochs 1 --out plain");
    assert!(!names(&folder.path("plain")).contains(&"ema.safetensors".to_owned()));
    // A checkpoint without an average does not go on with one.
    let plain = String::from_utf8(folder.read("plain/config.toml")).unwrap();
    folder.write("plain/config.toml", plain.replace("ema = 0.0", "ema = 0.5"));
    folder.fails("resume plain", 4, &["last.safetensors", "no average of the weights"]);
}
