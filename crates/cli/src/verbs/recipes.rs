//! `recipes [NAME]`: the named configurations, or the file of one.

use std::process::ExitCode;

use gatefold_train::Recipe;

/// What `recipes` takes.
#[derive(clap::Args)]
pub struct Args {
    /// Print this recipe's file, which may be edited and given to `train --config`
    name: Option<String>,
}

/// A line a recipe; or the file of the one that is named.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.name {
        Some(name) => print!("{}", Recipe::named(name)?.text),
        None => {
            let width = Recipe::ALL.iter().map(|recipe| recipe.name.len()).max().unwrap_or(0);
            for recipe in Recipe::ALL {
                println!("{:width$}  {}", recipe.name, recipe.purpose());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
