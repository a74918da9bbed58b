//! Rows of the archive's tables, kept as columns from the rater to ClickHouse.
//!
//! A row is written value by value into a [`RowOutput`]: into a [`ColumnsWriter`] by the rater, or
//! as RowBinary into a `Vec<u8>` where one row is compared with what ClickHouse has. [`Columns`] are
//! what was written, read from a message; `docs/FORMATS.md`, "Rows".

use std::{collections::HashMap, hash::BuildHasherDefault};

use super::{
    codec::{DecodeError, Input, Output, TextHasher, compress},
    columns::{Column, Kind, REJECTED_EVENTS, Table, USAGE_EVENTS, Value},
    row::RowHead,
};

/// Takes the values of a row in the order of its table's columns.
pub trait RowOutput {
    /// A value of fixed length.
    fn fixed(&mut self, bytes: &[u8]);

    /// A text or a word.
    fn text(&mut self, text: impl AsRef<[u8]>);

    /// A word, of which it is known that it is the same one wherever it has this name in this column; 0
    /// is no name.
    fn word(&mut self, _name: u64, word: impl AsRef<[u8]>) {
        self.text(word);
    }

    /// A value of fixed length, or NULL.
    fn nullable(&mut self, bytes: Option<&[u8]>);

    /// So many values, or maps, of one column follow.
    fn list(&mut self, count: usize);

    /// So many pairs of one map follow.
    fn map(&mut self, count: usize);

    /// A key and its value.
    fn pair(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>);
}

/// RowBinary.
impl RowOutput for Vec<u8> {
    fn fixed(&mut self, bytes: &[u8]) {
        self.raw(bytes);
    }

    fn text(&mut self, text: impl AsRef<[u8]>) {
        self.bytes(text.as_ref());
    }

    fn nullable(&mut self, bytes: Option<&[u8]>) {
        self.push(u8::from(bytes.is_none()));
        self.raw(bytes.unwrap_or_default());
    }

    fn list(&mut self, count: usize) {
        self.length(count);
    }

    fn map(&mut self, count: usize) {
        self.length(count);
    }

    fn pair(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.bytes(key.as_ref());
        self.bytes(value.as_ref());
    }
}

/// The values of one column so far, as they are written.
#[derive(Clone, Debug)]
struct Values {
    /// How many bytes a NULL takes.
    null_length: usize,
    is_words: bool,
    /// Whether each is NULL, or how many pairs each map has.
    heads: Vec<u8>,
    /// The values; of maps the keys.
    values: Vec<u8>,
    /// The values of maps.
    more: Vec<u8>,
    words: Words,
}

impl Values {
    fn new(column: &Column) -> Values {
        let value = match column.kind {
            Kind::One(value) | Kind::Many(value) => Some(value),
            Kind::Maps => None,
        };
        Values {
            null_length: if let Some(Value::Nullable(length)) = value { length } else { 0 },
            is_words: value == Some(Value::Word),
            heads: Vec::new(),
            values: Vec::new(),
            more: Vec::new(),
            words: Words::default(),
        }
    }
}

/// The different words of a column, and the number of each value's.
#[derive(Clone, Debug, Default)]
struct Words {
    numbers: HashMap<Box<[u8]>, u32, BuildHasherDefault<TextHasher>>,
    /// Where each begins and ends in `texts`.
    places: Vec<(usize, usize)>,
    texts: Vec<u8>,
    values: Vec<u32>,
    /// Names of words that came lately, and their numbers.
    named: [(u64, u32); NAMED],
}

/// Names that are remembered, each at the place of its last bits.
const NAMED: usize = 4;
/// Words that are looked for one by one, before the hash: most columns have very few.
const NEAR: usize = 4;

impl Words {
    #[inline]
    fn push_named(&mut self, name: u64, word: &[u8]) {
        let place = usize::try_from(name).unwrap_or(0) % NAMED;
        match self.named.get(place) {
            Some((known, number)) if *known == name && name != 0 => self.values.push(*number),
            _ => {
                let number = self.push(word);
                if let Some(named) = self.named.get_mut(place) {
                    *named = (name, number);
                }
            }
        }
    }

    fn push(&mut self, word: &[u8]) -> u32 {
        let near =
            self.places.iter().take(NEAR).position(|(from, to)| {
                self.texts.get(*from..*to).is_some_and(|known| known == word)
            });
        let number = match near {
            Some(place) => u32::try_from(place).unwrap_or(u32::MAX),
            None => self.number(word),
        };
        self.values.push(number);
        number
    }

    fn number(&mut self, word: &[u8]) -> u32 {
        if let Some(number) = self.numbers.get(word) {
            return *number;
        }
        let number = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
        self.texts.length(word.len());
        let from = self.texts.len();
        self.texts.raw(word);
        self.places.push((from, self.texts.len()));
        self.numbers.insert(word.into(), number);
        number
    }

    fn clear(&mut self) {
        self.numbers.clear();
        self.places.clear();
        self.texts.clear();
        self.values.clear();
        self.named = Default::default();
    }
}

/// Bytes of a number of one among so many words.
#[must_use]
pub fn word_width(words: usize) -> usize {
    match words {
        0..=0x100 => 1,
        0x101..=0x1_0000 => 2,
        _ => 4,
    }
}

/// Appends the numbers of words, each in so many bytes.
pub fn put_numbers(out: &mut Vec<u8>, numbers: impl Iterator<Item = u32>, width: usize) {
    match width {
        1 => out.extend(numbers.map(|number| number.to_le_bytes()[0])),
        2 => numbers.for_each(|number| {
            let [low, high, ..] = number.to_le_bytes();
            out.extend_from_slice(&[low, high]);
        }),
        _ => numbers.for_each(|number| out.extend_from_slice(&number.to_le_bytes())),
    }
}

/// Rows of one table in the making; keeps its memory when it is cleared.
#[derive(Clone, Debug)]
pub struct ColumnsWriter {
    table: &'static Table,
    count: usize,
    /// How long the lists of each row are, a varint each; all lists of a row are equally long.
    lists: Vec<u8>,
    columns: Vec<Values>,
    /// The column that is written next, the values that its list still gets, and the pairs that the
    /// map still gets.
    at: usize,
    values_left: usize,
    pairs_left: usize,
    listed: Option<usize>,
}

impl ColumnsWriter {
    /// Without rows.
    #[must_use]
    pub fn new(table: &'static Table) -> ColumnsWriter {
        ColumnsWriter {
            table,
            count: 0,
            lists: Vec::new(),
            columns: table.columns.iter().map(Values::new).collect(),
            at: 0,
            values_left: 0,
            pairs_left: 0,
            listed: None,
        }
    }

    /// Of `usage_events`, without rows.
    #[must_use]
    pub fn usage_events() -> ColumnsWriter {
        ColumnsWriter::new(&USAGE_EVENTS)
    }

    /// Of `rejected_events`, without rows.
    #[must_use]
    pub fn rejected_events() -> ColumnsWriter {
        ColumnsWriter::new(&REJECTED_EVENTS)
    }

    /// Appends one row, all of whose values `write` gives.
    pub fn push(&mut self, write: impl FnOnce(&mut ColumnsWriter)) {
        write(self);
        assert!(
            self.at == self.columns.len() && self.values_left == 0 && self.pairs_left == 0,
            "a row of {} has all its values: it ends in column {}",
            self.table.name,
            self.at
        );
        self.at = 0;
        self.listed = None;
        self.count += 1;
    }

    /// Appends rows that are RowBinary.
    pub fn push_rows(&mut self, rows: &[u8]) -> Result<(), DecodeError> {
        let mut input = Input::new(rows);
        while !input.is_empty() {
            self.push_row(&mut input)?;
        }
        Ok(())
    }

    fn push_row(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        for column in self.table.columns {
            match column.kind {
                Kind::One(value) => self.copy(value, input)?,
                Kind::Many(value) => {
                    let count = input.count(1)?;
                    self.begin_list(count)?;
                    (0..count).try_for_each(|_| self.copy(value, input))?;
                }
                Kind::Maps => {
                    let maps = input.count(1)?;
                    self.begin_list(maps)?;
                    for _ in 0..maps {
                        let pairs = input.count(2)?;
                        self.map(pairs);
                        for _ in 0..pairs {
                            self.pair(input.bytes()?, input.bytes()?);
                        }
                    }
                }
            }
        }
        self.push(|_| {});
        Ok(())
    }

    fn begin_list(&mut self, count: usize) -> Result<(), DecodeError> {
        if self.listed.is_some_and(|other| other != count) {
            return Err(DecodeError::Field("lists"));
        }
        self.list(count);
        Ok(())
    }

    fn copy(&mut self, value: Value, input: &mut Input<'_>) -> Result<(), DecodeError> {
        match value {
            Value::Fixed(length) => self.fixed(input.take(length)?),
            Value::Text | Value::Word => self.text(input.bytes()?),
            Value::Nullable(length) => match input.u8()? {
                0 => self.nullable(Some(input.take(length)?)),
                _ => self.nullable(None),
            },
        }
        Ok(())
    }

    /// Rows so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes so far, before compression.
    #[must_use]
    pub fn size(&self) -> usize {
        let of = |values: &Values| {
            let words = values.words.texts.len() + values.words.values.len() * 4;
            values.heads.len() + values.values.len() + values.more.len() + words
        };
        self.lists.len() + self.columns.iter().map(of).sum::<usize>()
    }

    /// Forgets all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.count = 0;
        (self.at, self.values_left, self.pairs_left, self.listed) = (0, 0, 0, None);
        self.lists.clear();
        for column in &mut self.columns {
            for bytes in [&mut column.heads, &mut column.values, &mut column.more] {
                bytes.clear();
            }
            column.words.clear();
        }
    }

    #[inline]
    fn value_done(&mut self) {
        if self.values_left > 1 {
            self.values_left -= 1;
        } else {
            (self.values_left, self.at) = (0, self.at + 1);
        }
    }

    /// Writes the section: the count, the length of each part, and all parts compressed together.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.length(self.count);
        if self.count == 0 {
            return;
        }
        let mut plain = Vec::with_capacity(self.size());
        let mut part = |plain: &mut Vec<u8>, write: &mut dyn FnMut(&mut Vec<u8>)| {
            let before = plain.len();
            write(plain);
            out.length(plain.len().saturating_sub(before));
        };
        if self.table.has_lists() {
            part(&mut plain, &mut |plain| plain.raw(&self.lists));
        }
        for (column, values) in self.table.columns.iter().zip(&self.columns) {
            let parts = parts_of(column);
            if parts.words {
                part(&mut plain, &mut |plain| plain.raw(&values.words.texts));
                let width = word_width(values.words.places.len());
                part(&mut plain, &mut |plain| {
                    put_numbers(plain, values.words.values.iter().copied(), width);
                });
                continue;
            }
            if parts.heads {
                part(&mut plain, &mut |plain| plain.raw(&values.heads));
            }
            part(&mut plain, &mut |plain| plain.raw(&values.values));
            if parts.more {
                part(&mut plain, &mut |plain| plain.raw(&values.more));
            }
        }
        compress(&plain, out);
    }

    /// The rows as they would be read.
    pub fn columns(&self) -> Result<Columns, DecodeError> {
        let mut section = Vec::new();
        self.encode(&mut section);
        Columns::decode(self.table, &section)
    }
}

impl RowOutput for ColumnsWriter {
    #[inline]
    fn fixed(&mut self, bytes: &[u8]) {
        if let Some(column) = self.columns.get_mut(self.at) {
            column.values.extend_from_slice(bytes);
        }
        self.value_done();
    }

    #[inline]
    fn text(&mut self, text: impl AsRef<[u8]>) {
        if let Some(column) = self.columns.get_mut(self.at) {
            if column.is_words {
                let _ = column.words.push(text.as_ref());
            } else {
                column.values.bytes(text.as_ref());
            }
        }
        self.value_done();
    }

    #[inline]
    fn word(&mut self, name: u64, word: impl AsRef<[u8]>) {
        match self.columns.get_mut(self.at) {
            Some(column) if column.is_words => column.words.push_named(name, word.as_ref()),
            _ => return self.text(word),
        }
        self.value_done();
    }

    #[inline]
    fn nullable(&mut self, bytes: Option<&[u8]>) {
        if let Some(column) = self.columns.get_mut(self.at) {
            column.heads.push(u8::from(bytes.is_none()));
            match bytes {
                Some(bytes) => column.values.extend_from_slice(bytes),
                None => column.values.resize(column.values.len() + column.null_length, 0),
            }
        }
        self.value_done();
    }

    #[inline]
    fn list(&mut self, count: usize) {
        if self.listed.is_none() {
            self.lists.length(count);
            self.listed = Some(count);
        }
        self.values_left = count;
        self.at += usize::from(count == 0);
    }

    #[inline]
    fn map(&mut self, count: usize) {
        if let Some(column) = self.columns.get_mut(self.at) {
            column.heads.length(count);
        }
        self.pairs_left = count;
        if count == 0 {
            self.value_done();
        }
    }

    #[inline]
    fn pair(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        if let Some(column) = self.columns.get_mut(self.at) {
            column.values.bytes(key.as_ref());
            column.more.bytes(value.as_ref());
        }
        self.pairs_left = self.pairs_left.saturating_sub(1);
        if self.pairs_left == 0 {
            self.value_done();
        }
    }
}

/// Which parts a column has beside its values.
struct PartsOf {
    heads: bool,
    more: bool,
    words: bool,
}

fn parts_of(column: &Column) -> PartsOf {
    let (Kind::One(value) | Kind::Many(value)) = column.kind else {
        return PartsOf { heads: true, more: true, words: false };
    };
    PartsOf { heads: matches!(value, Value::Nullable(_)), more: false, words: value == Value::Word }
}

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
    pub(super) fn decode(table: &'static Table, section: &[u8]) -> Result<Columns, DecodeError> {
        let mut input = Input::new(section);
        let count = usize::try_from(input.varint()?).map_err(|_| DecodeError::Field("rows"))?;
        if count == 0 {
            let empty = Columns::empty(table);
            return if input.is_empty() { Ok(empty) } else { Err(DecodeError::Field("rows")) };
        }
        let mut end = 0_usize;
        let mut part = |wanted: bool| -> Result<Place, DecodeError> {
            if !wanted {
                return Ok((end, end));
            }
            let length = usize::try_from(input.varint()?).map_err(|_| DecodeError::Truncated)?;
            let from = end;
            end = end.checked_add(length).ok_or(DecodeError::Field("rows"))?;
            Ok((from, end))
        };
        let lists = part(table.has_lists())?;
        let mut columns = Vec::with_capacity(table.columns.len());
        for column in table.columns {
            let parts = parts_of(column);
            let heads = part(parts.heads || parts.words)?;
            let (values, more) = (part(true)?, part(parts.more)?);
            columns.push(ColumnPlaces { heads, values, more, words: 0 });
        }
        // LZ4 gains at most a factor of about 255.
        if end > section.len().saturating_mul(256) {
            return Err(DecodeError::Field("rows"));
        }
        let plain = lz4_flex::block::decompress(input.rest(), end)
            .map_err(|_| DecodeError::Field("rows"))?;
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

    /// The table whose rows they are.
    #[must_use]
    pub fn table(&self) -> &'static Table {
        self.table
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
        let mut input = Input::new(self.at(self.lists));
        std::iter::from_fn(move || input.varint().ok())
    }

    /// What a column of the table holds.
    #[must_use]
    pub fn column(&self, place: usize, column: &Column) -> ColumnData<'_> {
        let places = self.columns.get(place).copied().unwrap_or_default();
        let (heads, values) = (self.at(places.heads), self.at(places.values));
        match column.kind {
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

    /// The rows as RowBinary.
    #[must_use]
    pub fn rows(&self) -> Rows {
        let mut cursors: Vec<Cursor<'_>> = self
            .table
            .columns
            .iter()
            .enumerate()
            .map(|(place, column)| Cursor::new(column.kind, self.column(place, column)))
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

/// The numbers of words.
pub fn numbers(values: &[u8], width: usize) -> impl Iterator<Item = usize> {
    values
        .chunks_exact(width.max(1))
        .map(|bytes| bytes.iter().rev().fold(0, |number, byte| (number << 8) | usize::from(*byte)))
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

/// Rows of one table as RowBinary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Length of each row in bytes.
    pub lengths: Vec<usize>,
    /// The rows, one after the other.
    pub bytes: Vec<u8>,
}

impl Rows {
    /// Reads a section of the versions in which rows stood one after the other.
    pub(super) fn decode(section: &[u8]) -> Result<Rows, DecodeError> {
        let mut input = Input::new(section);
        let count = input.count(1)?;
        let size = usize::try_from(input.varint()?).map_err(|_| DecodeError::Truncated)?;
        // LZ4 gains at most a factor of about 255.
        if size > section.len().saturating_mul(256) {
            return Err(DecodeError::Field("rows"));
        }
        let mut lengths_input = Input::new(input.bytes()?);
        let mut lengths = Vec::with_capacity(count);
        let mut total = 0usize;
        for _ in 0..count {
            let length =
                usize::try_from(lengths_input.varint()?).map_err(|_| DecodeError::Truncated)?;
            total = total.saturating_add(length);
            lengths.push(length);
        }
        if total != size || !lengths_input.is_empty() {
            return Err(DecodeError::Field("rows"));
        }
        if count == 0 {
            return if input.is_empty() {
                Ok(Rows::default())
            } else {
                Err(DecodeError::Field("rows"))
            };
        }
        let bytes = lz4_flex::block::decompress(input.rest(), size)
            .map_err(|_| DecodeError::Field("rows"))?;
        if bytes.len() == size {
            Ok(Rows { lengths, bytes })
        } else {
            Err(DecodeError::Field("rows"))
        }
    }

    /// Each row's bytes.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        self.lengths.iter().map_while(move |length| {
            let (row, after) = rest.split_at_checked(*length)?;
            rest = after;
            Some(row)
        })
    }
}
