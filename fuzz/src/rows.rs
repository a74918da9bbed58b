//! Rows of a CSV file that `weir replay` turns into events.

use ingest::scan::Scanner;

use crate::mapping::Mapping;

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
