//! Columns of a row of `usage_events` in RowBinary, as `docs/FORMATS.md` defines them.

use domain::wire::{
    codec::{DecodeError, Input},
    columns::{Kind, USAGE_EVENTS, Value},
};
use uuid::Uuid;

/// A row, taken apart.
pub struct Row<'a> {
    /// Names and bytes of its columns.
    columns: Vec<(&'static str, &'a [u8])>,
}

impl<'a> Row<'a> {
    /// Takes the next row.
    pub fn take(input: &mut Input<'a>) -> Result<Row<'a>, DecodeError> {
        let mut columns = Vec::with_capacity(USAGE_EVENTS.columns.len());
        for column in USAGE_EVENTS.columns {
            let before = input.rest();
            skip(input, column.kind)?;
            let length = before.len() - input.rest().len();
            columns.push((column.name, before.get(..length).unwrap_or_default()));
        }
        Ok(Row { columns })
    }

    /// The first column in which two rows differ.
    pub fn difference(&self, other: &Row<'_>) -> Option<&'static str> {
        let mut pairs = self.columns.iter().zip(&other.columns);
        pairs.find(|((_, ours), (_, theirs))| ours != theirs).map(|((name, _), _)| *name)
    }

    fn input(&self, name: &str) -> Input<'a> {
        let found = self.columns.iter().find(|(column, _)| *column == name);
        Input::new(found.map_or(&[], |(_, bytes)| bytes))
    }

    /// A text.
    pub fn text(&self, name: &str) -> Result<&'a str, DecodeError> {
        self.input(name).text()
    }

    /// Bytes that may be no text.
    pub fn bytes(&self, name: &str) -> Result<&'a [u8], DecodeError> {
        self.input(name).bytes()
    }

    /// A byte.
    pub fn u8(&self, name: &str) -> Result<u8, DecodeError> {
        self.input(name).u8()
    }

    /// An unsigned number of 4 bytes.
    pub fn u32(&self, name: &str) -> Result<u32, DecodeError> {
        self.input(name).u32()
    }

    /// An unsigned number of 8 bytes.
    pub fn u64(&self, name: &str) -> Result<u64, DecodeError> {
        self.input(name).u64()
    }

    /// A number of 8 bytes.
    pub fn i64(&self, name: &str) -> Result<i64, DecodeError> {
        self.input(name).i64()
    }

    /// The running total before each line, with its meter.
    pub fn totals_before(&self) -> Result<Vec<(&'a str, i128)>, DecodeError> {
        let (mut meters, mut totals) =
            (self.input("lines.meter"), self.input("lines.total_before"));
        let count = meters.count(1)?;
        if totals.count(1)? != count {
            return Err(DecodeError::Field("lines"));
        }
        let number = |bytes: &[u8]| bytes.try_into().map(i128::from_le_bytes);
        (0..count)
            .map(|_| {
                let total = number(totals.take(16)?).map_err(|_| DecodeError::Truncated)?;
                Ok((meters.text()?, total))
            })
            .collect()
    }

    /// Two halves, the high one first.
    pub fn uuid(&self, name: &str) -> Result<Uuid, DecodeError> {
        let mut input = self.input(name);
        Ok(Uuid::from_u64_pair(input.u64()?, input.u64()?))
    }
}

fn skip(input: &mut Input<'_>, kind: Kind) -> Result<(), DecodeError> {
    match kind {
        Kind::One(value) => skip_value(input, value),
        Kind::Many(value) => each(input, |input| skip_value(input, value)),
        Kind::Maps => each(input, |input| {
            each(input, |input| {
                skip_value(input, Value::Text)?;
                skip_value(input, Value::Text)
            })
        }),
    }
}

fn skip_value(input: &mut Input<'_>, value: Value) -> Result<(), DecodeError> {
    match value {
        Value::Fixed(length) => drop(input.take(length)?),
        Value::Text | Value::Word => drop(input.bytes()?),
        Value::Nullable(length) => {
            if input.u8()? == 0 {
                input.take(length)?;
            }
        }
    }
    Ok(())
}

fn each(
    input: &mut Input<'_>,
    mut one: impl FnMut(&mut Input<'_>) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    for _ in 0..input.count(1)? {
        one(input)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_ends_too_early_is_not_read() {
        assert!(Row::take(&mut Input::new(&[0; 100])).is_err());
        assert!(Row::take(&mut Input::new(&[])).is_err());
    }
}
