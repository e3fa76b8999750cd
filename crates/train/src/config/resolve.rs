//! Layers of configuration: defaults, then the recipe, then the file, then flags, then `--set`. The table is a valid
//! configuration at any time, and each value is put into it alone: a value that makes it invalid is the one at fault, and
//! where it came from is known.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use gatefold_data::{Kind, SetOptions};
use gatefold_layers::ConvKind;
use serde::Serialize;
use toml::{Table, Value};

use super::{Config, expected};
use crate::{Error, Result, Schedule};

/// Keys without a default, and the text after `--set` that takes a value from them again.
const OPTIONAL: &[&str] = &["init", "limit", "steps"];
const NONE: &str = "none";

/// What stands before the options of the data set, none of which has a default.
const DATA: &str = "data.";

/// Tables whose key `kind` says which options there are.
const GROUPS: &[&str] = &["conv", "schedule"];

/// A configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// Where it lies; messages name it.
    pub path: PathBuf,
    /// What it says, in TOML.
    pub text: String,
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Config`] if it is no text.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let text = String::from_utf8(bytes).map_err(|e| {
            let message = format!("it is no text in UTF-8 from byte {} on", e.utf8_error().valid_up_to());
            Origin::File(path.to_owned()).error(message, None)
        })?;
        Ok(ConfigFile { path: path.to_owned(), text })
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    File(PathBuf),
    Flag(String),
    Set(String, String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(path) => write!(f, "`{}`", path.display()),
            Origin::Flag(key) if key == "dataset" => f.write_str("the data set"),
            Origin::Flag(key) => write!(f, "--{}", key.trim_end_matches(".kind").trim_start_matches(DATA)),
            Origin::Set(key, value) => write!(f, "--set {key}={value}"),
        }
    }
}

impl Origin {
    /// A wrong flag is wrong usage; keys, wherever they stand, are configuration.
    fn error(&self, message: String, remedy: Option<String>) -> Error {
        let place = self.to_string();
        match self {
            Origin::Flag(_) => {
                let help = || "`--help` lists the options with their defaults".to_owned();
                Error::Usage { message: format!("{place}: {message}"), remedy: remedy.or_else(|| Some(help())) }
            }
            Origin::File(path) => {
                let edit = || format!("edit `{}`", path.display());
                Error::Config { place, message, remedy: remedy.or_else(|| Some(edit())) }
            }
            Origin::Set(..) => Error::Config { place, message, remedy },
        }
    }
}

/// A key with the values that it may have: the text after `--set` is tried as TOML first, then as a plain string. Without
/// any, the key loses the value that it has.
struct Assignment {
    key: String,
    values: Vec<Value>,
    origin: Origin,
}

impl Config {
    /// The configuration from TOML files (a recipe, then the user's own), the flags given (by key; `conv` and `schedule` may be the name of
    /// a kind) and `--set key=value` pairs with dotted keys. Later layers beat earlier ones. A layer that names another
    /// kind than the one before it drops that one's options; naming the same kind keeps them.
    ///
    /// # Errors
    /// [`Error::Config`], or [`Error::Usage`] for a flag: an unknown key with the nearest known one, a wrong type or a value
    /// out of its range with what was expected.
    pub fn resolve<'a>(
        files: impl IntoIterator<Item = &'a ConfigFile>,
        flags: Table,
        sets: &[(String, String)],
    ) -> Result<Self> {
        let mut layers = files.into_iter().map(read_file).collect::<Result<Vec<_>>>()?;
        layers.extend([read_flags(flags), read_sets(sets)]);
        let mut table = as_table(&Config::defaults(dataset(&layers)?));
        let mut origins = BTreeMap::new();
        for layer in &layers {
            for group in GROUPS {
                choose_kind(&mut table, group, layer)?;
            }
            choose_steps(&mut table, layer);
            for assignment in layer.iter().filter(|assignment| !is_kind(&assignment.key)) {
                assign(&mut table, assignment)?;
            }
            origins.extend(layer.iter().map(|assignment| (assignment.key.as_str(), &assignment.origin)));
        }
        let config: Config = table.try_into().expect("every assignment left a valid table");
        config.check(&origins)?;
        Ok(config)
    }

    /// Checks ranges, and that options fit each other.
    fn check(&self, origins: &BTreeMap<&str, &Origin>) -> Result<()> {
        let fail = |key: &str, message: String| {
            // Of a group, an option is at fault rather than its kind. Where a default does not go with something else there
            // is no origin to blame but the configuration.
            let mut of_group: Vec<_> = origins.iter().filter(|(k, _)| k.starts_with(key)).collect();
            of_group.sort_by_key(|(k, _)| is_kind(k));
            let origin = origins.get(key).or_else(|| of_group.first().map(|(_, origin)| *origin));
            Err(match origin {
                Some(origin) => origin.error(message, None),
                None => Error::Config { place: "the configuration".to_owned(), message, remedy: None },
            })
        };
        if let Some((key, value)) = self.out_of_range() {
            let expected = expected(key).expect("every key with a range says which");
            return fail(key, format!("`{key}` is {value}, expected {expected}"));
        }
        let kind: Kind = self.dataset.parse().expect("the data set was read before");
        match self.data.check(kind) {
            Err(gatefold_data::Error::Invalid { what, why }) => {
                return fail(&format!("{DATA}{what}"), format!("`{DATA}{what}`: {why}"));
            }
            checked => checked?,
        }
        let fits = self.conv.check().and_then(|()| self.backbone.check(&self.conv));
        fits.or_else(|why| fail("conv.", format!("`conv`: {why}")))
    }
}

fn read_file(ConfigFile { path, text }: &ConfigFile) -> Result<Vec<Assignment>> {
    let origin = Origin::File(path.clone());
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
        let place = match line {
            Some(line) => format!("{origin}, line {line}"),
            None => origin.to_string(),
        };
        let remedy = Some(format!("edit {origin}"));
        Error::Config { place, message: error.message().to_owned(), remedy }
    })?;
    Ok(flatten(table, |_| origin.clone()))
}

fn read_flags(flags: Table) -> Vec<Assignment> {
    flatten(flags, |key| Origin::Flag(key.to_owned()))
}

fn flatten(table: Table, origin: impl Fn(&str) -> Origin) -> Vec<Assignment> {
    let mut assignments = Vec::new();
    let mut push = |key: String, value| {
        let origin = origin(&key);
        assignments.push(Assignment { key: full_key(key), values: vec![value], origin });
    };
    for (key, value) in table {
        match value {
            Value::Table(options) => options.into_iter().for_each(|(name, value)| push(format!("{key}.{name}"), value)),
            value => push(key, value),
        }
    }
    assignments
}

fn read_sets(sets: &[(String, String)]) -> Vec<Assignment> {
    let of = |(key, text): &(String, String)| {
        let origin = Origin::Set(key.clone(), text.clone());
        let key = full_key(key.trim().to_owned());
        if is_optional(&key) && text.trim() == NONE {
            return Assignment { key, values: Vec::new(), origin };
        }
        let parsed = format!("x = {text}").parse::<Table>().ok().filter(|table| table.len() == 1);
        let parsed = parsed.and_then(|mut table| table.remove("x"));
        let number = || text.parse().ok().map(Value::Float);
        let values = parsed.or_else(number).into_iter().chain([Value::String(text.clone())]).collect();
        Assignment { key, values, origin }
    };
    sets.iter().map(of).collect()
}

/// `conv` alone means its kind.
fn full_key(key: String) -> String {
    if GROUPS.contains(&key.as_str()) { format!("{key}.kind") } else { key }
}

fn is_kind(key: &str) -> bool {
    key.split_once('.').is_some_and(|(group, option)| GROUPS.contains(&group) && option == "kind")
}

/// The last assignment to a key in a layer.
fn last<'a>(layer: &'a [Assignment], key: &str) -> Option<&'a Assignment> {
    layer.iter().rev().find(|assignment| assignment.key == key)
}

/// The data set, on which defaults depend.
fn dataset(layers: &[Vec<Assignment>]) -> Result<Kind> {
    let Some(assignment) = layers.iter().rev().find_map(|layer| last(layer, "dataset")) else {
        return Ok(Kind::Digits);
    };
    let named = assignment.values.iter().filter_map(Value::as_str).find_map(|name| name.parse().ok());
    named.ok_or_else(|| wrong_value(assignment, None))
}

/// Puts the default options of the kind that `layer` names into the table, unless that kind is there already.
fn choose_kind(table: &mut Table, group: &str, layer: &[Assignment]) -> Result<()> {
    let Some(assignment) = last(layer, &format!("{group}.kind")) else { return Ok(()) };
    let name = assignment.values.iter().find_map(Value::as_str).unwrap_or_default();
    let options = kind_options(group, name).ok_or_else(|| wrong_value(assignment, None))?;
    if table[group].get("kind") != options.get("kind") {
        table.insert(group.to_owned(), Value::Table(options));
    }
    Ok(())
}

/// `every` and `milestones` of the step schedule say the same thing in two ways: the later layer's way counts.
fn choose_steps(table: &mut Table, layer: &[Assignment]) {
    let Some(options) = table["schedule"].as_table_mut() else { return };
    let (every, milestones) = (last(layer, "schedule.every"), last(layer, "schedule.milestones"));
    let unset = match (every, milestones) {
        (Some(_), None) => ("milestones", Value::Array(Vec::new())),
        (None, Some(_)) => ("every", Value::Integer(0)),
        _ => return,
    };
    if options.contains_key(unset.0) {
        options.insert(unset.0.to_owned(), unset.1);
    }
}

/// A kind with its default options.
fn kind_options(group: &str, name: &str) -> Option<Table> {
    match group {
        "conv" => ConvKind::named(name).map(|kind| as_table(&kind)),
        _ => Schedule::named(name).map(|schedule| as_table(&schedule)),
    }
}

fn as_table(value: &impl Serialize) -> Table {
    Table::try_from(value).expect("defaults are plain data")
}

fn assign(table: &mut Table, assignment: &Assignment) -> Result<()> {
    if assignment.values.is_empty() {
        let (table, key) = owner(table, &assignment.key);
        table.remove(key);
        return Ok(());
    }
    let mut why = None;
    for value in &assignment.values {
        let mut changed = table.clone();
        insert(&mut changed, &assignment.key, value.clone());
        match changed.clone().try_into::<Config>() {
            Ok(_) => {
                *table = changed;
                return Ok(());
            }
            // What is wrong with the first reading says more than what is wrong with the same text as a string.
            Err(error) => why = why.or(Some(error.message().to_owned())),
        }
    }
    let known = known_keys(table);
    Err(match known.contains(&assignment.key) {
        true => wrong_value(assignment, why),
        false => unknown_key(table, assignment, &known),
    })
}

fn insert(table: &mut Table, key: &str, value: Value) {
    let (table, key) = owner(table, key);
    table.insert(key.to_owned(), value);
}

/// The table that a key stands in, and its name there.
fn owner<'a>(table: &'a mut Table, key: &'a str) -> (&'a mut Table, &'a str) {
    match key.split_once('.') {
        Some((group, option)) if GROUPS.contains(&group) || DATA.trim_end_matches('.') == group => {
            let options = table.entry(group).or_insert_with(|| Value::Table(Table::new()));
            (options.as_table_mut().expect("a group is a table"), option)
        }
        _ => (table, key),
    }
}

/// Whether a key may be missing.
fn is_optional(key: &str) -> bool {
    OPTIONAL.contains(&key) || key.strip_prefix(DATA).is_some_and(|option| SetOptions::KEYS.contains(&option))
}

/// Every key that the table may have, groups dotted.
fn known_keys(table: &Table) -> Vec<String> {
    let keys = table.iter().flat_map(|(key, value)| match value {
        Value::Table(options) => options.keys().map(|option| format!("{key}.{option}")).collect(),
        _ => vec![key.clone()],
    });
    let of_data = SetOptions::KEYS.iter().map(|option| format!("{DATA}{option}"));
    keys.chain(OPTIONAL.iter().map(|key| (*key).to_owned())).chain(of_data).collect()
}

fn wrong_value(assignment: &Assignment, why: Option<String>) -> Error {
    let key = &assignment.key;
    let value = match &assignment.origin {
        Origin::Set(_, text) => format!("`{text}`"),
        _ => format!("`{}`", assignment.values[0]),
    };
    let expected = expected(key).map(|expected| format!("expected {expected}")).or(why).unwrap_or_default();
    assignment.origin.error(format!("`{key}` is {value}, {expected}"), None)
}

fn unknown_key(table: &Table, assignment: &Assignment, known: &[String]) -> Error {
    let key = &assignment.key;
    let distance = |known: &&String| match key.split_once('.') {
        // A table where there is a plain value.
        Some((parent, _)) if parent == *known => 0,
        Some(_) => strsim::damerau_levenshtein(known, key),
        // An option may have been written without its table: `gate` is near `conv.gate`.
        None => {
            let option = known.rsplit('.').next().expect("a split has a last part");
            strsim::damerau_levenshtein(known, key).min(strsim::damerau_levenshtein(option, key))
        }
    };
    let nearest = known.iter().min_by_key(distance).expect("there are keys");
    let elsewhere = key.split_once('.').and_then(|(group, option)| owners(table, group, option));
    let message = match &elsewhere {
        Some(elsewhere) => format!("unknown key `{key}`: {elsewhere}; the nearest one is `{nearest}`"),
        None => format!("unknown key `{key}`; the nearest one is `{nearest}`"),
    };
    let remedy = match &assignment.origin {
        Origin::Set(_, value) if elsewhere.is_none() => Some(format!("did you mean `--set {nearest}={value}`?")),
        _ => None,
    };
    assignment.origin.error(message, remedy)
}

/// Which other kinds of a group have an option.
fn owners(table: &Table, group: &str, option: &str) -> Option<String> {
    let names = match group {
        "conv" => ConvKind::NAMES,
        "schedule" => Schedule::NAMES,
        _ => return None,
    };
    let has = |name: &&&str| kind_options(group, name).is_some_and(|options| options.contains_key(option));
    let owners: Vec<&str> = names.iter().filter(has).copied().collect();
    let current = table[group].get("kind").and_then(Value::as_str)?;
    (!owners.is_empty()).then(|| format!("it is an option of {}, not of {current}", owners.join(", ")))
}

#[cfg(test)]
mod tests;
