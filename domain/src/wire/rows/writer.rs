//! Rows in the making.

use super::{Columns, RowOutput, parts_of, put_numbers, word_width};
use crate::wire::{
    codec::{DecodeError, Input, Output, compress},
    columns::{Column, Kind, REJECTED_EVENTS, Table, USAGE_EVENTS, Value},
    interner::Interner,
};

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
            let words = values.words.different.encoded().len() + values.words.values.len() * 4;
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
    pub(in crate::wire) fn encode(&self, out: &mut Vec<u8>) {
        out.length(self.count);
        if self.count > 0 {
            let (lengths, plain) = self.parts();
            lengths.iter().for_each(|length| out.length(*length));
            compress(&plain, out);
        }
    }

    /// The length of each part, and all of them one after the other.
    fn parts(&self) -> (Vec<usize>, Vec<u8>) {
        let (mut lengths, mut plain) = (Vec::new(), Vec::with_capacity(self.size()));
        if self.table.has_lists() {
            plain.raw(&self.lists);
            lengths.push(plain.len());
        }
        for (column, values) in self.table.columns.iter().zip(&self.columns) {
            let parts = parts_of(column.kind);
            let mut ended = plain.len();
            let mut end = |plain: &Vec<u8>| {
                lengths.push(plain.len().saturating_sub(ended));
                ended = plain.len();
            };
            if values.is_words {
                plain.raw(values.words.different.encoded());
                end(&plain);
                let width = word_width(values.words.different.len());
                put_numbers(&mut plain, values.words.values.iter().copied(), width);
                end(&plain);
                continue;
            }
            if parts > 1 {
                plain.raw(&values.heads);
                end(&plain);
            }
            plain.raw(&values.values);
            end(&plain);
            if parts > 2 {
                plain.raw(&values.more);
                end(&plain);
            }
        }
        (lengths, plain)
    }

    /// The rows as they would be read.
    pub fn columns(&self) -> Result<Columns, DecodeError> {
        if self.count == 0 {
            return Ok(Columns::empty(self.table));
        }
        let (lengths, plain) = self.parts();
        Columns::of_parts(self.table, self.count, &lengths, plain)
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
    different: Interner,
    values: Vec<u32>,
    /// Names of words that came lately, and their numbers.
    named: [(u64, u32); NAMED],
}

/// Names that are remembered, each at the place of its last bits.
const NAMED: usize = 4;
/// Words that are looked for one by one, before the hash: most columns have very few.
const NEAR: u32 = 4;

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
        let known = u32::try_from(self.different.len()).unwrap_or(u32::MAX);
        let near = (0..known.min(NEAR)).find(|number| self.different.get(*number) == word);
        let number = near.unwrap_or_else(|| self.different.intern(word));
        self.values.push(number);
        number
    }

    fn clear(&mut self) {
        self.different.clear();
        self.values.clear();
        self.named = Default::default();
    }
}
