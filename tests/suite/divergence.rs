//! A run whose values are no longer finite ends with status 5 and says where it happened.

use super::program::Folder;

fn diverges(folder: &Folder, words: &str, what: &str) {
    let said = folder.fails(words, 5, &["training diverged in epoch", what, "is not finite", "--lr"]);
    assert!(!said.out.contains("EQUAL"), "{}", said.out);
    assert_eq!(folder.json("run/run.json")["status"], "diverged");
    std::fs::remove_dir_all(folder.path("run")).unwrap();
}

#[test]
fn a_learning_rate_beyond_reason_is_blamed_on_a_layer() {
    let folder = Folder::new();
    for conv in ["static", "maconv", "mdconv"] {
        let words = format!("train --conv {conv} --lr 1e30 --limit 128 --steps 20 --out run");
        diverges(&folder, &words, "the output of layer `");
    }
}

#[test]
fn a_parameter_is_called_one() {
    let words = "train --lr 1e10 --weight-decay 1e30 --limit 128 --steps 20 --out run";
    diverges(&Folder::new(), words, "step 0: the parameter `stem.conv.weight`");
}
