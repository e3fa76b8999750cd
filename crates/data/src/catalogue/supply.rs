//! How a set comes: as part of the program, from a server, or by its user's hand.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::State;
use crate::Result;

/// How a set comes.
pub(crate) enum Supply {
    /// It is part of the program.
    Embedded { file: &'static [u8], sha256: &'static str },
    /// It is fetched.
    Download(Files),
    /// Its user places it.
    ByHand(ByHand),
}

/// The files of a set that is fetched.
pub(crate) struct Files {
    /// The folder below the data folder, by its usual name; `/` between its parts.
    pub folder: &'static str,
    /// What is downloaded: an archive that is unpacked into the folder, or files that lie there as they come.
    pub downloads: &'static [Download],
    /// What an archive puts into the folder.
    pub members: &'static [Member],
    /// Texts in an archive that are kept and that nobody checks.
    pub extras: &'static [&'static str],
}

/// Something that is downloaded in one piece.
pub(crate) struct Download {
    /// Its official file name.
    pub file: &'static str,
    pub form: Form,
    /// Where it can be had, the official place first.
    pub sources: &'static [Source],
    /// Whether the set is whole without it.
    pub optional: bool,
}

/// What a download is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form {
    /// A gzipped tar archive whose members lie in the folder `inside`.
    TarGz { inside: &'static str },
    /// A zip archive whose members lie in the folder `inside`.
    Zip { inside: &'static str },
    /// A file that is read as it comes, and that begins with `magic`.
    Plain { magic: &'static [u8] },
}

impl Form {
    /// The first bytes of such a file.
    pub(super) fn magic(self) -> &'static [u8] {
        match self {
            Form::TarGz { .. } => &[0x1f, 0x8b], // RFC 1952
            Form::Zip { .. } => b"PK\x03\x04",
            Form::Plain { magic } => magic,
        }
    }

    /// What such a file is called in a message.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Form::TarGz { .. } => "gzip archive",
            Form::Zip { .. } => "zip archive",
            Form::Plain { .. } => "file of that kind",
        }
    }

    pub(super) fn is_archive(self) -> bool {
        !matches!(self, Form::Plain { .. })
    }
}

/// A place where a file can be had, and what must come from there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The address of the file.
    pub url: Cow<'static, str>,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: Cow<'static, str>,
}

/// A file of a set, as it lies in the set's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The name inside the set's folder.
    pub name: &'static str,
    /// Its size in bytes, where it is known.
    pub size: Option<u64>,
    /// Its SHA-256 in hexadecimal, where one is published.
    pub sha256: Option<&'static str>,
}

impl Files {
    /// What must lie in the folder; optional files too if `optional`.
    pub(super) fn expected(&self, optional: bool) -> Vec<Member> {
        let plain =
            self.downloads.iter().filter(|download| !download.form.is_archive() && (optional || !download.optional));
        self.members.iter().copied().chain(plain.map(Download::member)).collect()
    }

    /// Bytes of the whole set, where that is known; of archives themselves where it is not known of what they hold.
    pub(super) fn bytes(&self) -> u64 {
        let known = self.expected(false).iter().map(|member| member.size).sum::<Option<u64>>();
        let archives = self.downloads.iter().filter_map(|download| download.sources.first()).map(|source| source.size);
        known.unwrap_or_else(|| archives.sum())
    }
}

impl Download {
    /// The file in the set's folder, of a download that is no archive. Its sources serve the same file.
    pub(super) fn member(&self) -> Member {
        let source = self.sources.first();
        Member {
            name: self.file,
            size: source.map(|source| source.size),
            sha256: source.and_then(|source| match &source.sha256 {
                Cow::Borrowed(sha256) => Some(*sha256),
                Cow::Owned(_) => None,
            }),
        }
    }
}

/// A set that its user places.
pub(crate) struct ByHand {
    /// What to do.
    pub how: &'static str,
    /// Whether it is there.
    pub state: fn(&Path) -> State,
    /// Whether it can be read: each part or file with its verdict.
    pub verify: fn(&Path) -> Verdicts,
}

/// Parts or files of a set, each with its verdict.
pub(crate) type Verdicts = Vec<(PathBuf, Result<()>)>;
