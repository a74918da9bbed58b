//! The accepted events of one request, packed: no allocation per event.
//!
//! Text that repeats is a number of [`Strings`]; everything else is a place in the body. A batch is
//! shared by the chunks that wait in several partitions and lets go of its memory with the last.

use std::{mem::size_of, sync::Arc};

use bytes::Bytes;
use domain::{
    event::IdentityParts,
    llm_usage,
    wire::{
        block::BlockWriter,
        record::{Attribute, Entry, EventRecord, Refused},
        trace::TraceContext,
    },
};
use hashbrown::HashTable;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    admit::Caller,
    budget::{Full, Held},
};

/// The different texts of a request, by number, without memory of its own for each.
#[derive(Debug, Default)]
pub struct Strings {
    /// Numbers, by the hash of what they stand for.
    numbers: HashTable<u32>,
    /// Where each begins and ends in `texts`.
    places: Vec<(u32, u32)>,
    texts: String,
    /// Whether each text names a member of an LLM usage object; empty while none does.
    usage: Vec<bool>,
}

/// What a text's number, place and share of the table take.
const NUMBER_BYTES: usize = 24;

fn text_of<'a>(places: &[(u32, u32)], texts: &'a str, number: u32) -> Option<&'a str> {
    let place = |place: u32| usize::try_from(place).unwrap_or(usize::MAX);
    let (from, to) = places.get(place(number))?;
    texts.get(place(*from)..place(*to))
}

impl Strings {
    /// The number of a text.
    pub fn intern(&mut self, text: &str) -> u32 {
        let Strings { numbers, places, texts, usage } = self;
        let hash = xxh3_64(text.as_bytes());
        if let Some(number) =
            numbers.find(hash, |number| text_of(places, texts, *number) == Some(text))
        {
            return *number;
        }
        // The budget of one request is far below 4 GiB.
        let place = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
        let number = place(places.len());
        if llm_usage::concerns(text) {
            usage.resize(places.len(), false);
            usage.push(true);
        }
        let from = texts.len();
        texts.push_str(text);
        places.push((place(from), place(texts.len())));
        numbers.insert_unique(hash, number, |number| {
            xxh3_64(text_of(places, texts, *number).unwrap_or_default().as_bytes())
        });
        number
    }

    /// The number of a text that is probably the one of `number`.
    pub fn intern_like(&mut self, number: Option<u32>, text: &str) -> u32 {
        let is_it = |number: &u32| text_of(&self.places, &self.texts, *number) == Some(text);
        match number.filter(is_it) {
            Some(number) => number,
            None => self.intern(text),
        }
    }

    /// The text of a number that [`Strings::intern`] gave.
    #[must_use]
    pub fn get(&self, number: u32) -> &str {
        text_of(&self.places, &self.texts, number).unwrap_or_default()
    }

    /// Whether a text is the pointer of a member of an LLM usage object.
    #[must_use]
    pub fn is_usage(&self, number: u32) -> bool {
        let place = usize::try_from(number).unwrap_or(usize::MAX);
        !self.usage.is_empty() && self.usage.get(place).copied().unwrap_or(false)
    }

    /// Bytes of memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.texts.len() + self.places.len() * NUMBER_BYTES
    }
}

/// One event that may go into a block. Numbers are of the batch's [`Strings`].
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Where its partition is.
    pub partition: u32,
    /// The billing account.
    pub team: u32,
    /// The subject as sent.
    pub subject: u32,
    /// The source as sent, or the app's.
    pub source: u32,
    /// The type.
    pub event_type: u32,
    /// The person.
    pub user: Option<u32>,
    /// The feature.
    pub feature: Option<u32>,
    /// Where the client's id begins in the batch's `ids`.
    pub id_at: usize,
    /// Its length there.
    pub id_length: usize,
    /// Keyed hash of what identifies it.
    pub identity: u128,
    /// Hash of what it says.
    pub content: u64,
    /// The client's time.
    pub time_us: Option<i64>,
    /// The hold it belongs to.
    pub hold: Option<Uuid>,
    /// Whether it says to be the hold's last.
    pub hold_end: bool,
    /// First of its attributes in the batch.
    pub attributes_at: usize,
    /// Number of its attributes.
    pub attributes: usize,
    /// Bytes of its pointers and of its envelope's texts, as if it shared none of them.
    pub string_bytes: usize,
    /// Its first byte in the body.
    pub raw_at: usize,
    /// Its length in the body.
    pub raw_length: usize,
}

impl Prepared {
    /// Bytes that it takes in a block, without the strings it may share.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        // Flags, hashes, nine numbers, time, hold, id; an attribute is a kind and three numbers.
        self.raw_length + 100 + self.attributes * 7
    }
}

/// What a door's message held and cannot be accepted, to be kept with its reason.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Where its partition is.
    pub partition: u32,
    /// Stable code.
    pub reason: &'static str,
    /// What is wrong.
    pub detail: String,
    /// Place among the events of the message, from 0.
    pub door_index: u32,
    /// Its first byte in the body.
    pub raw_at: usize,
    /// Its length in the body.
    pub raw_length: usize,
}

/// The message of a door that a batch was read from.
#[derive(Clone, Debug)]
pub struct DoorPlace {
    /// The topic.
    pub door: Arc<str>,
    /// Its partition.
    pub partition: u32,
    /// The offset there.
    pub offset: i64,
}

/// The accepted events of one request, or all events of a door's message.
#[derive(Debug)]
pub struct Batch {
    /// Who sent them.
    pub caller: Caller,
    /// The body, decompressed.
    pub body: Bytes,
    /// Texts by number.
    pub strings: Strings,
    /// The events' ids, one after the other: they hardly repeat.
    pub ids: String,
    /// The attributes of all events; pointers are numbers of `strings`, places are in the event.
    pub attributes: Vec<Attribute>,
    /// The events.
    pub events: Vec<Prepared>,
    /// Of a door's message: what cannot be accepted. Their numbers follow those of the events.
    pub refused: Vec<Refusal>,
    /// Of a door's message: where it stands.
    pub place: Option<DoorPlace>,
    /// The span of the request, where it is sampled.
    pub trace: Option<TraceContext>,
    /// Whether an event has a subject whose alias waits: then none of them is accepted.
    pub alias_waits: bool,
    held: Held,
    held_for_events: usize,
}

impl Batch {
    /// Without events. `held` is what the body takes of the budget.
    #[must_use]
    pub fn new(caller: Caller, body: Bytes, held: Held) -> Batch {
        let strings = Strings::default();
        Batch {
            caller,
            body,
            strings,
            ids: String::new(),
            attributes: Vec::new(),
            events: Vec::new(),
            refused: Vec::new(),
            place: None,
            trace: None,
            alias_waits: false,
            held,
            held_for_events: 0,
        }
    }

    /// Takes what the events have come to need out of the budget, and `others` bytes besides.
    pub fn hold(&mut self, others: usize) -> Result<(), Full> {
        let needed = others
            + self.strings.bytes()
            + self.ids.len()
            + self.attributes.len() * size_of::<Attribute>()
            + self.events.len() * (size_of::<Prepared>() + size_of::<u32>());
        self.held.grow(needed.saturating_sub(self.held_for_events))?;
        self.held_for_events = needed.max(self.held_for_events);
        Ok(())
    }

    /// The id of an event, by its place.
    #[must_use]
    pub fn id(&self, place: usize) -> Option<&str> {
        let event = self.events.get(place)?;
        self.ids.get(event.id_at..event.id_at + event.id_length)
    }

    /// What was refused under a number that follows those of the events.
    #[must_use]
    pub fn refusal(&self, number: u32) -> Option<&Refusal> {
        let place = usize::try_from(number).ok()?.checked_sub(self.events.len())?;
        self.refused.get(place)
    }

    /// What identifies an event of this batch's tenant.
    #[must_use]
    pub fn identity_parts<'a>(
        &self,
        subject: &'a str,
        source: &'a str,
        id: &'a str,
    ) -> IdentityParts<'a> {
        IdentityParts { tenant: self.caller.tenant.id, subject, source, id }
    }
}

/// Writes events of batches into a block; keeps its memory from block to block.
#[derive(Debug, Default)]
pub struct Encoder {
    writer: BlockWriter,
    /// Numbers of the block's dictionary plus one, by the batch's; zero is "not yet".
    numbers: Vec<u32>,
    attributes: Vec<Attribute>,
}

impl Encoder {
    /// Appends events of a batch; the index of the first one in the block.
    pub fn push(&mut self, batch: &Batch, events: &[u32]) -> u32 {
        let first = self.writer.count();
        let tenant = self.writer.tenant(batch.caller.tenant.id);
        let key = Some(&*batch.caller.key).filter(|key| !key.is_empty());
        let key = key.map(|key| self.writer.dictionary.intern(key));
        let app = batch.caller.app.as_deref().map(|app| self.writer.dictionary.intern(app));
        if let Some(context) = batch.trace {
            self.writer.trace(context);
        }
        self.numbers.clear();
        self.numbers.resize(batch.strings.places.len(), 0);
        for number in events {
            let place = usize::try_from(*number).unwrap_or(usize::MAX);
            if let Some(event) = batch.events.get(place) {
                self.event(batch, event, (tenant, app, key));
            } else if let Some(refusal) = batch.refusal(*number) {
                self.refused(batch, refusal, tenant);
            }
        }
        first
    }

    fn refused(&mut self, batch: &Batch, refusal: &Refusal, tenant: u32) {
        let Some(place) = &batch.place else { return };
        let raw = refusal.raw_at..refusal.raw_at + refusal.raw_length;
        self.writer.push(&Entry::Refused(Refused {
            tenant,
            reason: refusal.reason,
            detail: &refusal.detail,
            door: &place.door,
            door_partition: place.partition,
            door_offset: place.offset,
            door_index: refusal.door_index,
            raw: batch.body.get(raw).unwrap_or_default(),
        }));
    }

    fn event(
        &mut self,
        batch: &Batch,
        event: &Prepared,
        (tenant, app, key): (u32, Option<u32>, Option<u32>),
    ) {
        let mut attributes = std::mem::take(&mut self.attributes);
        let of_event =
            batch.attributes.get(event.attributes_at..event.attributes_at + event.attributes);
        for attribute in of_event.unwrap_or_default() {
            let pointer = self.number(batch, attribute.pointer);
            attributes.push(Attribute { pointer, ..*attribute });
        }
        let record = EventRecord {
            tenant,
            team: self.number(batch, event.team),
            subject: self.number(batch, event.subject),
            source: self.number(batch, event.source),
            event_type: self.number(batch, event.event_type),
            user: event.user.map(|user| self.number(batch, user)),
            app,
            key,
            feature: event.feature.map(|feature| self.number(batch, feature)),
            id: batch.ids.get(event.id_at..event.id_at + event.id_length).unwrap_or_default(),
            identity: event.identity,
            content: event.content,
            time_us: event.time_us,
            hold: event.hold,
            hold_end: event.hold_end,
            quote: None,
            attributes,
            raw: batch.body.get(event.raw_at..event.raw_at + event.raw_length).unwrap_or_default(),
        };
        let entry = Entry::Event(record);
        self.writer.push(&entry);
        if let Entry::Event(record) = entry {
            self.attributes = record.attributes;
            self.attributes.clear();
        }
    }

    fn number(&mut self, batch: &Batch, of_batch: u32) -> u32 {
        let place = usize::try_from(of_batch).unwrap_or(usize::MAX);
        if let Some(known) = self.numbers.get(place).and_then(|known| known.checked_sub(1)) {
            return known;
        }
        let number = self.writer.dictionary.intern(batch.strings.get(of_batch));
        if let Some(known) = self.numbers.get_mut(place) {
            *known = number + 1;
        }
        number
    }

    /// The finished block; the encoder is empty afterwards.
    pub fn finish(&mut self) -> Bytes {
        self.writer.finish().into()
    }
}
