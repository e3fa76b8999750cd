//! Model files: safetensors, written whole or not at all, read without trust.
//!
//! The metadata has exactly one key, `gatefold`, a JSON text with sorted keys. Nothing in a file depends on time, path,
//! machine or threads: the same network is the same bytes.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use gatefold_tensor::{Dtype, Real, Shape, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

/// The only key of the metadata.
const KEY: &str = "gatefold";

/// Tensors beyond this rank are nobody's weights.
const MAX_RANK: usize = 6;

/// A file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The operating system refused.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("{path}: {message}", path = .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The file holds the weights of another network, or of another form of it.
    #[error("{path}: {message}", path = .path.display())]
    Misfit {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        message: String,
    },
}

/// A tensor in the element type in which a file holds it.
#[derive(Debug, Clone, PartialEq)]
pub enum Stored {
    /// F32.
    F32(Tensor<f32>),
    /// F64.
    F64(Tensor<f64>),
}

impl Stored {
    /// The tensor in the type of the computation; F64 to f32 rounds.
    pub fn to<T: Real>(&self) -> Tensor<T> {
        match self {
            Stored::F32(tensor) => tensor.cast(),
            Stored::F64(tensor) => tensor.cast(),
        }
    }

    fn dtype(&self) -> safetensors::Dtype {
        match self {
            Stored::F32(_) => safetensors::Dtype::F32,
            Stored::F64(_) => safetensors::Dtype::F64,
        }
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        match self {
            Stored::F32(tensor) => tensor.shape(),
            Stored::F64(tensor) => tensor.shape(),
        }
    }

    /// Little-endian values in logical row-major order.
    fn bytes(&self) -> Vec<u8> {
        match self {
            Stored::F32(tensor) => tensor.to_vec().iter().flat_map(|v| v.to_le_bytes()).collect(),
            Stored::F64(tensor) => tensor.to_vec().iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }
}

impl<T: Real> From<&Tensor<T>> for Stored {
    fn from(tensor: &Tensor<T>) -> Self {
        match T::DTYPE {
            Dtype::F32 => Stored::F32(tensor.cast()),
            Dtype::F64 => Stored::F64(tensor.cast()),
        }
    }
}

/// What a file holds: the JSON text of the metadata, if it is one of ours, and every tensor by its name.
#[derive(Debug)]
pub struct Contents {
    /// The metadata under the key `gatefold`.
    pub metadata: Option<String>,
    /// Every tensor.
    pub tensors: BTreeMap<String, Stored>,
}

/// Reads a safetensors file. PyTorch's counters `num_batches_tracked` are passed over.
///
/// # Errors
/// [`FileError::Io`] if it cannot be read; [`FileError::Format`] if a header lies or a type is not F32 or F64.
pub fn read(path: &Path) -> Result<Contents, FileError> {
    let format = |message: String| FileError::Format { path: path.to_owned(), message };
    let bytes = fs::read(path).map_err(|source| FileError::Io { path: path.to_owned(), source })?;
    let not_safetensors = |e| format(format!("not a valid safetensors file: {e}"));
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(not_safetensors)?;
    let file = SafeTensors::deserialize(&bytes).map_err(not_safetensors)?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter().filter(|(name, _)| !name.ends_with("num_batches_tracked")) {
        tensors.insert(name.to_owned(), decode(&view).map_err(|why| format(format!("tensor `{name}`: {why}")))?);
    }
    let metadata = header.metadata().as_ref().and_then(|metadata| metadata.get(KEY).cloned());
    Ok(Contents { metadata, tensors })
}

fn decode(view: &TensorView<'_>) -> Result<Stored, String> {
    if view.shape().len() > MAX_RANK {
        return Err(format!("rank {} is above {MAX_RANK}", view.shape().len()));
    }
    let shape = Shape::from(view.shape());
    let wrong = |e: gatefold_tensor::Error| e.to_string();
    match view.dtype() {
        safetensors::Dtype::F32 => {
            let values = view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            Tensor::from_vec(shape, values).map(Stored::F32).map_err(wrong)
        }
        safetensors::Dtype::F64 => {
            let values = view.data().as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect();
            Tensor::from_vec(shape, values).map(Stored::F64).map_err(wrong)
        }
        other => Err(format!("element type {other:?}, expected F32 or F64")),
    }
}

/// Writes a safetensors file, whole or not at all.
///
/// # Errors
/// [`FileError::Io`] if it cannot be written; what was there before is still there then.
pub fn write(path: &Path, metadata: Option<String>, tensors: &BTreeMap<String, Stored>) -> Result<(), FileError> {
    let bytes: Vec<_> = tensors.iter().map(|(name, stored)| (name, stored, stored.bytes())).collect();
    let views = bytes.iter().map(|(name, stored, bytes)| {
        TensorView::new(stored.dtype(), stored.shape().to_vec(), bytes).map(|view| (name.as_str(), view))
    });
    let format = |e: safetensors::SafeTensorError| FileError::Format { path: path.to_owned(), message: e.to_string() };
    let views = views.collect::<Result<Vec<_>, _>>().map_err(format)?;
    let metadata = metadata.map(|text| HashMap::from([(KEY.to_owned(), text)]));
    let file = safetensors::serialize(views, metadata).map_err(format)?;
    write_atomic(path, |out| out.write_all(&file)).map_err(|source| FileError::Io { path: path.to_owned(), source })
}

/// Writes a file under a temporary name in the same folder, syncs it, and renames it: whoever reads `path` sees the old
/// contents or the new ones, also after a power cut. A failure removes the temporary file and leaves the old one.
///
/// # Errors
/// Those of `fill` and of the file system.
pub fn write_atomic(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a file name"))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = folder.join(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    let written = (|| {
        let mut out = BufWriter::new(OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?);
        fill(&mut out)?;
        out.into_inner()?.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // The first error is the one to report; without its temporary file nothing is left to mend.
        let _ = fs::remove_file(&temporary);
        return written;
    }
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let w = Tensor::<f32>::from_vec([2, 3, 2, 2], (0..24).map(|i| i as f32 / 7.0).collect()).unwrap();
        let tensors =
            BTreeMap::from([("w".to_owned(), Stored::from(&w)), ("v".to_owned(), Stored::from(&w.cast::<f64>()))]);
        write(&path, Some("{}".to_owned()), &tensors).unwrap();
        let contents = read(&path).unwrap();
        assert_eq!((contents.metadata.as_deref(), &contents.tensors), (Some("{}"), &tensors));
        let first = fs::read(&path).unwrap();
        write(&path, Some("{}".to_owned()), &tensors).unwrap();
        assert_eq!(fs::read(&path).unwrap(), first);
    }

    #[test]
    fn a_writer_that_fails_leaves_the_old_file_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, "old").unwrap();
        let failed = write_atomic(&path, |out| {
            out.write_all(&[0; 100_000])?;
            Err(io::Error::other("the disk is full"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "the disk is full");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn broken_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let header = |text: &str, body: usize| {
            [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &vec![0; body]].concat()
        };
        let cases: [(&str, Vec<u8>); 7] = [
            ("empty", vec![]),
            ("a length beyond the file", [&u64::MAX.to_le_bytes()[..], b"{}"].concat()),
            ("not JSON", header("{nonsense", 0)),
            (
                "a shape beyond the data",
                header(r#"{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}"#, 4),
            ),
            (
                "a shape that overflows",
                header(
                    r#"{"w":{"dtype":"F32","shape":[9223372036854775807,9223372036854775807],"data_offsets":[0,4]}}"#,
                    4,
                ),
            ),
            ("another type", header(r#"{"w":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}"#, 4)),
            (
                "a rank beyond reason",
                header(r#"{"w":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1],"data_offsets":[0,4]}}"#, 4),
            ),
        ];
        for (what, bytes) in cases {
            fs::write(&path, bytes).unwrap();
            assert!(matches!(read(&path), Err(FileError::Format { .. })), "{what}");
        }
        assert!(matches!(read(&path.join("below")), Err(FileError::Io { .. })));
    }
}
