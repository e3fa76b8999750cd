//! MATLAB's MAT-files, level 5: the numeric arrays of a file, one after the other, compressed or not.
//!
//! ```text
//! file     header of 128 bytes (text, version 0x0100, "IM"), then elements
//! element  tag: type u32, length u32; then so many bytes. Or small: length u16 · 2¹⁶ + type u16, then 4 bytes
//! type 15  a deflated element (RFC 1950)      type 14  a matrix, made of elements:
//!          flags (class in the lowest byte), dimensions (i32 each), name, values
//! ```
//! Source: *MAT-File Format*, The MathWorks. Values lie column by column, the first index fastest. Files written on big-endian
//! machines and those of version 7.3, which are HDF5, are told from these and not read.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use flate2::read::ZlibDecoder;

use super::place::{MAX_RATIO, invalid};

const HEADER: usize = 128;
/// Types of elements.
const INT8: u32 = 1;
const UINT8: u32 = 2;
const INT32: u32 = 5;
const UINT32: u32 = 6;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;
/// The classes of arrays that hold numbers: double, single and eight kinds of integer.
const NUMERIC: std::ops::RangeInclusive<u8> = 6..=15;
/// In the flags: the array has an imaginary part.
const COMPLEX: u8 = 0x08;
/// Longest name that is read; MATLAB's own limit is 63.
const MAX_NAME: u32 = 1024;
/// Most dimensions that are read.
const MAX_DIMENSIONS: u32 = 32;

/// One array of a file: what its header says, and its values, which are not read yet.
pub(super) struct Array<'a> {
    pub name: String,
    pub dimensions: Vec<usize>,
    /// Whether the values are bytes.
    pub is_bytes: bool,
    /// Bytes of all values, checked against what the file can hold.
    pub length: u64,
    values: &'a mut dyn Read,
}

impl Array<'_> {
    /// The next values, byte for byte.
    pub(super) fn read(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.values.read_exact(bytes)
    }
}

/// Calls `visit` with each numeric array of a file of `size` bytes, in file order; what it leaves of the values is passed over.
pub(super) fn for_each_array(
    file: impl Read + Seek,
    size: u64,
    mut visit: impl FnMut(&mut Array<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = BufReader::with_capacity(1 << 17, file);
    check_header(&mut file)?;
    let mut at = HEADER as u64;
    while at < size {
        let Tag { kind, length, small } = Tag::read(&mut file)?;
        if small.is_some() {
            return Err(invalid(format!("no array begins at byte {at}")));
        }
        let next = at + 8 + u64::from(length);
        if next > size {
            return Err(invalid(format!(
                "the element at byte {at} is said to end at {next}, the file ends at {size}: it is cut off or damaged"
            )));
        }
        let element = (&mut file).take(u64::from(length));
        match kind {
            COMPRESSED => {
                // No more than deflate can make of it, whatever is said inside.
                let most = u64::from(length) * MAX_RATIO;
                let mut inside = ZlibDecoder::new(element).take(most);
                let Tag { kind, length, .. } = Tag::read(&mut inside)?;
                if kind == MATRIX {
                    matrix(&mut inside, u64::from(length).min(most), &mut visit)?;
                    // To the end: the checksum stands there.
                    io::copy(&mut inside.by_ref().take(64), &mut io::sink())?;
                }
            }
            MATRIX => matrix(&mut { element }, u64::from(length), &mut visit)?,
            _ => {}
        }
        file.seek(SeekFrom::Start(next))?;
        at = next;
    }
    Ok(())
}

fn check_header(file: &mut impl Read) -> io::Result<()> {
    let mut header = [0; HEADER];
    file.read_exact(&mut header)?;
    match (&header[126..], &header[..19]) {
        (_, b"MATLAB 7.3 MAT-file") => Err(invalid("a MAT-file of version 7.3; save it with the option -v7")),
        (b"MI", _) => Err(invalid("a MAT-file from a big-endian machine")),
        (b"IM", _) if header[124..126] == [0, 1] => Ok(()),
        _ => Err(invalid("this is no MAT-file of level 5")),
    }
}

/// What stands before an element.
struct Tag {
    kind: u32,
    length: u32,
    /// The values of a small element.
    small: Option<[u8; 4]>,
}

impl Tag {
    fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        let [a, b, c, d, values @ ..] = bytes;
        let first = u32::from_le_bytes([a, b, c, d]);
        if first >> 16 == 0 {
            return Ok(Tag { kind: first, length: u32::from_le_bytes(values), small: None });
        }
        let length = first >> 16;
        if length > 4 {
            return Err(invalid(format!("a small element of {length} bytes")));
        }
        Ok(Tag { kind: first & 0xffff, length, small: Some(values) })
    }

    /// The values of an element of at most `most` bytes, which stands at a multiple of 8.
    fn values(self, from: &mut impl Read, most: u32) -> io::Result<Vec<u8>> {
        if self.length > most {
            return Err(invalid(format!("a header of {} bytes, at most {most} were expected", self.length)));
        }
        let length = self.length as usize;
        if let Some(small) = self.small {
            return Ok(small[..length].to_vec());
        }
        let mut values = vec![0; length.next_multiple_of(8)];
        from.read_exact(&mut values)?;
        values.truncate(length);
        Ok(values)
    }

    fn expect(self, kind: u32, what: &str) -> io::Result<Self> {
        if self.kind == kind {
            Ok(self)
        } else {
            Err(invalid(format!("element type {} for the {what} of an array", self.kind)))
        }
    }
}

/// A matrix element of which at most `most` bytes can follow.
fn matrix(
    mut from: &mut dyn Read,
    most: u64,
    visit: &mut impl FnMut(&mut Array<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let from = &mut from;
    let flags = Tag::read(from)?.expect(UINT32, "flags")?.values(from, 8)?;
    let [class, bits, ..] = flags[..] else { return Err(invalid("an array without flags")) };
    if !NUMERIC.contains(&class) {
        return Ok(()); // texts, cells, structures
    }
    let dimensions = Tag::read(from)?.expect(INT32, "dimensions")?.values(from, 4 * MAX_DIMENSIONS)?;
    let dimensions: Option<Vec<usize>> = dimensions
        .chunks_exact(4)
        .map(|d| usize::try_from(i32::from_le_bytes([d[0], d[1], d[2], d[3]])).ok())
        .collect();
    let dimensions = dimensions.ok_or_else(|| invalid("an array with a negative dimension"))?;
    let name = Tag::read(from)?.expect(INT8, "name")?.values(from, MAX_NAME)?;
    let name = String::from_utf8_lossy(&name).into_owned();
    if bits & COMPLEX != 0 {
        return Err(invalid(format!("`{name}` is complex")));
    }
    let tag = Tag::read(from)?;
    let length = u64::from(tag.length);
    if length > most {
        return Err(invalid(format!(
            "`{name}` is said to have {length} bytes, {most} at most can follow in this file"
        )));
    }
    let mut small = tag.small.as_ref().map(|bytes| &bytes[..]);
    let values: &mut dyn Read = match &mut small {
        Some(bytes) => bytes,
        None => from,
    };
    visit(&mut Array { name, dimensions, is_bytes: tag.kind == UINT8, length, values })
}
