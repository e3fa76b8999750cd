//! `eval MODEL`: loss and accuracy on a test set, and the raw logits.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use gatefold_data::{Dataset, Kind, Normalisation, Request, load};
use gatefold_models::{Description, Model, file};
use gatefold_train::Config;
use gatefold_train::evaluate::evaluate;
use toml::{Table, Value};

use crate::{place, print};

/// Which test images.
#[derive(clap::Args)]
pub struct Test {
    /// The data set [default: the one the model was trained on]
    #[arg(long, value_name = "SET")]
    data: Option<String>,
    /// The folder that contains the sets [default: GATEFOLD_DATA, else the user's data directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The first N test images [default: all; of verify 1000]
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// An option of the data set, for example data.folder=photos [default: as the model wants its images]
    #[arg(long, value_name = "KEY=VALUE", num_args = 1..)]
    set: Vec<String>,
}

/// What `eval` takes.
#[derive(clap::Args)]
pub struct Args {
    /// A run directory or a model file
    model: PathBuf,
    #[command(flatten)]
    test: Test,
    /// Write the logits: little-endian f32, C order, [images, classes], file order, before the softmax
    #[arg(long, value_name = "FILE.npy")]
    logits: Option<PathBuf>,
}

/// The test images of a model, or those asked for instead.
pub fn test_set(description: &Description, test: &Test) -> anyhow::Result<Arc<Dataset>> {
    let kind: Kind = test.data.as_deref().unwrap_or(&description.dataset).parse()?;
    let dataset = Table::from_iter([("dataset".to_owned(), Value::String(kind.name().to_owned()))]);
    let options = Config::resolve(None, dataset, &super::train::pairs(&test.set)?)?.data;
    let request = Request {
        limit: test.limit,
        options: options.fitting(kind, description.input, description.classes.len()),
        // The model's own: nothing need be measured.
        normalisation: Some(Normalisation {
            mean: description.normalisation.mean.clone(),
            std: description.normalisation.std.clone(),
        }),
    };
    let loaded = load(kind, &place::data_dir(test.data_dir.as_deref()), request)?;
    print::remarks(&loaded);
    let (set, model) = (loaded.split.test.shape(), description.input);
    if set != model {
        return Err(print::usage(format!("images of `{}` are {set:?}, the model takes {model:?}", kind.name())));
    }
    Ok(Arc::new(loaded.split.test))
}

/// Prints `test loss` and `test accuracy`.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let model = Model::<f32>::load(&place::model_file(&args.model)?)?;
    let test = test_set(&model.description, &args.test)?;
    let mut logits = Vec::new();
    let evaluation = evaluate(&model, &test, |batch| {
        if args.logits.is_some() {
            logits.extend(batch.to_vec());
        }
    })?;
    if let Some(path) = &args.logits {
        write_npy(path, &logits, [evaluation.images, model.description.classes.len()])?;
    }
    println!("test loss {:.4}", evaluation.loss);
    println!("test accuracy {:.2} %", evaluation.accuracy());
    Ok(ExitCode::SUCCESS)
}

/// NumPy's format 1.0: a magic, a header padded so that the data begin at a multiple of 64, the data.
fn write_npy(path: &Path, values: &[f32], [rows, columns]: [usize; 2]) -> anyhow::Result<()> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let unpadded = 10 + header.len() + 1;
    header.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
    header.push('\n');
    file::write_atomic(path, |out| {
        out.write_all(b"\x93NUMPY\x01\x00")?;
        out.write_all(&(header.len() as u16).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))
    })
    .map_err(|source| file::FileError::Io { path: path.to_owned(), source })?;
    Ok(())
}
