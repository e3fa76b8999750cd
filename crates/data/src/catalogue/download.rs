//! Downloads one file into a part file, and goes on where an earlier attempt broke off.
//!
//! What a server says is believed only as far as it can be checked: a part is continued only if the server confirms the
//! place and the size, and the whole counts only with its SHA-256. So a file that changed on the server between two
//! attempts shows as a wrong checksum, and is then fetched once more from the start.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

use super::sums::sha256_of;
use super::supply::{Form, Source};
use super::{Failure, Progress};

/// Connections to one source before it is given up, though each brought something.
const ATTEMPTS: usize = 20;
/// A server that is silent for this long has broken off.
const SILENCE: Duration = Duration::from_secs(60);

/// Fetches `source`, a file of the given form, into `part`; afterwards `part` has the source's size and SHA-256.
pub(super) fn download(
    source: &Source,
    form: Form,
    part: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), Failure> {
    let continued = size_of(part) > 0;
    complete(source, form, part, progress)?;
    match check(source, part) {
        // Begun by an earlier attempt, perhaps of a file that has changed since: once more from the start.
        Err(Failure::There(_)) if continued => {
            complete(source, form, part, progress)?;
            check(source, part)
        }
        checked => checked,
    }
}

/// Connects until the part has the size of the whole.
fn complete(source: &Source, form: Form, part: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), Failure> {
    if size_of(part) > source.size {
        discard(part)?;
    }
    for _ in 0..ATTEMPTS {
        let have = size_of(part);
        if have == source.size {
            return Ok(());
        }
        progress(Progress::Source { url: &source.url, have });
        match attempt(source, form, part, have, progress) {
            // Broken off, but further than before: worth another connection.
            Err(Failure::There(_)) if size_of(part) > have => {}
            ended => ended?,
        }
    }
    Err(Failure::There(format!("broke off {ATTEMPTS} times, at last after {} of {} bytes", size_of(part), source.size)))
}

/// The part has its size: is it the right file? A wrong one is discarded.
fn check(source: &Source, part: &Path) -> Result<(), Failure> {
    let sha256 = sha256_of(part)?;
    if sha256.eq_ignore_ascii_case(&source.sha256) {
        return Ok(());
    }
    discard(part)?;
    Err(Failure::There(format!("serves a wrong file: SHA-256 {sha256}, expected {}", source.sha256)))
}

/// One connection: appends to the part what comes from byte `have` on.
fn attempt(
    source: &Source,
    form: Form,
    part: &Path,
    have: u64,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), Failure> {
    let mut request = agent(&source.url).get(&*source.url);
    if have > 0 {
        request = request.header(header::RANGE, format!("bytes={have}-"));
    }
    let mut response = request.call().map_err(|e| Failure::There(format!("no answer: {e}")))?;
    let start = match response.status() {
        StatusCode::OK => 0,
        StatusCode::PARTIAL_CONTENT if content_range(&response) == Some((have, source.size)) => have,
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => {
            // Its file is not the one that the part was begun from, or it cannot continue: from the start.
            discard(part)?;
            return attempt(source, form, part, 0, progress);
        }
        status => return Err(Failure::There(format!("answers with status {status}"))),
    };
    if response.body().mime_type().is_some_and(|mime| mime.eq_ignore_ascii_case("text/html")) {
        return Err(Failure::There("answers with an HTML page (of an error or a login?), not with the file".into()));
    }
    let whole = response.body().content_length().map(|length| start.saturating_add(length));
    if let Some(whole) = whole.filter(|&whole| whole != source.size) {
        return Err(Failure::There(format!("serves a wrong file: {whole} bytes, expected {}", source.size)));
    }
    receive(source, form, &mut response, part, start, progress)
}

/// Writes the body to the part from byte `start` on, until the part has the size of the whole.
fn receive(
    source: &Source,
    form: Form,
    response: &mut Response<Body>,
    part: &Path,
    start: u64,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), Failure> {
    let mut body = response.body_mut().as_reader();
    let (mut done, mut buffer) = (start, vec![0; 1 << 16]);
    let mut file: Option<File> = None;
    loop {
        let broke_off = |why: String| Failure::There(format!("broke off after {done} of {} bytes: {why}", source.size));
        // So many bytes at least of a fresh file that its kind shows before anything is written over.
        let (magic, mut filled) = (form.magic(), 0);
        while filled < if done == 0 { magic.len() } else { 1 } {
            match body.read(&mut buffer[filled..]).map_err(|e| broke_off(e.to_string()))? {
                0 => break,
                n => filled += n,
            }
        }
        if filled == 0 && done < source.size {
            return Err(broke_off("the connection was closed".into()));
        }
        if done == 0 && !magic.starts_with(&buffer[..filled.min(magic.len())]) {
            return Err(Failure::There(format!("serves something that is no {}", form.noun())));
        }
        if done + filled as u64 > source.size {
            discard(part)?;
            return Err(Failure::There(format!("serves a wrong file: more than the expected {} bytes", source.size)));
        }
        let out = match &mut file {
            Some(file) => file,
            None => file.insert(open(part, start)?),
        };
        if filled == 0 {
            return out.sync_all().map_err(Failure::local("write", part));
        }
        out.write_all(&buffer[..filled]).map_err(Failure::local("write", part))?;
        done += filled as u64;
        progress(Progress::Bytes { done, total: source.size });
    }
}

/// The part, ready to be written from byte `start` on.
fn open(part: &Path, start: u64) -> Result<File, Failure> {
    let mut options = OpenOptions::new();
    let options = if start > 0 { options.append(true) } else { options.write(true).create(true).truncate(true) };
    options.open(part).map_err(Failure::local("write", part))
}

/// Start and total of `Content-Range: bytes START-END/TOTAL` (RFC 9110, 14.4).
fn content_range(response: &Response<Body>) -> Option<(u64, u64)> {
    let value = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.trim().parse().ok()?, total.trim().parse().ok()?))
}

fn size_of(part: &Path) -> u64 {
    fs::metadata(part).map_or(0, |metadata| metadata.len())
}

fn discard(part: &Path) -> Result<(), Failure> {
    match fs::remove_file(part) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Failure::local("remove", part)(e)),
        _ => Ok(()),
    }
}

fn agent(url: &str) -> Agent {
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .accept_encoding("identity") // the archive's own bytes, whose checksum is known
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE));
    if url.starts_with("http://127.0.0.1") || url.starts_with("http://localhost") {
        config = config.proxy(None); // no proxy leads back to this machine
    }
    config.build().into()
}
