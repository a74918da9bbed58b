//! The rows of a CSV file, which may be compressed.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use anyhow::{Context as _, Result};
use domain::event::BODY_BYTES_MAX;

/// A file opened for reading: its columns and its rows.
pub struct Rows {
    /// The name without folder and without the ending of a compression: part of every event's id,
    /// so that a compressed copy gives the same events.
    pub name: String,
    /// The names of the columns.
    pub columns: Vec<String>,
    reader: csv::Reader<Bounded>,
}

/// Ends a row that is longer than any event could be: some bytes of a compressed file may stand for
/// gigabytes without a line end.
struct Bounded {
    input: Box<dyn Read>,
    /// Of the row that is read.
    left: usize,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        let left = self.left.checked_sub(read);
        self.left = left.ok_or_else(|| {
            io::Error::other(format!("a row is longer than {BODY_BYTES_MAX} bytes"))
        })?;
        Ok(read)
    }
}

impl Rows {
    /// Opens `path`, whose columns end with `delimiter`; `.gz` and `.zst` are decompressed on the way.
    pub fn open(path: &Path, delimiter: u8) -> Result<Self> {
        let context = || format!("cannot read {}", path.display());
        let file = BufReader::new(File::open(path).with_context(context)?);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (name, input): (String, Box<dyn Read>) = match name.rsplit_once('.') {
            Some((stem, "gz")) => {
                (stem.to_owned(), Box::new(flate2::read::MultiGzDecoder::new(file)))
            }
            Some((stem, "zst")) => {
                (stem.to_owned(), Box::new(zstd::Decoder::with_buffer(file).with_context(context)?))
            }
            _ => (name, Box::new(file)),
        };
        let input = Bounded { input, left: BODY_BYTES_MAX };
        let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(input);
        let headers = reader.headers().with_context(context)?;
        let columns = headers
            .iter()
            .map(|name| name.trim_start_matches('\u{feff}').trim().to_owned())
            .collect();
        Ok(Self { name, columns, reader })
    }

    /// Reads the next row into `row`; false at the end.
    pub fn read(&mut self, row: &mut csv::StringRecord) -> Result<bool> {
        self.reader.get_mut().left = BODY_BYTES_MAX;
        self.reader.read_record(row).with_context(|| format!("{} is damaged", self.name))
    }

    /// How many rows a file has.
    pub fn count(path: &Path, delimiter: u8) -> Result<u64> {
        let mut rows = Self::open(path, delimiter)?;
        let (mut row, mut count) = (csv::StringRecord::new(), 0);
        while rows.read(&mut row)? {
            count += 1;
        }
        Ok(count)
    }
}
