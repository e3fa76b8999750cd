//! Image files → RGB bytes. Nothing in a file is believed before it is checked against a bound.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};
use libjpeg_turbo_rs::{DecodeLimits, DecodeWarning, Decoder, JpegError, PixelFormat};

use crate::{Error, Result};

/// Bytes beyond which a file is refused.
const MAX_FILE: u64 = 256 << 20;
/// Pixels beyond which an image is refused.
const MAX_PIXELS: u64 = 180_000_000;
/// Bytes that a decoder may ask for: a progressive JPEG image holds coefficients and samples of all pixels.
const MAX_MEMORY: u64 = 12 * MAX_PIXELS;
/// Scans of a progressive JPEG image beyond which it is refused: each of them goes over all pixels.
const MAX_SCANS: usize = 100;

/// A decoded image: three bytes a pixel, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Photo {
    pub width: u32,
    pub height: u32,
    /// `H, W, 3`.
    pub pixels: Vec<u8>,
}

/// Reads a PNG, JPEG, WebP or BMP file by what it holds, not by its name. Grey is widened to RGB and transparency dropped; the
/// orientation that a camera noted is not applied, as the usual recipes do not.
pub(crate) fn decode(path: &Path) -> Result<Photo> {
    Ok(oriented(path)?.0)
}

/// The same, turned upright as the camera noted.
pub(crate) fn upright(path: &Path) -> Result<DynamicImage> {
    let (Photo { width, height, pixels }, orientation) = oriented(path)?;
    let mut image: DynamicImage = RgbImage::from_raw(width, height, pixels).expect("three bytes a pixel").into();
    image.apply_orientation(orientation);
    Ok(image)
}

fn oriented(path: &Path) -> Result<(Photo, Orientation)> {
    let bytes = read(path)?;
    let photo = match image::guess_format(&bytes) {
        Ok(ImageFormat::Jpeg) => jpeg(&bytes),
        Ok(ImageFormat::Png | ImageFormat::WebP | ImageFormat::Bmp) => any(&bytes),
        _ => Err("this is no PNG, JPEG, WebP or BMP image".into()),
    };
    photo.map_err(|problem| broken(path, problem))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    // Asked first: opening a pipe would wait for a writer.
    let metadata = std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
    if !metadata.is_file() {
        return Err(broken(path, "this is no regular file".into()));
    }
    if metadata.len() > MAX_FILE {
        return Err(broken(path, format!("{} bytes, at most {MAX_FILE} are read", metadata.len())));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
    Ok(bytes)
}

/// A JPEG image, byte for byte as libjpeg-turbo decodes it, by which Pillow and so torchvision read: an imported network sees
/// what it has learnt from. The four inks of a printer are left to [`any`].
fn jpeg(bytes: &[u8]) -> Result<(Photo, Orientation), String> {
    let damaged = |e: JpegError| format!("the image cannot be decoded: {e}");
    if !has_end(bytes) {
        return Err("the JPEG image is cut off".into());
    }
    let (max_pixels, max_memory, max_scans) = (MAX_PIXELS, Some(MAX_MEMORY), MAX_SCANS);
    let limits = DecodeLimits { max_pixels, max_memory, max_scans, ..DecodeLimits::default() };
    let mut decoder = Decoder::new_with_limits(bytes, limits).map_err(damaged)?;
    let header = decoder.header();
    check_pixels(header.width.into(), header.height.into())?;
    if header.precision != 8 {
        return Err(format!("{} bits a sample, 8 are decoded", header.precision));
    }
    if header.components.len() == 4 {
        return any(bytes);
    }
    decoder.set_output_format(PixelFormat::Rgb);
    // As libjpeg: wrong bits spoil some pixels, not the image. What is missing is an error.
    decoder.set_lenient(true);
    decoder.set_block_smoothing(true);
    let image = decoder.decode_image().map_err(damaged)?;
    let missing = |w: &&DecodeWarning| {
        matches!(w, DecodeWarning::TruncatedData { .. } | DecodeWarning::UnsupportedRecovered { .. })
    };
    if let Some(warning) = image.warnings.iter().find(missing) {
        return Err(format!("the image cannot be decoded: {warning}"));
    }
    let orientation = decoder.exif_orientation().and_then(Orientation::from_exif);
    let photo = Photo { width: image.width as u32, height: image.height as u32, pixels: image.data };
    Ok((photo, orientation.unwrap_or(Orientation::NoTransforms)))
}

/// An image of any format.
fn any(bytes: &[u8]) -> Result<(Photo, Orientation), String> {
    let damaged = |e: image::ImageError| format!("the image cannot be decoded: {e}");
    let mut reader = ImageReader::new(Cursor::new(bytes));
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_MEMORY);
    reader.limits(limits);
    let mut decoder = reader.with_guessed_format().map_err(|e| e.to_string())?.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    check_pixels(width, height)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let pixels = DynamicImage::from_decoder(decoder).map_err(damaged)?.into_rgb8().into_raw();
    Ok((Photo { width, height, pixels }, orientation))
}

fn check_pixels(width: u32, height: u32) -> Result<(), String> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > MAX_PIXELS {
        return Err(format!("{width} x {height} pixels, from 1 to {MAX_PIXELS} are decoded"));
    }
    Ok(())
}

/// Whether the end marker (FF D9) comes, from marker to marker: a progressive image that is cut off between two scans can be
/// decoded, but lacks detail. Something else may follow, as a film behind a phone's photo.
fn has_end(jpeg: &[u8]) -> bool {
    let mut at = 2; // behind the start
    loop {
        at += match jpeg.get(at..at + 2) {
            None => return false,
            Some([0xff, 0xd9]) => return true,
            // Data of a scan: FF is followed by 00 or the mark of a restart there.
            Some([0xff, 0x00 | 0x01 | 0xd0..=0xd8]) => 2,
            Some([0xff, 0xff]) => 1,
            Some([0xff, _]) => match jpeg.get(at + 2..at + 4) {
                Some(&[high, low]) => 2 + usize::from(u16::from_be_bytes([high, low])),
                _ => return false,
            },
            Some(_) => 1,
        };
    }
}

fn broken(path: &Path, problem: String) -> Error {
    let remedy = "replace or remove the file, or pass such files over with `--set data.skip-broken=true`".into();
    Error::Broken { path: path.to_owned(), record: None, problem, remedy }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use image::{GrayImage, Luma, Rgb, RgbImage, Rgba, RgbaImage};

    use super::*;

    fn pattern(x: u32, y: u32) -> [u8; 3] {
        [(16 * x) as u8, (20 * y) as u8, (9 * (x + y)) as u8]
    }

    #[test]
    fn every_format_is_read_by_its_contents() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("photo"); // the name says nothing
        let image = RgbImage::from_fn(15, 12, |x, y| Rgb(pattern(x, y)));
        for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp] {
            image.save_with_format(&file, format).unwrap();
            let photo = decode(&file).unwrap();
            assert_eq!((photo.width, photo.height, &photo.pixels), (15, 12, image.as_raw()), "{format:?}");
        }
        RgbImage::from_pixel(15, 12, Rgb([200, 100, 50])).save_with_format(&file, ImageFormat::Jpeg).unwrap();
        let photo = decode(&file).unwrap();
        assert_eq!(photo.pixels.len(), 15 * 12 * 3);
        for (value, expected) in photo.pixels.iter().zip([200u8, 100, 50].iter().cycle()) {
            assert!(value.abs_diff(*expected) < 6, "{value} for {expected}"); // JPEG loses a little
        }
    }

    #[test]
    fn grey_is_widened_and_transparency_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.png");
        GrayImage::from_fn(4, 3, |x, y| Luma([(10 * x + y) as u8])).save(&file).unwrap();
        assert_eq!(decode(&file).unwrap().pixels[..9], [0, 0, 0, 10, 10, 10, 20, 20, 20]);
        RgbaImage::from_fn(4, 3, |x, y| {
            let [r, g, b] = pattern(x, y);
            Rgba([r, g, b, (x * 60) as u8])
        })
        .save(&file)
        .unwrap();
        assert_eq!(decode(&file).unwrap().pixels[..6], [pattern(0, 0), pattern(1, 0)].concat());
    }

    #[test]
    fn a_damaged_file_is_named_and_never_a_panic() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.jpg");
        let image = RgbImage::from_fn(64, 48, |x, y| Rgb(pattern(x, y)));
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Bmp] {
            image.save_with_format(&file, format).unwrap();
            let whole = fs::read(&file).unwrap();
            for length in [0, 1, 2, 10, whole.len() / 4, whole.len() / 2, whole.len() * 9 / 10] {
                fs::write(&file, &whole[..length]).unwrap();
                let error = decode(&file).map(|_| ()).unwrap_err();
                assert_eq!(error.kind(), crate::ErrorKind::Data, "{format:?} cut at {length}");
                let text = error.to_string();
                assert!(text.contains("a.jpg") && text.contains("skip-broken"), "{text}");
            }
            for at in (0..whole.len()).step_by(whole.len() / 60) {
                let mut damaged = whole.clone();
                damaged[at] ^= 0xa5;
                fs::write(&file, damaged).unwrap();
                let _ = decode(&file); // a damaged pixel may pass, a panic may not
            }
        }
        // Of a JPEG image its last two bytes tell, whatever follows them.
        image.save_with_format(&file, ImageFormat::Jpeg).unwrap();
        let whole = fs::read(&file).unwrap();
        let film = [0xff, 0xda, 0, 0xff, 0xd9, 0, 0xff, 0xda];
        fs::write(&file, [&whole[..], &film].concat()).unwrap();
        assert_eq!(decode(&file).unwrap().width, 64);
        fs::write(&file, &whole[..whole.len() - 2]).unwrap();
        assert!(decode(&file).map(|_| ()).unwrap_err().to_string().contains("cut off"));
        fs::write(&file, "<html>not found</html>").unwrap();
        assert!(decode(&file).unwrap_err().to_string().contains("no PNG, JPEG, WebP or BMP"));
        assert!(decode(dir.path()).unwrap_err().to_string().contains("no regular file"));
        assert_eq!(decode(&dir.path().join("absent.png")).unwrap_err().kind(), crate::ErrorKind::Io);
    }

    #[test]
    fn a_header_that_promises_too_much_is_refused_before_memory_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.bmp");
        RgbImage::new(4, 4).save(&file).unwrap();
        let mut bytes = fs::read(&file).unwrap();
        bytes[18..22].copy_from_slice(&60_000i32.to_le_bytes()); // width
        bytes[22..26].copy_from_slice(&60_000i32.to_le_bytes()); // height
        fs::write(&file, bytes).unwrap();
        let text = decode(&file).unwrap_err().to_string();
        assert!(text.contains("60000 x 60000 pixels") || text.contains("cannot be decoded"), "{text}");
        // A JPEG image, in whose frame the bits of a sample come first, then height and width.
        RgbImage::new(16, 16).save_with_format(&file, ImageFormat::Jpeg).unwrap();
        let whole = fs::read(&file).unwrap();
        let frame = whole.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap() + 4;
        for (at, bytes, expected) in
            [(1, [0xea, 0x60, 0xea, 0x60].as_slice(), "60000"), (0, &[12], "12 bits a sample, 8 are decoded")]
        {
            let mut bent = whole.clone();
            bent[frame + at..][..bytes.len()].copy_from_slice(bytes);
            fs::write(&file, bent).unwrap();
            let text = decode(&file).unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn wrong_bits_spoil_pixels_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.jpg");
        RgbImage::from_fn(64, 48, |x, y| Rgb(pattern(x, y))).save(&file).unwrap();
        let whole = fs::read(&file).unwrap();
        let scan = whole.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap() + 14;
        let sound = decode(&file).unwrap();
        let spoilt = (scan..whole.len() - 2).filter(|&at| ![whole[at - 1], whole[at], whole[at + 1]].contains(&0xff));
        let decoded = spoilt.filter(|&at| {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            fs::write(&file, damaged).unwrap();
            decode(&file).is_ok_and(|photo| photo.pixels != sound.pixels)
        });
        assert!(decoded.count() > 20);
    }
}
