//! Brings the files of a set into the data folder: what is missing, from where it can be had.

use std::fs;
use std::path::{Path, PathBuf};

use super::supply::{Download, Files, Form, Source};
use super::unpack::{self, move_aside, sync};
use super::{Failure, Got, Progress, download, sums};
use crate::{Error, Result};

pub(super) fn get_files(
    set: &'static str,
    files: &Files,
    data_dir: &Path,
    optional: bool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Got> {
    let folder = data_dir.join(files.folder);
    let mut fetch = Fetch { set, files, data_dir, progress, from: Vec::new(), moved: Vec::new() };
    let wanted = files.downloads.iter().filter(|download| optional || !download.optional);
    for download in wanted.filter(|download| !is_here(set, files, download, data_dir)) {
        fs::create_dir_all(data_dir).map_err(|e| Error::io("create", data_dir, e))?;
        fetch.one(download)?;
    }
    Ok(match fetch.from.is_empty() {
        true => Got::Present(folder),
        false => Got::Fetched { folder, from: fetch.from, moved: fetch.moved },
    })
}

/// Whether what a download brings is in place, whole and right.
fn is_here(set: &'static str, files: &Files, download: &Download, data_dir: &Path) -> bool {
    match download.form.is_archive() {
        true => sums::verify_files(set, files, data_dir).iter().all(|(_, verdict)| verdict.is_ok()),
        false => {
            let path = data_dir.join(files.folder).join(download.file);
            sums::verify_file(set, &path, &download.member(), None).is_ok()
        }
    }
}

struct Fetch<'a> {
    set: &'static str,
    files: &'a Files,
    data_dir: &'a Path,
    progress: &'a mut dyn FnMut(Progress<'_>),
    from: Vec<String>,
    moved: Vec<PathBuf>,
}

impl Fetch<'_> {
    /// From the archive that was placed by hand, else from the first source that serves it.
    fn one(&mut self, download: &Download) -> Result<()> {
        let mut failures = Vec::new();
        let by_hand = self.data_dir.join(download.file);
        if download.form.is_archive() && by_hand.is_file() {
            (self.progress)(Progress::Archive(&by_hand));
            let installed = self.check_by_hand(download, &by_hand).and_then(|()| self.install(download, &by_hand));
            if self.ended(installed, by_hand.display().to_string(), &mut failures)? {
                return Ok(());
            }
        }
        for source in download.sources {
            let part = self.part(download, source);
            let fetched = download::download(source, download.form, &part, self.progress)
                .and_then(|()| self.install(download, &part));
            if self.ended(fetched, source.url.to_string(), &mut failures)? {
                self.remove_parts(download);
                return Ok(());
            }
        }
        let place = match download.form {
            Form::Plain { .. } => self.data_dir.join(self.files.folder).join(download.file),
            _ => by_hand,
        };
        let remedy = format!(
            "place the file as `{}` and run `gatefold data get {} --data-dir {}` again",
            place.display(),
            self.set,
            self.data_dir.display()
        );
        Err(Error::Download { set: self.set, failures, remedy })
    }

    /// Whether the set came from there; what is wrong there is noted, what is wrong here ends it all.
    fn ended(
        &mut self,
        fetched: Result<Option<PathBuf>, Failure>,
        from: String,
        failures: &mut Vec<String>,
    ) -> Result<bool> {
        match fetched {
            Ok(moved) => {
                self.from.push(from);
                self.moved.extend(moved);
                Ok(true)
            }
            Err(Failure::Local(error)) => Err(error),
            Err(Failure::There(why)) => {
                (self.progress)(Progress::Failed { from: &from, why: &why });
                failures.push(format!("{from}: {why}"));
                Ok(false)
            }
        }
    }

    /// An archive whose files have no published checksums must itself be one that a source serves.
    fn check_by_hand(&self, download: &Download, archive: &Path) -> Result<(), Failure> {
        if self.files.members.iter().all(|member| member.sha256.is_some()) {
            return Ok(());
        }
        let sha256 = sums::sha256_of(archive)?;
        match download.sources.iter().any(|source| source.sha256.eq_ignore_ascii_case(&sha256)) {
            true => Ok(()),
            false => Err(Failure::There(format!("is a wrong file: its SHA-256 is {sha256}"))),
        }
    }

    /// Puts a download in place. Returns where what stood there was moved to.
    fn install(&mut self, download: &Download, file: &Path) -> Result<Option<PathBuf>, Failure> {
        if download.form.is_archive() {
            (self.progress)(Progress::Unpacking);
            return unpack::install(file, download.form, self.files, self.data_dir);
        }
        let folder = self.data_dir.join(self.files.folder);
        fs::create_dir_all(&folder).map_err(Failure::local("create", &folder))?;
        let place = folder.join(download.file);
        let moved = move_aside(&place)?;
        fs::rename(file, &place).map_err(Failure::local("create", &place))?;
        sync(&folder)?;
        Ok(moved)
    }

    /// Where the bytes of a download gather. Named by the contents: sources of one file go on with each other's part, others
    /// never mix.
    fn part(&self, download: &Download, source: &Source) -> PathBuf {
        let contents: String = source.sha256.chars().filter(char::is_ascii_hexdigit).take(8).collect();
        self.data_dir.join(format!(".{}.{contents}.part", download.file))
    }

    /// The set is in place: parts that stay behind, also those of other sources, only take room.
    fn remove_parts(&self, download: &Download) {
        for source in download.sources {
            let _ = fs::remove_file(self.part(download, source));
        }
    }
}
