//! Rows of a CSV file that `weir replay` turns into events.

use std::{fs, path::PathBuf, sync::LazyLock};

use ingest::scan::Scanner;

use crate::{local_log::memory_folder, mapping::Mapping, memory, replay_rows::Rows};

/// Rows that are read of a file, at most.
const ROWS_MAX: u64 = 100;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| memory_folder("rows"));

/// A file, of which the first byte says how it is compressed and the second ends its columns.
pub fn csv_file(input: &[u8]) {
    let [choice, delimiter, file @ ..] = input else { return };
    let path = FOLDER.join(["file.csv", "file.csv.gz", "file.csv.zst"][usize::from(choice % 3)]);
    fs::write(&path, file).expect("a file can be written");
    let Ok(mut rows) = Rows::open(&path, *delimiter) else { return };
    assert_eq!(rows.name, "file.csv", "a compressed copy gives the same events");
    let (mut row, mut count) = (csv::StringRecord::new(), 0);
    while count < ROWS_MAX {
        match rows.read(&mut row) {
            Ok(true) => {
                assert_eq!(row.len(), rows.columns.len(), "a row has all columns");
                memory::plain(row.as_slice().len());
            }
            Ok(false) => return assert_eq!(Rows::count(&path, *delimiter).ok(), Some(count)),
            Err(_) => return,
        }
        count += 1;
    }
}

/// The first row names the columns; of them the first is a time and the second a number of the data.
pub fn csv_mapping(input: &[u8]) {
    let mut reader =
        csv::ReaderBuilder::new().flexible(input.len().is_multiple_of(2)).from_reader(input);
    let Ok(headers) = reader.headers() else { return };
    let columns: Vec<String> = headers.iter().map(str::to_owned).collect();
    let mut maps = Vec::new();
    for (number, column) in columns.iter().enumerate() {
        maps.push(match number {
            0 => format!("{column}=time"),
            1 => format!("{column}=data.n"),
            _ => format!("{column}={column}"),
        });
    }
    let sets = ["type=t".to_owned(), "data.constant=\"4\"".to_owned()];
    let Ok(mapping) = Mapping::new(&columns, &maps, &sets) else { return };
    for row in reader.records().take(100).map_while(Result::ok) {
        let mut json = String::new();
        let defaults = [("id", "file:1"), ("subject", "team-01")];
        if mapping.event(&row, &defaults, &mut json).is_err() {
            continue;
        }
        let mut scanner = Scanner::new(&json, 0);
        scanner.value(|_| {}).expect("an event is JSON");
        assert_eq!(scanner.peek(), None, "one event");
    }
}
