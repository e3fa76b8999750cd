//! Unpacks the archive of a set: only the expected files, checked one by one, and then all of them at once into place.
//!
//! An archive is not trusted: no path of it is used (each entry is compared with the names that are expected), links and
//! devices are never made, nothing is written beyond the expected size, and reading stops at a bound.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};
use tar::Archive;
use zip::ZipArchive;

use super::Failure;
use super::sums::{KEPT, lines};
use super::supply::{Files, Form, Member};
use crate::dataset::hex;

/// Room in the stream for headers, padding and the files nobody needs.
const SLACK: u64 = 16 << 20;
/// The largest file kept that has no checksum: a page of text.
const EXTRA: u64 = 1 << 16;
/// The largest file unpacked whose size is not known beforehand.
const UNSIZED: u64 = 1 << 30;
/// Entries of a zip archive beyond which it is refused.
const MAX_ENTRIES: usize = 10_000;

/// Unpacks `archive` and puts the set's folder into `data_dir`. Returns where a folder that stood there was moved to.
pub(super) fn install(archive: &Path, form: Form, files: &Files, data_dir: &Path) -> Result<Option<PathBuf>, Failure> {
    let folder = data_dir.join(files.folder);
    // A fixed name: what an interrupted call left behind is cleared away by the next.
    let fresh = data_dir.join(format!(".{}.unpacking", files.folder.replace('/', "-")));
    clear(&fresh)?;
    fs::create_dir(&fresh).map_err(Failure::local("create", &fresh))?;
    let installed = unpack(archive, form, files, &fresh).and_then(|()| {
        sync(&fresh)?;
        let above = folder.parent().unwrap_or(data_dir);
        fs::create_dir_all(above).map_err(Failure::local("create", above))?;
        let moved = move_aside(&folder)?;
        fs::rename(&fresh, &folder).map_err(Failure::local("create", &folder))?;
        sync(above)?;
        Ok(moved)
    });
    if installed.is_err() {
        // The error that is reported is the first one.
        let _ = clear(&fresh);
    }
    installed
}

fn unpack(archive: &Path, form: Form, files: &Files, into: &Path) -> Result<(), Failure> {
    let file = BufReader::new(File::open(archive).map_err(Failure::local("open", archive))?);
    let mut unpacking = Unpacking {
        files,
        into,
        inside: "",
        missing: files.members.iter().map(|member| member.name).collect(),
        kept: Vec::new(),
    };
    match form {
        Form::TarGz { inside } => unpacking.inside(inside).tar(file)?,
        Form::Zip { inside } => unpacking.inside(inside).zip(file)?,
        Form::Plain { .. } => return Err(Failure::There("is no archive".into())),
    }
    unpacking.finish()
}

/// An archive that is being unpacked.
struct Unpacking<'a> {
    files: &'a Files,
    into: &'a Path,
    /// The folder of the members inside the archive.
    inside: &'static str,
    /// Members that have not come yet.
    missing: BTreeSet<&'static str>,
    /// Checksums of members of which none is published.
    kept: Vec<(&'static str, String)>,
}

impl Unpacking<'_> {
    fn inside(&mut self, inside: &'static str) -> &mut Self {
        self.inside = inside;
        self
    }

    fn tar(&mut self, file: impl Read) -> Result<(), Failure> {
        let sizes = self.files.members.iter().map(|member| member.size.unwrap_or(UNSIZED));
        let mut archive = Archive::new(MultiGzDecoder::new(file).take(sizes.sum::<u64>() + SLACK));
        // Raw: an extension that carries a long name is an entry to pass over, not a text to hold in memory.
        for entry in archive.entries().map_err(damaged)?.raw(true) {
            let mut entry = entry.map_err(damaged)?;
            if entry.header().entry_type().is_file()
                && let Some(name) = self.expected_name(&entry.path_bytes())
            {
                self.entry(name, &mut entry)?;
            }
        }
        Ok(())
    }

    fn zip(&mut self, file: impl Read + std::io::Seek) -> Result<(), Failure> {
        let damaged = |e: zip::result::ZipError| Failure::There(format!("the archive is damaged: {e}"));
        let mut archive = ZipArchive::new(file).map_err(damaged)?;
        if archive.len() > MAX_ENTRIES {
            return Err(Failure::There(format!("the archive has {} entries", archive.len())));
        }
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index).map_err(damaged)?;
            if entry.is_file()
                && !entry.is_symlink()
                && let Some(name) = self.expected_name(entry.name_raw())
            {
                self.entry(name, &mut entry)?;
            }
        }
        Ok(())
    }

    /// The name of a file of the set, `INSIDE/NAME` or `./INSIDE/NAME`, as this program writes it; `None` for everything else in
    /// the archive.
    fn expected_name(&self, path: &[u8]) -> Option<&'static str> {
        let path = path.strip_prefix(b"./").unwrap_or(path);
        let name = path.strip_prefix(self.inside.as_bytes())?.strip_prefix(b"/")?;
        let members = self.files.members.iter().map(|member| member.name);
        members.chain(self.files.extras.iter().copied()).find(|known| known.as_bytes() == name)
    }

    fn entry(&mut self, name: &'static str, from: &mut impl Read) -> Result<(), Failure> {
        let path = self.into.join(name);
        let Some(member) = self.files.members.iter().find(|member| member.name == name) else {
            return write_extra(from, &path);
        };
        if !self.missing.remove(name) {
            return Err(Failure::There(format!("the archive holds `{name}` twice")));
        }
        let sha256 = write_member(from, member, &path)?;
        if member.sha256.is_none() {
            self.kept.push((name, sha256));
        }
        Ok(())
    }

    /// Nothing is missing; checksums that nobody publishes are kept.
    fn finish(self) -> Result<(), Failure> {
        if let Some(name) = self.missing.first() {
            return Err(Failure::There(format!("the archive does not hold `{}/{name}`", self.inside)));
        }
        if !self.kept.is_empty() {
            let path = self.into.join(KEPT);
            fs::write(&path, lines(&self.kept)).map_err(Failure::local("write", &path))?;
        }
        Ok(())
    }
}

/// Writes a member and returns its SHA-256, which is the published one, if one is.
fn write_member(entry: &mut impl Read, member: &Member, path: &Path) -> Result<String, Failure> {
    let mut file = File::create_new(path).map_err(Failure::local("create", path))?;
    let most = member.size.unwrap_or(UNSIZED);
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 16]);
    loop {
        let n = entry.read(&mut buffer).map_err(damaged)?;
        size += n as u64;
        if n == 0 || size > most {
            break;
        }
        hash.update(&buffer[..n]);
        file.write_all(&buffer[..n]).map_err(Failure::local("write", path))?;
    }
    let wrong = |how: String| Failure::There(format!("`{}` in the archive {how}", member.name));
    if size > most || member.size.is_some_and(|expected| size < expected) {
        let than = if size > most { "more" } else { "fewer" };
        return Err(wrong(format!("has {than} than the expected {most} bytes")));
    }
    let sha256 = hex(&hash.finalize());
    if let Some(published) = member.sha256
        && sha256 != published
    {
        return Err(wrong(format!("is a wrong file: SHA-256 {sha256}, expected {published}")));
    }
    file.sync_all().map_err(Failure::local("write", path))?;
    Ok(sha256)
}

/// A text that comes with the set; cut at [`EXTRA`].
fn write_extra(entry: &mut impl Read, path: &Path) -> Result<(), Failure> {
    let mut text = Vec::new();
    entry.take(EXTRA).read_to_end(&mut text).map_err(damaged)?;
    fs::write(path, text).map_err(Failure::local("write", path))
}

fn damaged(cause: std::io::Error) -> Failure {
    Failure::There(format!("the archive is damaged: {cause}"))
}

/// Renames what stands at `path` to the first free `path.old-1`, `path.old-2`, …: nothing a user had is lost.
pub(super) fn move_aside(path: &Path) -> Result<Option<PathBuf>, Failure> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(None);
    }
    let mut names = (1..).map(|n| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".old-{n}"));
        PathBuf::from(name)
    });
    let aside = names.find(|aside| fs::symlink_metadata(aside).is_err()).expect("there are enough numbers");
    fs::rename(path, &aside).map_err(Failure::local("move", path))?;
    Ok(Some(aside))
}

fn clear(folder: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Failure::local("remove", folder)(e)),
        _ => Ok(()),
    }
}

/// Makes the names in a folder lasting, where the system can.
pub(super) fn sync(folder: &Path) -> Result<(), Failure> {
    if cfg!(unix) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(Failure::local("write", folder))?;
    }
    Ok(())
}
