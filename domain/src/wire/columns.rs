//! The archive's tables as they are written: columns in the order of a row, and how each is encoded.

/// A table of the archive.
#[derive(Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// What is written, in the order of a row. Other columns have defaults.
    pub columns: &'static [Column],
}

impl Table {
    /// Whether a row has lists; all lists of a row are equally long.
    #[must_use]
    pub fn has_lists(&self) -> bool {
        self.columns.iter().any(|column| !matches!(column.kind, Kind::One(_)))
    }

    /// The names of the columns, for a statement.
    #[must_use]
    pub fn names(&self) -> String {
        let quoted = |column: &Column| match column.name {
            "index" => "`index`".to_owned(),
            name => name.to_owned(),
        };
        self.columns.iter().map(quoted).collect::<Vec<_>>().join(", ")
    }
}

/// A column.
#[derive(Debug)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// ClickHouse's type.
    pub data_type: &'static str,
    /// How it is encoded in RowBinary.
    pub kind: Kind,
}

/// What a row has of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A value.
    One(Value),
    /// A list of values.
    Many(Value),
    /// A list of maps of text to text, each a list of keys and values.
    Maps,
}

/// How a value is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// So many bytes.
    Fixed(usize),
    /// Length-prefixed bytes.
    Text,
    /// The same; few different ones are expected, and ClickHouse keeps each once.
    Word,
    /// A byte, 1 for NULL, else 0 and so many bytes.
    Nullable(usize),
}

const fn column(name: &'static str, data_type: &'static str, kind: Kind) -> Column {
    Column { name, data_type, kind }
}

const fn fixed(name: &'static str, data_type: &'static str, bytes: usize) -> Column {
    column(name, data_type, Kind::One(Value::Fixed(bytes)))
}

const fn text(name: &'static str) -> Column {
    column(name, "String", Kind::One(Value::Text))
}

const fn word(name: &'static str) -> Column {
    column(name, "LowCardinality(String)", Kind::One(Value::Word))
}

const fn words(name: &'static str) -> Column {
    column(name, "Array(LowCardinality(String))", Kind::Many(Value::Word))
}

const fn time(name: &'static str) -> Column {
    fixed(name, "DateTime64(6, 'UTC')", 8)
}

const fn hold() -> Column {
    column("hold", "Nullable(UUID)", Kind::One(Value::Nullable(16)))
}

const fn verdict() -> Column {
    let kinds = "Enum8('none' = 0, 'new' = 1, 'duplicate' = 2, 'conflict' = 3)";
    fixed("verdict", kinds, 1)
}

const fn amounts(name: &'static str) -> Column {
    column(name, "Array(Nullable(Decimal(38, 12)))", Kind::Many(Value::Nullable(16)))
}

const fn quantities(name: &'static str) -> Column {
    column(name, "Array(Decimal(38, 12))", Kind::Many(Value::Fixed(16)))
}

const fn versions(name: &'static str) -> Column {
    column(name, "Array(UInt32)", Kind::Many(Value::Fixed(4)))
}

/// `usage_events`: events that took their id.
pub static USAGE_EVENTS: Table = Table {
    name: "usage_events",
    columns: &[
        fixed("position", "Int64", 8),
        fixed("index", "UInt32", 4),
        fixed("identity", "UInt128", 16),
        fixed("content_hash", "UInt64", 8),
        fixed("partition", "UInt32", 4),
        fixed("tenant_id", "UUID", 16),
        text("event_id"),
        word("source"),
        word("type"),
        text("subject"),
        text("team"),
        text("user"),
        word("app"),
        word("key"),
        word("feature"),
        time("time"),
        fixed("has_client_time", "Bool", 1),
        time("append_time"),
        fixed("outcome", "Enum8('rated' = 1, 'unmetered' = 2, 'unpriced' = 3)", 1),
        hold(),
        fixed("hold_end", "Bool", 1),
        fixed("catalog_version", "UInt64", 8),
        fixed("rules_version", "UInt32", 4),
        verdict(),
        fixed("checked_to", "Int64", 8),
        fixed("origin_partition", "UInt32", 4),
        fixed("origin_position", "Int64", 8),
        fixed("origin_index", "UInt32", 4),
        column("quote_charge", "Nullable(Decimal(38, 12))", Kind::One(Value::Nullable(16))),
        word("quote_currency"),
        fixed("quote_catalog_version", "UInt64", 8),
        time("quote_not_after"),
        words("lines.meter"),
        words("lines.unit"),
        quantities("lines.quantity"),
        column(
            "lines.status",
            "Array(Enum8('priced' = 1, 'unlimited' = 2, 'unpriced' = 3, 'observed' = 4))",
            Kind::Many(Value::Fixed(1)),
        ),
        words("lines.card"),
        versions("lines.card_version"),
        words("lines.currency"),
        amounts("lines.charge"),
        words("lines.cost_card"),
        versions("lines.cost_card_version"),
        words("lines.cost_currency"),
        amounts("lines.cost"),
        column("lines.dimensions", "Array(Map(String, String))", Kind::Maps),
        quantities("lines.total_before"),
        text("raw"),
        fixed("raw_hash", "UInt128", 16),
        fixed("sign", "Int8", 1),
        fixed("rating_run", "UInt32", 4),
    ],
};

/// `rejected_events`: events that did not take their id.
pub static REJECTED_EVENTS: Table = Table {
    name: "rejected_events",
    columns: &[
        fixed("position", "Int64", 8),
        fixed("index", "UInt32", 4),
        fixed("identity", "UInt128", 16),
        fixed("content_hash", "UInt64", 8),
        fixed("partition", "UInt32", 4),
        fixed("tenant_id", "UUID", 16),
        text("event_id"),
        word("source"),
        word("type"),
        text("subject"),
        text("team"),
        text("user"),
        word("app"),
        word("key"),
        word("feature"),
        column("time", "Nullable(DateTime64(6, 'UTC'))", Kind::One(Value::Nullable(8))),
        time("append_time"),
        fixed(
            "outcome",
            "Enum8('duplicate' = 1, 'conflict' = 2, 'rejected' = 3, 'uncorrected' = 4)",
            1,
        ),
        word("reason"),
        text("detail"),
        fixed("twin_position", "Int64", 8),
        fixed("twin_index", "UInt32", 4),
        word("door"),
        fixed("door_partition", "UInt32", 4),
        fixed("door_offset", "Int64", 8),
        fixed("door_index", "UInt32", 4),
        hold(),
        fixed("catalog_version", "UInt64", 8),
        verdict(),
        fixed("checked_to", "Int64", 8),
        fixed("origin_partition", "UInt32", 4),
        fixed("origin_position", "Int64", 8),
        fixed("origin_index", "UInt32", 4),
        text("raw"),
    ],
};

/// `archived`: how far the archive is.
pub static ARCHIVED: Table = Table {
    name: "archived",
    columns: &[
        fixed("partition", "UInt32", 4),
        fixed("from_x", "Int64", 8),
        fixed("to_x", "Int64", 8),
        fixed("r", "Int64", 8),
        fixed("c", "FixedString(32)", 32),
        fixed("rows", "UInt64", 8),
        fixed("others", "UInt64", 8),
    ],
};
