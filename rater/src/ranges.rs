//! What has left the duplicates table: ranges of positions, each with a filter or without.
//!
//! Together they cover every position below `S`, without a gap. With a folder, each filter is a
//! file in it, named by partition, positions and `C`.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use domain::{
    chain::{GENESIS, Hash, Offer, Place},
    wire::{
        rated::{OuterError, Sections},
        row::RowHead,
    },
};

use crate::filter::{Filter, Name};

/// A range that has left the table.
#[derive(Clone, Debug)]
pub struct Range {
    /// Where it is.
    pub name: Name,
    /// Its filter; events that meet a range without one are forwarded.
    pub filter: Option<Filter>,
}

/// The ranges of a partition in the order of their positions.
#[derive(Clone, Debug, Default)]
pub struct Ranges(Vec<Range>);

impl Ranges {
    /// Positions of the ranges in which the identity may have taken effect, both ends inclusive.
    #[must_use]
    pub fn reported(&self, identity: u128) -> Vec<(i64, i64)> {
        self.0
            .iter()
            .filter(|range| range.filter.as_ref().is_none_or(|filter| filter.reports(identity)))
            .map(|range| (range.name.from, range.name.to))
            .collect()
    }

    /// Appends what has just left the table.
    pub fn push(&mut self, range: Range) {
        let follows = self.0.last().is_none_or(|last| range.name.from == last.name.to + 1);
        assert!(follows, "no range is missing below the table");
        self.0.push(range);
    }

    /// Puts the ranges of an earlier owner before those that have left since.
    pub fn put_before(&mut self, mut earlier: Vec<Range>) {
        earlier.append(&mut self.0);
        self.0 = earlier;
    }

    /// All of them, in order.
    #[must_use]
    pub fn all(&self) -> &[Range] {
        &self.0
    }

    /// The newest range that has no filter.
    #[must_use]
    pub fn missing(&self) -> Option<Name> {
        self.0.iter().rev().find(|range| range.filter.is_none()).map(|range| range.name)
    }

    /// Replaces a range that had no filter by its parts, which cover it.
    pub fn replace(&mut self, missing: &Name, parts: Vec<Range>) {
        if let Some(place) = self.0.iter().position(|range| range.name == *missing) {
            self.0.splice(place..=place, parts);
        }
    }

    /// How many there are, and how many of them have no filter.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        (self.0.len(), self.0.iter().filter(|range| range.filter.is_none()).count())
    }
}

/// The ranges below `table_from`, from filters that were kept, each with what it was kept as; one
/// without a filter below the oldest that is linked to the chain. Answers the useless ones too.
#[must_use]
pub fn linked<T>(
    partition: u32,
    mut found: Vec<(T, Name, Filter)>,
    table_from: i64,
    c: Hash,
) -> (Vec<Range>, Vec<T>) {
    found.sort_by_key(|(_, name, _)| (name.to, name.from));
    let (mut next, mut wanted) = (table_from, c);
    let (mut ranges, mut useless) = (Vec::new(), Vec::new());
    while let Some((kept, name, filter)) = found.pop() {
        if name.to.checked_add(1) == Some(next) && name.c == wanted && name.from < next {
            (next, wanted) = (name.from, name.prev);
            ranges.push(Range { name, filter: Some(filter) });
        } else {
            useless.push(kept);
        }
    }
    if next > 0 {
        let name = Name { partition, from: 0, to: next - 1, prev: GENESIS, c: wanted };
        ranges.push(Range { name, filter: None });
    }
    ranges.reverse();
    (ranges, useless)
}

/// A range without a filter, made again in parts from the accepted batches of `[rated]`.
#[derive(Debug)]
pub struct Parts {
    missing: Name,
    place: Place,
    /// Identities that end a part.
    identities_max: usize,
    /// The part that was finished last.
    last: Name,
    identities: Vec<u128>,
    parts: Vec<Range>,
}

impl Parts {
    /// Begins at a place at or before the range.
    #[must_use]
    pub fn new(missing: Name, place: Place, identities_max: usize) -> Parts {
        let last = Name { to: missing.from - 1, c: missing.prev, ..missing };
        let (identities, parts) = (Vec::new(), Vec::new());
        Parts { missing, place, identities_max, last, identities, parts }
    }

    /// Whether everything in the range was read.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.place.x >= self.missing.to
    }

    /// Reads the message at `position` of `[rated]`; `seal` builds the filter of a finished part.
    pub fn offer(
        &mut self,
        position: i64,
        message: &[u8],
        mut seal: impl FnMut(&Name, Vec<u128>) -> Option<Filter>,
    ) -> Result<(), OuterError> {
        let Offer::Accepted(outer, place) =
            self.place.offer(self.missing.partition, position, message)?
        else {
            return Ok(());
        };
        self.place = place;
        if outer.to < self.missing.from {
            return Ok(());
        }
        let rows = Sections::split(message)?.rows()?;
        self.identities.extend(rows.heads().filter(RowHead::took_id).map(|head| head.identity));
        if self.identities.len() >= self.identities_max || self.is_complete() {
            let (from, prev) = (self.last.to + 1, self.last.c);
            self.last = Name { from, to: place.x, prev, c: place.c, ..self.missing };
            let filter = seal(&self.last, std::mem::take(&mut self.identities));
            self.parts.push(Range { name: self.last, filter });
        }
        Ok(())
    }

    /// The parts, in order; `None` if no accepted batch ends where the range does.
    #[must_use]
    pub fn finish(self) -> Option<Vec<Range>> {
        let same = self.last.to == self.missing.to && self.last.c == self.missing.c;
        same.then_some(self.parts)
    }
}

/// The folder of filters, if there is one.
#[derive(Clone, Debug)]
pub struct Folder(Option<PathBuf>);

impl Folder {
    /// An empty path means that filters are kept in memory only.
    #[must_use]
    pub fn new(path: &str) -> Folder {
        Folder(Some(path).filter(|path| !path.is_empty()).map(PathBuf::from))
    }

    /// Writes a filter's file, whole or not at all.
    pub fn write(&self, name: &Name, filter: &Filter) -> io::Result<()> {
        let Some(folder) = &self.0 else { return Ok(()) };
        fs::create_dir_all(folder)?;
        let path = folder.join(file_name(name));
        let temporary = path.with_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(&filter.encode(name))?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(folder)?.sync_all()
    }

    /// The ranges below `table_from`, as [`Folder::read`] finds them; without a filter where the
    /// folder cannot be read.
    #[must_use]
    pub fn ranges(&self, partition: u32, table_from: i64, c: Hash) -> Vec<Range> {
        self.read(partition, table_from, c).unwrap_or_else(|error| {
            tracing::warn!(partition, %error, "the folder of filters cannot be read");
            Folder(None).read(partition, table_from, c).unwrap_or_default()
        })
    }

    /// The ranges below `table_from`, from files where they are there. `c` is the hash of the
    /// accepted batch that ends right before it: the newest file must end in that very batch, and
    /// each older one in the batch before the next. A file that does not is not of this chain, or
    /// useless without those between; it is deleted.
    pub fn read(&self, partition: u32, table_from: i64, c: Hash) -> io::Result<Vec<Range>> {
        let (ranges, useless) = linked(partition, self.files(partition)?, table_from, c);
        for path in useless {
            tracing::info!(path = %path.display(), "a filter is not of the accepted chain; it is deleted");
            fs::remove_file(&path)?;
        }
        Ok(ranges)
    }

    /// The partition's files; one that cannot be read, or says another place than its name, is deleted.
    fn files(&self, partition: u32) -> io::Result<Vec<(PathBuf, Name, Filter)>> {
        let Some(folder) = &self.0 else { return Ok(Vec::new()) };
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let prefix = format!("{partition}-");
        let mut files = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if !named(&path, &prefix) {
                continue;
            }
            match Filter::decode(&fs::read(&path)?) {
                Ok((name, filter)) if path.ends_with(file_name(&name)) => {
                    files.push((path, name, filter));
                }
                _ => {
                    tracing::warn!(path = %path.display(), "a filter cannot be read; it is deleted");
                    fs::remove_file(&path)?;
                }
            }
        }
        Ok(files)
    }
}

fn named(path: &Path, prefix: &str) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
}

/// `partition-from-to-C.filter`, with the first eight bytes of `C`.
fn file_name(name: &Name) -> String {
    let c: String = name.c.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{c}.filter", name.partition, name.from, name.to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(from: i64, to: i64, prev: u8, c: u8) -> Name {
        let prev = if from == 0 { GENESIS } else { [prev; 32] };
        Name { partition: 1, from, to, prev, c: [c; 32] }
    }

    fn places(ranges: &[Range]) -> Vec<(i64, i64, bool)> {
        ranges
            .iter()
            .map(|range| (range.name.from, range.name.to, range.filter.is_some()))
            .collect()
    }

    #[test]
    fn only_files_of_the_accepted_chain_are_believed() {
        let path = std::env::temp_dir().join(format!("weir-filters-{}", uuid::Uuid::now_v7()));
        let folder = Folder::new(path.to_str().unwrap());
        assert_eq!(places(&folder.read(1, 0, GENESIS).unwrap()), []);
        assert_eq!(places(&folder.read(1, 30, [9; 32]).unwrap()), [(0, 29, false)]);
        let filter = Filter::build([1, 2, 3]).unwrap();
        let files = [name(0, 9, 0, 1), name(10, 19, 1, 2), name(20, 29, 2, 3)];
        for name in &files {
            folder.write(name, &filter).unwrap();
        }
        // Newer than the table's start, of another chain, of another partition, and damaged.
        folder.write(&name(30, 39, 3, 4), &filter).unwrap();
        folder.write(&name(20, 29, 2, 5), &filter).unwrap();
        folder.write(&Name { partition: 2, ..files[0] }, &filter).unwrap();
        fs::write(path.join("1-5-6-00.filter"), b"damaged").unwrap();
        let elsewhere = path.join("1-20-29-00112233445566ff.filter");
        fs::copy(path.join(file_name(&files[2])), &elsewhere).unwrap();
        let ranges = folder.read(1, 30, [3; 32]).unwrap();
        assert_eq!(places(&ranges), [(0, 9, true), (10, 19, true), (20, 29, true)]);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 4);
        // Without the one between, the older one cannot be linked to the chain.
        fs::remove_file(path.join(file_name(&files[1]))).unwrap();
        let ranges = folder.read(1, 30, [3; 32]).unwrap();
        assert_eq!(places(&ranges), [(0, 19, false), (20, 29, true)]);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 2);

        let mut all = Ranges::default();
        all.put_before(ranges);
        assert_eq!(all.missing(), Some(Name { to: 19, c: [2; 32], ..files[0] }));
        let known = 3;
        assert_eq!(all.reported(known), [(0, 19), (20, 29)]);
        let parts =
            files[..2].iter().map(|name| Range { name: *name, filter: Some(filter.clone()) });
        all.replace(&all.missing().unwrap(), parts.collect());
        assert_eq!((all.missing(), all.count()), (None, (3, 0)));
        let unknown = (4..).find(|other| !filter.reports(*other)).unwrap();
        assert_eq!(all.reported(unknown), []);
        fs::remove_dir_all(&path).unwrap();
    }
}
