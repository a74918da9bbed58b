//! Reads the archive's rows as ClickHouse would: RowBinary, column by column.

use domain::wire::{
    codec::{DecodeError, Input},
    row::RowHead,
    rows::Columns,
};
use uuid::Uuid;

/// A line of an event, as the archive has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivedLine {
    /// The meter.
    pub meter: String,
    /// The quantity, in units of the last decimal.
    pub quantity: i128,
    /// 1 priced, 3 unpriced, 4 observed.
    pub status: u8,
    /// Card, version, currency and amount of the charge.
    pub charge: (String, u32, String, Option<i128>),
    /// The same of the cost.
    pub cost: (String, u32, String, Option<i128>),
    /// The running total before it, in units of the last decimal.
    pub total_before: i128,
}

/// A row of `usage_events`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRow {
    /// Place, identity, content.
    pub head: RowHead,
    /// Partition.
    pub partition: u32,
    /// The tenant.
    pub tenant: Uuid,
    /// The type of the event.
    pub event_type: String,
    /// The team.
    pub team: String,
    /// Event time.
    pub time_us: i64,
    /// Append time of the block.
    pub append_time_us: i64,
    /// 1 rated, 2 unmetered, 3 unpriced.
    pub outcome: u8,
    /// The catalog version that rated it.
    pub catalog_version: u64,
    /// Its lines.
    pub lines: Vec<ArchivedLine>,
    /// Of a copy where it came from, of a correction what it corrects: position and index.
    pub origin: (i64, u32),
    /// Which correction it is; 0 for an event.
    pub run: u32,
    /// −1 where it takes something back.
    pub sign: i8,
    /// The text of the event.
    pub raw: String,
}

/// A row of `rejected_events`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherRow {
    /// Place, identity, content.
    pub head: RowHead,
    /// Partition.
    pub partition: u32,
    /// The tenant.
    pub tenant: Uuid,
    /// Append time of the block.
    pub append_time_us: i64,
    /// 1 duplicate, 2 conflict, 3 rejected, 4 a correction that was not carried out.
    pub outcome: u8,
    /// Why.
    pub reason: String,
    /// Position and index of its twin.
    pub twin: (i64, u32),
    /// The catalog version in force.
    pub catalog_version: u64,
}

/// A row of `archived`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArchivedRow {
    /// Partition.
    pub partition: u32,
    /// First position.
    pub from_x: i64,
    /// Last position.
    pub to_x: i64,
    /// Where the last batch stands in `[rated]`.
    pub r: i64,
    /// Its hash.
    pub c: [u8; 32],
    /// Rows of `usage_events`.
    pub rows: u64,
    /// Rows of `rejected_events`.
    pub others: u64,
}

type Result<T> = std::result::Result<T, DecodeError>;

fn uuid(input: &mut Input<'_>) -> Result<Uuid> {
    let (high, low) = (input.u64()?, input.u64()?);
    Ok(Uuid::from_u64_pair(high, low))
}

fn text(input: &mut Input<'_>) -> Result<String> {
    input.text().map(str::to_owned)
}

fn decimal(input: &mut Input<'_>) -> Result<i128> {
    input.u128().map(u128::cast_signed)
}

fn nullable<T>(
    input: &mut Input<'_>,
    read: impl FnOnce(&mut Input<'_>) -> Result<T>,
) -> Result<Option<T>> {
    match input.u8()? {
        0 => read(input).map(Some),
        _ => Ok(None),
    }
}

fn column<T>(input: &mut Input<'_>, read: impl Fn(&mut Input<'_>) -> Result<T>) -> Result<Vec<T>> {
    (0..input.varint()?).map(|_| read(input)).collect()
}

fn head(input: &mut Input<'_>) -> Result<RowHead> {
    Ok(RowHead {
        position: input.i64()?,
        index: input.u32()?,
        identity: input.u128()?,
        content: input.u64()?,
    })
}

/// Partition, tenant and the nine names from `event_id` to `feature`.
fn names(input: &mut Input<'_>) -> Result<(u32, Uuid, Vec<String>)> {
    let (partition, tenant) = (input.u32()?, uuid(input)?);
    let names = (0..9).map(|_| text(input)).collect::<Result<_>>()?;
    Ok((partition, tenant, names))
}

/// Behind verdict and `checked_to` the origin's position and index.
fn origin(input: &mut Input<'_>) -> Result<(i64, u32)> {
    let _ = (input.u8()?, input.i64()?, input.u32()?);
    Ok((input.i64()?, input.u32()?))
}

/// Card, its version, currency and amount of each line.
type Money = (Vec<String>, Vec<u32>, Vec<String>, Vec<Option<i128>>);

fn money(input: &mut Input<'_>) -> Result<Money> {
    Ok((
        column(input, text)?,
        column(input, |input| input.u32())?,
        column(input, text)?,
        column(input, |input| nullable(input, decimal))?,
    ))
}

fn lines(input: &mut Input<'_>) -> Result<Vec<ArchivedLine>> {
    let meters = column(input, text)?;
    column(input, text)?;
    let quantities = column(input, decimal)?;
    let statuses = column(input, |input| input.u8())?;
    let (charge, cost) = (money(input)?, money(input)?);
    column(input, |input| column(input, |input| Ok((text(input)?, text(input)?))))?;
    let totals = column(input, decimal)?;
    let of = |money: &Money, at: usize| {
        (money.0[at].clone(), money.1[at], money.2[at].clone(), money.3[at])
    };
    let line = |(at, meter): (usize, String)| ArchivedLine {
        meter,
        quantity: quantities[at],
        status: statuses[at],
        charge: of(&charge, at),
        cost: of(&cost, at),
        total_before: totals[at],
    };
    Ok(meters.into_iter().enumerate().map(line).collect())
}

/// Reads the next row of `usage_events`.
pub fn usage_row(input: &mut Input<'_>) -> Result<UsageRow> {
    let head = head(input)?;
    let (partition, tenant, names) = names(input)?;
    let time_us = input.i64()?;
    input.u8()?;
    let append_time_us = input.i64()?;
    let outcome = input.u8()?;
    nullable(input, uuid)?;
    input.u8()?;
    let catalog_version = input.u64()?;
    input.u32()?;
    let origin = origin(input)?;
    nullable(input, decimal)?;
    let _quote = (text(input)?, input.u64()?, input.i64()?);
    let lines = lines(input)?;
    let raw = text(input)?;
    let _hash = input.u128()?;
    let (sign, run) = (input.u8()?.cast_signed(), input.u32()?);
    let (event_type, team) = (names[2].clone(), names[4].clone());
    Ok(UsageRow {
        head,
        partition,
        tenant,
        event_type,
        team,
        time_us,
        append_time_us,
        outcome,
        catalog_version,
        lines,
        origin,
        run,
        sign,
        raw,
    })
}

/// Reads the next row of `rejected_events`.
pub fn other_row(input: &mut Input<'_>) -> Result<OtherRow> {
    let head = head(input)?;
    let (partition, tenant, _) = names(input)?;
    nullable(input, |input| input.i64())?;
    let append_time_us = input.i64()?;
    let outcome = input.u8()?;
    let reason = text(input)?;
    text(input)?;
    let twin = (input.i64()?, input.u32()?);
    let _door = (text(input)?, input.u32()?, input.i64()?, input.u32()?);
    nullable(input, uuid)?;
    let catalog_version = input.u64()?;
    origin(input)?;
    input.bytes()?;
    Ok(OtherRow { head, partition, tenant, append_time_us, outcome, reason, twin, catalog_version })
}

/// Reads the next row of `archived`.
pub fn archived_row(input: &mut Input<'_>) -> Result<ArchivedRow> {
    Ok(ArchivedRow {
        partition: input.u32()?,
        from_x: input.i64()?,
        to_x: input.i64()?,
        r: input.i64()?,
        c: input.hash()?,
        rows: input.u64()?,
        others: input.u64()?,
    })
}

/// Rows as ClickHouse would read them one by one.
pub fn row_binary(rows: &[Columns]) -> Vec<u8> {
    rows.iter().flat_map(|piece| piece.rows().bytes).collect()
}

/// All rows of an insert.
pub fn all<T>(bytes: &[u8], read: impl Fn(&mut Input<'_>) -> Result<T>) -> Vec<T> {
    let mut input = Input::new(bytes);
    let mut rows = Vec::new();
    while !input.is_empty() {
        rows.push(read(&mut input).unwrap());
    }
    rows
}
