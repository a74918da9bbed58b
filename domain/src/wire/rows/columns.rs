//! Rows that were read.

use super::{ColumnsWriter, RowOutput as _, Rows, numbers, parts_of, word_width};
use crate::wire::{
    codec::{DecodeError, Input, Output as _},
    columns::{Kind, Table, Value},
    row::{Corrected, RowHead},
};

/// A part of [`Columns`]: from and to.
type Place = (usize, usize);

/// Rows of one table, as columns. What they hold was checked when they were read.
#[derive(Clone, Debug)]
pub struct Columns {
    table: &'static Table,
    count: usize,
    /// Values of each list column, over all rows.
    values: usize,
    plain: Vec<u8>,
    /// Lengths of lists, where the table has any.
    lists: Place,
    columns: Vec<ColumnPlaces>,
}

/// Where a column's parts are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ColumnPlaces {
    heads: Place,
    values: Place,
    more: Place,
    /// How many different words there are.
    words: usize,
}

/// What a column holds, part by part.
#[derive(Clone, Copy, Debug)]
pub enum ColumnData<'a> {
    /// Values of fixed length one after the other, or length-prefixed texts.
    Plain(&'a [u8]),
    /// Length-prefixed words and how many there are; the number of each value's, in
    /// [`word_width`] bytes.
    Words(&'a [u8], usize, &'a [u8]),
    /// A byte per value, 1 for NULL; the values, of NULL any.
    Nullable(&'a [u8], &'a [u8]),
    /// How many pairs each map has, a varint each; length-prefixed keys; length-prefixed values.
    Maps(&'a [u8], &'a [u8], &'a [u8]),
}

impl Columns {
    /// No rows.
    #[must_use]
    pub fn empty(table: &'static Table) -> Columns {
        Columns {
            table,
            count: 0,
            values: 0,
            plain: Vec::new(),
            lists: (0, 0),
            columns: vec![ColumnPlaces::default(); table.columns.len()],
        }
    }

    /// Reads a section.
    pub(in crate::wire) fn decode(
        table: &'static Table,
        section: &[u8],
    ) -> Result<Columns, DecodeError> {
        let mut input = Input::new(section);
        let count = usize::try_from(input.varint()?).map_err(|_| DecodeError::Field("rows"))?;
        if count == 0 {
            let empty = Columns::empty(table);
            return if input.is_empty() { Ok(empty) } else { Err(DecodeError::Field("rows")) };
        }
        let parts: usize = table.columns.iter().map(|column| parts_of(column.kind)).sum();
        let (mut lengths, mut size) = (Vec::new(), 0_usize);
        for _ in 0..parts.saturating_add(usize::from(table.has_lists())) {
            let length = usize::try_from(input.varint()?).map_err(|_| DecodeError::Truncated)?;
            lengths.push(length);
            size = size.checked_add(length).ok_or(DecodeError::Field("rows"))?;
        }
        // LZ4 gains at most a factor of about 255.
        if size > section.len().saturating_mul(256) {
            return Err(DecodeError::Field("rows"));
        }
        let plain = lz4_flex::block::decompress(input.rest(), size)
            .map_err(|_| DecodeError::Field("rows"))?;
        Columns::of_parts(table, count, &lengths, plain)
    }

    /// Rows whose parts have these lengths.
    pub(super) fn of_parts(
        table: &'static Table,
        count: usize,
        lengths: &[usize],
        plain: Vec<u8>,
    ) -> Result<Columns, DecodeError> {
        let (mut end, mut lengths) = (0_usize, lengths.iter());
        let mut part = |wanted: bool| {
            let from = end;
            end += if wanted { lengths.next().copied().unwrap_or(0) } else { 0 };
            (from, end)
        };
        let lists = part(table.has_lists());
        let mut columns = Vec::with_capacity(table.columns.len());
        for column in table.columns {
            let parts = parts_of(column.kind);
            let (heads, values, more) = (part(parts > 1), part(true), part(parts > 2));
            columns.push(ColumnPlaces { heads, values, more, words: 0 });
        }
        if plain.len() != end {
            return Err(DecodeError::Field("rows"));
        }
        let mut read = Columns { table, count, values: 0, plain, lists, columns };
        read.check()?;
        Ok(read)
    }

    /// Rows that are RowBinary, as columns.
    pub fn of_rows(table: &'static Table, rows: &[u8]) -> Result<Columns, DecodeError> {
        let mut writer = ColumnsWriter::new(table);
        writer.push_rows(rows)?;
        writer.columns()
    }

    /// Every part must hold as many values as the rows have.
    fn check(&mut self) -> Result<(), DecodeError> {
        let table = self.table;
        let wrong = |holds: bool| if holds { Ok(()) } else { Err(DecodeError::Field("rows")) };
        if table.has_lists() {
            let mut lists = Input::new(self.at(self.lists));
            let mut values = 0_u64;
            for _ in 0..self.count {
                values = values.saturating_add(lists.varint()?);
            }
            wrong(lists.is_empty())?;
            self.values = usize::try_from(values).map_err(|_| DecodeError::Field("rows"))?;
        }
        let mut words = Vec::with_capacity(self.columns.len());
        for (column, places) in table.columns.iter().zip(&self.columns) {
            let count = if matches!(column.kind, Kind::One(_)) { self.count } else { self.values };
            let (heads, values) = (self.at(places.heads), self.at(places.values));
            let whole = |length: usize| {
                wrong(length.checked_mul(count).is_some_and(|bytes| bytes == values.len()))
            };
            let mut different = 0;
            match column.kind {
                Kind::One(Value::Fixed(length)) | Kind::Many(Value::Fixed(length)) => {
                    whole(length)?
                }
                Kind::One(Value::Text) | Kind::Many(Value::Text) => texts(values, count)?,
                Kind::One(Value::Nullable(length)) | Kind::Many(Value::Nullable(length)) => {
                    wrong(heads.len() == count && heads.iter().all(|null| *null < 2))?;
                    whole(length)?;
                }
                Kind::One(Value::Word) | Kind::Many(Value::Word) => {
                    different = count_texts(heads)?;
                    let width = word_width(different);
                    whole(width)?;
                    wrong(numbers(values, width).all(|number| number < different))?;
                }
                Kind::Maps => {
                    let (mut maps, mut pairs) = (Input::new(heads), 0_usize);
                    for _ in 0..count {
                        let more = usize::try_from(maps.varint()?).unwrap_or(usize::MAX);
                        pairs = pairs.saturating_add(more);
                    }
                    wrong(maps.is_empty())?;
                    texts(values, pairs)?;
                    texts(self.at(places.more), pairs)?;
                }
            }
            words.push(different);
        }
        for (places, words) in self.columns.iter_mut().zip(words) {
            places.words = words;
        }
        Ok(())
    }

    fn at(&self, (from, to): Place) -> &[u8] {
        self.plain.get(from..to).unwrap_or_default()
    }

    /// Rows.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of all parts.
    #[must_use]
    pub fn size(&self) -> usize {
        self.plain.len()
    }

    /// How long the lists of each row are.
    pub fn lists(&self) -> impl Iterator<Item = u64> {
        Input::new(self.at(self.lists)).varints()
    }

    /// What a column of the table holds.
    #[must_use]
    pub fn column(&self, place: usize) -> ColumnData<'_> {
        let places = self.columns.get(place).copied().unwrap_or_default();
        let (heads, values) = (self.at(places.heads), self.at(places.values));
        match self.table.columns.get(place).map_or(Kind::Maps, |column| column.kind) {
            Kind::Maps => ColumnData::Maps(heads, values, self.at(places.more)),
            Kind::One(value) | Kind::Many(value) => match value {
                Value::Fixed(_) | Value::Text => ColumnData::Plain(values),
                Value::Word => ColumnData::Words(heads, places.words, values),
                Value::Nullable(_) => ColumnData::Nullable(heads, values),
            },
        }
    }

    /// The columns that both tables of events begin with, of each row.
    pub fn heads(&self) -> impl Iterator<Item = RowHead> {
        let column = |place: usize| {
            let places = self.columns.get(place).copied().unwrap_or_default();
            Input::new(self.at(places.values))
        };
        let (mut positions, mut indexes) = (column(0), column(1));
        let (mut identities, mut contents) = (column(2), column(3));
        std::iter::from_fn(move || {
            Some(RowHead {
                position: positions.i64().ok()?,
                index: indexes.u32().ok()?,
                identity: identities.u128().ok()?,
                content: contents.u64().ok()?,
            })
        })
    }

    /// Of rows of `usage_events` that correct an event: which.
    pub fn corrections(&self) -> impl Iterator<Item = (RowHead, Corrected)> {
        let column = |name: &str| {
            let place = self.table.columns.iter().position(|column| column.name == name);
            let places = place.and_then(|place| self.columns.get(place)).copied();
            Input::new(self.at(places.unwrap_or_default().values))
        };
        let (mut positions, mut indexes) = (column("origin_position"), column("origin_index"));
        let (mut runs, mut checked) = (column("rating_run"), column("checked_to"));
        let all = self.heads().map_while(move |head| {
            let corrected = Corrected {
                position: positions.i64().ok()?,
                index: indexes.u32().ok()?,
                run: runs.u32().ok()?,
                checked_to: checked.i64().ok()?,
            };
            Some((head, corrected))
        });
        all.filter(|(_, corrected)| corrected.run > 0)
    }

    /// The rows as RowBinary.
    #[must_use]
    pub fn rows(&self) -> Rows {
        let mut cursors: Vec<Cursor<'_>> = self
            .table
            .columns
            .iter()
            .enumerate()
            .map(|(place, column)| Cursor::new(column.kind, self.column(place)))
            .collect();
        let (mut rows, mut lists) = (Rows::default(), self.lists());
        for _ in 0..self.count {
            let before = rows.bytes.len();
            let list = lists.next().and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
            for cursor in &mut cursors {
                cursor.next(list, &mut rows.bytes);
            }
            rows.lengths.push(rows.bytes.len().saturating_sub(before));
        }
        rows
    }
}

/// Whether these are so many texts behind their lengths.
fn texts(bytes: &[u8], count: usize) -> Result<(), DecodeError> {
    if count_texts(bytes)? == count { Ok(()) } else { Err(DecodeError::Field("rows")) }
}

fn count_texts(bytes: &[u8]) -> Result<usize, DecodeError> {
    let (mut input, mut count) = (Input::new(bytes), 0);
    while !input.is_empty() {
        input.bytes()?;
        count += 1;
    }
    Ok(count)
}

/// Takes a column apart, value by value.
struct Cursor<'a> {
    kind: Kind,
    heads: Input<'a>,
    values: Input<'a>,
    more: Input<'a>,
    words: Vec<&'a [u8]>,
    width: usize,
}

impl<'a> Cursor<'a> {
    fn new(kind: Kind, data: ColumnData<'a>) -> Cursor<'a> {
        let (mut words, mut width) = (Vec::new(), 1);
        let (heads, values, more): (&[u8], &[u8], &[u8]) = match data {
            ColumnData::Plain(values) => (&[], values, &[]),
            ColumnData::Nullable(heads, values) => (heads, values, &[]),
            ColumnData::Maps(heads, values, more) => (heads, values, more),
            ColumnData::Words(texts, count, values) => {
                let mut input = Input::new(texts);
                words.extend(std::iter::from_fn(|| input.bytes().ok()));
                width = word_width(count);
                (&[], values, &[])
            }
        };
        let [heads, values, more] = [heads, values, more].map(Input::new);
        Cursor { kind, heads, values, more, words, width }
    }

    fn next(&mut self, list: usize, out: &mut Vec<u8>) {
        match self.kind {
            Kind::One(value) => self.one(value, out),
            Kind::Many(value) => {
                out.list(list);
                (0..list).for_each(|_| self.one(value, out));
            }
            Kind::Maps => {
                out.list(list);
                for _ in 0..list {
                    let pairs = self.heads.varint().unwrap_or(0);
                    out.varint(pairs);
                    for _ in 0..pairs {
                        out.bytes(self.values.bytes().unwrap_or_default());
                        out.bytes(self.more.bytes().unwrap_or_default());
                    }
                }
            }
        }
    }

    fn one(&mut self, value: Value, out: &mut Vec<u8>) {
        match value {
            Value::Fixed(length) => out.raw(self.values.take(length).unwrap_or_default()),
            Value::Text => out.bytes(self.values.bytes().unwrap_or_default()),
            Value::Word => {
                let number = self.values.take(self.width).unwrap_or_default();
                let number = numbers(number, self.width).next().unwrap_or(usize::MAX);
                out.bytes(self.words.get(number).copied().unwrap_or_default());
            }
            Value::Nullable(length) => {
                let value = self.values.take(length).unwrap_or_default();
                let null = self.heads.u8().is_ok_and(|null| null != 0);
                out.nullable((!null).then_some(value));
            }
        }
    }
}
