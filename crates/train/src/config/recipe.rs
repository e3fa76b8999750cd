//! Recipes: whole configurations under a name, one TOML file each, part of the program. Each cites where its values are
//! from.

use crate::{ConfigFile, Error, Result};

/// A configuration under a name. What is given beside it wins over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    /// What `--recipe` takes.
    pub name: &'static str,
    /// The file, comments included.
    pub text: &'static str,
}

macro_rules! recipe {
    ($name:literal) => {
        Recipe { name: $name, text: include_str!(concat!("../../recipes/", $name, ".toml")) }
    };
}

impl Recipe {
    /// All recipes.
    pub const ALL: &[Recipe] =
        &[recipe!("paper-cifar10"), recipe!("paper-cifar100"), recipe!("paper-svhn"), recipe!("paper-imagenet")];

    /// The recipe of that name.
    ///
    /// # Errors
    /// [`Error::Usage`] with the nearest name and all of them.
    pub fn named(name: &str) -> Result<Self> {
        Self::ALL.iter().find(|recipe| recipe.name == name).copied().ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|recipe| recipe.name).collect();
            let nearest = names.iter().min_by_key(|known| strsim::damerau_levenshtein(known, name));
            let nearest = nearest.expect("there are recipes");
            Error::Usage {
                message: format!(
                    "there is no recipe `{name}`; the nearest one is `{nearest}`, all are {}",
                    names.join(", ")
                ),
                remedy: Some("`gatefold recipes` says what each is for".to_owned()),
            }
        })
    }

    /// What it is for: the first line of its file.
    pub fn purpose(&self) -> &'static str {
        self.text.lines().next().unwrap_or_default().trim_start_matches("# ")
    }

    /// It as a layer of a configuration.
    pub fn file(&self) -> ConfigFile {
        ConfigFile { path: format!("recipe {}", self.name).into(), text: self.text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use gatefold_data::Kind;
    use gatefold_models::Backbone;
    use toml::Table;

    use super::*;
    use crate::Config;

    fn resolved(name: &str) -> Config {
        Config::resolve(&[Recipe::named(name).unwrap().file()], Table::new(), &[]).unwrap()
    }

    #[test]
    fn every_recipe_is_the_default_of_its_set_but_for_what_it_says() {
        for (name, set, width, bn_parts) in [
            ("paper-cifar10", Kind::Cifar10, 0.35, 1),
            ("paper-cifar100", Kind::Cifar100, 0.35, 1),
            ("paper-svhn", Kind::Svhn, 0.35, 1),
            ("paper-imagenet", Kind::Imagenet, 1.0, 4),
        ] {
            let expected = Config { backbone: Backbone::MobileNetV2, width, bn_parts, ..Config::defaults(set) };
            assert_eq!(resolved(name), expected, "{name}");
        }
        assert_eq!(Recipe::ALL.len(), 4);
    }

    #[test]
    fn a_recipe_says_all_that_is_computed_but_for_what_a_run_chooses() {
        let chosen = ["seed", "precision"];
        for recipe in Recipe::ALL {
            let (all, said): (Table, Table) =
                (resolved(recipe.name).to_toml().parse().unwrap(), recipe.text.parse().unwrap());
            for key in all.keys().filter(|key| !chosen.contains(&key.as_str())) {
                assert!(said.contains_key(key), "{} says nothing of {key}", recipe.name);
            }
            for part in ["Luo and Zhan", "[paper]", "[ours]"] {
                assert!(recipe.text.contains(part), "{}: {part}", recipe.name);
            }
            assert!(recipe.purpose().contains("as in the paper"), "{}", recipe.purpose());
        }
    }

    #[test]
    fn the_epochs_of_the_papers_cifar_recipe_have_its_rates() {
        let config = resolved("paper-cifar100");
        let rate = |epoch: f64| 0.05 * (1.0 + (std::f64::consts::PI * epoch / 200.0).cos());
        assert!((0..200).all(|epoch| (config.lr_at(epoch) - rate(epoch as f64)).abs() < 1e-15));
        let rates: Vec<f64> =
            [0, 29, 30, 60, 89].iter().map(|&epoch| resolved("paper-imagenet").lr_at(epoch)).collect();
        let expected = [0.1, 0.1, 0.01, 0.001, 0.001];
        assert!(rates.iter().zip(expected).all(|(rate, expected)| (rate - expected).abs() < 1e-15), "{rates:?}");
    }

    #[test]
    fn whatever_is_given_beside_a_recipe_wins_over_it() {
        let file =
            ConfigFile { path: "my.toml".into(), text: "epochs = 3\nlr = 0.5\n[conv]\nkind = 'maconv'".to_owned() };
        let flags: Table = "lr = 0.25\ndataset = 'digits'".parse().unwrap();
        let sets = [("pad".to_owned(), "1".to_owned())];
        let recipe = Recipe::named("paper-cifar10").unwrap().file();
        let config = Config::resolve([&recipe, &file], flags, &sets).unwrap();
        assert_eq!((config.epochs, config.lr, config.pad, config.width), (3, 0.25, 1, 0.35));
        assert_eq!((config.dataset.as_str(), config.conv.name(), config.batch_size), ("digits", "maconv", 128));
    }

    #[test]
    fn an_unknown_recipe_is_wrong_usage() {
        let error = Recipe::named("paper-cifar").unwrap_err();
        assert!(error.to_string().contains("nearest one is `paper-cifar10`"), "{error}");
        assert_eq!(error.exit_status(), 2);
    }
}
