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
use tar::{Archive, Entry};

use super::{Failure, Member};
use crate::dataset::hex;
use crate::sets::Files;

/// Room in the stream for headers, padding and the files nobody needs.
const SLACK: u64 = 16 << 20;
/// The largest file kept that has no checksum: a page of text.
const EXTRA: u64 = 1 << 16;

/// Unpacks `archive` and puts the set's folder into `data_dir`. Returns where a folder that stood there was moved to.
pub(super) fn install(archive: &Path, files: &Files, data_dir: &Path) -> Result<Option<PathBuf>, Failure> {
    let folder = data_dir.join(files.folder);
    // A fixed name: what an interrupted call left behind is cleared away by the next.
    let fresh = data_dir.join(format!(".{}.unpacking", files.folder));
    clear(&fresh)?;
    fs::create_dir(&fresh).map_err(Failure::local("create", &fresh))?;
    let installed = unpack(archive, files, &fresh).and_then(|()| {
        sync(&fresh)?;
        let moved = move_aside(&folder)?;
        fs::rename(&fresh, &folder).map_err(Failure::local("create", &folder))?;
        sync(data_dir)?;
        Ok(moved)
    });
    if installed.is_err() {
        // The error that is reported is the first one.
        let _ = clear(&fresh);
    }
    installed
}

fn unpack(archive: &Path, files: &Files, into: &Path) -> Result<(), Failure> {
    let file = File::open(archive).map_err(Failure::local("open", archive))?;
    let bound = files.members.iter().map(|member| member.size).sum::<u64>() + SLACK;
    let mut archive = Archive::new(MultiGzDecoder::new(BufReader::new(file)).take(bound));
    let mut missing: BTreeSet<&str> = files.members.iter().map(|member| member.name).collect();
    // Raw: an extension that carries a long name is an entry to pass over, not a text to hold in memory.
    for entry in archive.entries().map_err(damaged)?.raw(true) {
        let mut entry = entry.map_err(damaged)?;
        let Some(name) = expected_name(&entry, files) else { continue };
        match files.members.iter().find(|member| member.name == name) {
            Some(member) => {
                if !missing.remove(name) {
                    return Err(Failure::There(format!("the archive holds `{name}` twice")));
                }
                write_member(&mut entry, member, &into.join(name))?;
            }
            None => write_extra(&mut entry, &into.join(name))?,
        }
    }
    match missing.first() {
        Some(name) => Err(Failure::There(format!("the archive does not hold `{}/{name}`", files.folder))),
        None => Ok(()),
    }
}

/// The name of a regular file of the set, `FOLDER/NAME` or `./FOLDER/NAME`, as this program writes it; `None` for
/// everything else in the archive.
fn expected_name<R: Read>(entry: &Entry<'_, R>, files: &Files) -> Option<&'static str> {
    if !entry.header().entry_type().is_file() {
        return None;
    }
    let path = entry.path_bytes();
    let path = path.strip_prefix(b"./").unwrap_or(&path);
    let name = path.strip_prefix(files.folder.as_bytes())?.strip_prefix(b"/")?;
    let mut names = files.members.iter().map(|member| member.name).chain(files.extras.iter().copied());
    names.find(|known| known.as_bytes() == name)
}

fn write_member(entry: &mut impl Read, member: &Member, path: &Path) -> Result<(), Failure> {
    let mut file = File::create_new(path).map_err(Failure::local("create", path))?;
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 16]);
    loop {
        let n = entry.read(&mut buffer).map_err(damaged)?;
        size += n as u64;
        if n == 0 || size > member.size {
            break;
        }
        hash.update(&buffer[..n]);
        file.write_all(&buffer[..n]).map_err(Failure::local("write", path))?;
    }
    let wrong = |how: String| Failure::There(format!("`{}` in the archive {how}", member.name));
    if size != member.size {
        let than = if size > member.size { "more" } else { "fewer" };
        return Err(wrong(format!("has {than} than the expected {} bytes", member.size)));
    }
    let sha256 = hex(&hash.finalize());
    if sha256 != member.sha256 {
        return Err(wrong(format!("is a wrong file: SHA-256 {sha256}, expected {}", member.sha256)));
    }
    file.sync_all().map_err(Failure::local("write", path))
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
fn move_aside(path: &Path) -> Result<Option<PathBuf>, Failure> {
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
fn sync(folder: &Path) -> Result<(), Failure> {
    if cfg!(unix) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(Failure::local("write", folder))?;
    }
    Ok(())
}
