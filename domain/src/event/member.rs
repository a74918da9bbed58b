//! The members of an event's top level, under all the names that clients have for them.

/// What a member of the top level is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member {
    /// Of the envelope.
    Field(Field),
    /// `data`
    Data,
    /// Another one.
    Rest,
}

/// The members of the envelope, each under all its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `id`
    Id,
    /// `type`
    Type,
    /// `subject`
    Subject,
    /// `source`
    Source,
    /// `time`
    Time,
    /// `user`
    User,
    /// `feature`
    Feature,
    /// `customer_id` of OM0's bodies
    Customer,
    /// `holdid`
    Hold,
    /// `holdend`
    HoldEnd,
    /// `specversion`
    SpecVersion,
    /// `data_base64`
    DataBase64,
}

/// What the member of this name is.
#[must_use]
pub fn member(name: &[u8]) -> Member {
    Member::Field(match name {
        b"id" | b"event_id" | b"idempotencyKey" => Field::Id,
        b"type" | b"event_type" | b"eventType" => Field::Type,
        b"subject" | b"teamId" => Field::Subject,
        b"source" => Field::Source,
        b"time" | b"timestamp" => Field::Time,
        b"user" | b"user_id" | b"userId" => Field::User,
        b"feature" | b"feature_id" => Field::Feature,
        b"customer_id" => Field::Customer,
        b"holdid" => Field::Hold,
        b"holdend" => Field::HoldEnd,
        b"specversion" => Field::SpecVersion,
        b"data_base64" => Field::DataBase64,
        b"data" | b"payload" => return Member::Data,
        _ => return Member::Rest,
    })
}
