//! From the tokens of one event to its envelope and the attributes of its `data`.
//!
//! Members may come in any order, so everything that could turn out to be data is collected: what
//! stands in `data`, and the rest of the top level, which is the data of clients that have none.

use std::fmt::Write as _;

use domain::{
    event::{
        ATTRIBUTES_MAX, EVENT_BYTES_MAX, NESTING_MAX, POINTER_BYTES_MAX,
        member::{Field, Member, member},
        unescape,
    },
    wire::record::{Attribute, AttributeKind},
};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    batch::Strings,
    scan::{Leaf, Token},
    shape::{Name, Shape},
};

const FIELDS: usize = 12;

/// Why an event cannot be accepted, as far as its shape tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Longer than an event may be.
    TooLarge,
    /// Two members of one object have the same name.
    Duplicate,
    /// A field and an alias of it say different things.
    Ambiguous(&'static str),
    /// Nested too deeply.
    Nesting,
    /// Too many scalars.
    Attributes,
    /// Pointers too long together.
    Pointers,
}

/// Attributes found in one place, with what is wrong with them if they are the data.
#[derive(Debug, Default)]
pub struct Found {
    /// Pointers are numbers of the strings; places are in the text.
    pub attributes: Vec<Attribute>,
    /// Pointers of the event before: events of one request are mostly of one shape.
    before: Vec<u32>,
    /// Bytes of the pointers.
    pub pointer_bytes: usize,
    /// The first thing that is wrong.
    pub fault: Option<Fault>,
}

impl Found {
    /// Adds an attribute within the limits; answers its pointer.
    pub fn add(&mut self, path: &str, leaf: Leaf, strings: &mut Strings) -> Option<u32> {
        if !self.has_room(path.len()) {
            return None;
        }
        let before = self.before.get(self.attributes.len()).copied();
        let pointer = strings.intern_like(before, path);
        self.put(pointer, leaf);
        Some(pointer)
    }

    /// Adds an attribute within the limits whose pointer, of so many bytes, is known.
    fn add_known(&mut self, (pointer, length): (u32, usize), leaf: Leaf) {
        if self.has_room(length) {
            self.put(pointer, leaf);
        }
    }

    /// Whether one with so long a pointer may still be added.
    fn has_room(&mut self, pointer_bytes: usize) -> bool {
        if self.fault.is_some() {
            return false;
        }
        if self.attributes.len() >= ATTRIBUTES_MAX {
            self.fault = Some(Fault::Attributes);
            return false;
        }
        self.pointer_bytes += pointer_bytes;
        if self.pointer_bytes > POINTER_BYTES_MAX {
            self.fault = Some(Fault::Pointers);
            return false;
        }
        true
    }

    fn put(&mut self, pointer: u32, leaf: Leaf) {
        let place = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
        let (offset, length) = (place(leaf.offset), place(leaf.length));
        self.attributes.push(Attribute { pointer, kind: leaf.kind, offset, length });
    }

    fn clear(&mut self) {
        self.before.clear();
        self.before.extend(self.attributes.iter().map(|attribute| attribute.pointer));
        self.attributes.clear();
        self.pointer_bytes = 0;
        self.fault = None;
    }
}

#[derive(Debug)]
struct Frame {
    /// Names of an object are compared within it; arrays count their elements.
    number: u32,
    object: bool,
    elements: u32,
    path_length: usize,
}

/// Collects one event after the other; keeps its memory.
#[derive(Debug, Default)]
pub struct Collector {
    fields: [Option<Leaf>; FIELDS],
    /// What stands in `data`.
    pub data: Found,
    /// The rest of the top level.
    pub rest: Found,
    /// Whether there is a `data`.
    pub has_data: bool,
    /// The first fault that does not depend on what is the data.
    pub fault: Option<Fault>,
    begin: usize,
    end: usize,
    data_text: Option<(usize, usize)>,
    member: Option<Member>,
    member_begin: usize,
    frames: Vec<Frame>,
    path: String,
    objects: u32,
    /// Arrays that are open.
    arrays: u32,
    /// The names outside of arrays, as the event before had them.
    shape: Shape,
    /// The last name's place in the shape, and whether the path does not have it yet.
    at: Option<usize>,
    path_is_behind: bool,
    /// Object and hash of each name, in their order.
    names: Vec<(u32, u64)>,
    /// Those of an event before, which are all different.
    different: Vec<(u32, u64)>,
    sorted: Vec<(u32, u64)>,
}

impl Collector {
    /// Forgets the event before; the next begins at byte `at` of the text.
    pub fn start(&mut self, at: usize) {
        self.fields = [None; FIELDS];
        self.data.clear();
        self.rest.clear();
        self.has_data = false;
        self.fault = None;
        (self.begin, self.end) = (at, at);
        self.data_text = None;
        self.member = None;
        self.frames.clear();
        self.path.clear();
        (self.objects, self.arrays) = (0, 0);
        self.names.clear();
        self.shape.begin();
        (self.at, self.path_is_behind) = (None, false);
    }

    /// The value of a field.
    #[must_use]
    pub fn field(&self, field: Field) -> Option<Leaf> {
        self.fields.get(field as usize).copied().flatten()
    }

    /// Ends the event at byte `end` and looks for names that come twice.
    pub fn finish(&mut self, end: usize) {
        self.end = end;
        if end - self.begin > EVENT_BYTES_MAX {
            self.fault = Some(Fault::TooLarge);
            return;
        }
        if self.names == self.different {
            return;
        }
        self.sorted.clone_from(&self.names);
        self.sorted.sort_unstable();
        if self.sorted.array_windows().any(|[first, second]| first == second) {
            self.fault = Some(Fault::Duplicate);
        } else {
            self.different.clone_from(&self.names);
        }
    }

    /// Takes the next token of the event's text.
    pub fn token(&mut self, token: Token, text: &[u8], strings: &mut Strings) {
        let at = match token {
            Token::Begin { offset, .. } => offset,
            Token::End(at) => at,
            Token::Key(leaf) | Token::Leaf(leaf) => leaf.offset + leaf.length,
        };
        // Nothing more is kept of an event that is too large: its size bounds our memory.
        if self.fault == Some(Fault::TooLarge) || at - self.begin > EVENT_BYTES_MAX {
            self.fault = Some(Fault::TooLarge);
            return;
        }
        match token {
            Token::Key(leaf) => self.key(leaf, text),
            Token::Begin { object, offset } => self.open(object, offset, text),
            Token::Leaf(leaf) => self.leaf(leaf, text, strings),
            Token::End(at) => {
                let ended = self.frames.pop();
                self.arrays -= u32::from(ended.is_some_and(|frame| !frame.object));
                if self.frames.len() == 1 {
                    self.member_ends(at, text);
                }
            }
        }
    }

    fn key(&mut self, leaf: Leaf, text: &[u8]) {
        let bytes = leaf.bytes(text);
        let Some(frame) = self.frames.last() else { return };
        let (is_plain, top) = (leaf.kind != AttributeKind::EscapedText, self.frames.len() == 1);
        (self.at, self.path_is_behind) = (None, false);
        if self.arrays == 0
            && is_plain
            && let Some((at, known)) = self.shape.follow(frame.number, bytes)
        {
            self.names.push((frame.number, known.hash));
            if top {
                self.member = known.member;
            }
            (self.at, self.path_is_behind) = (Some(at), true);
            return;
        }
        let unescaped;
        let name = if leaf.kind == AttributeKind::EscapedText {
            unescaped = unescape(bytes);
            unescaped.as_bytes()
        } else {
            bytes
        };
        // Two names with one hash can be made, and only hurt the event that they are in.
        let (number, hash) = (frame.number, xxh3_64(name));
        self.names.push((number, hash));
        if top {
            self.member = Some(member(name));
        }
        if self.arrays == 0 {
            let member = self.member.filter(|_| top);
            let learned = Name { frame: number, hash, member, pointer: None };
            self.at = self.shape.learn(is_plain.then_some(bytes), learned);
        }
        if self.collects() {
            self.put_name(name);
        }
    }

    /// Ends the path of the innermost object with a name.
    fn put_name(&mut self, name: &[u8]) {
        let Some(frame) = self.frames.last() else { return };
        self.path.truncate(frame.path_length);
        // The pointer of `data` itself is empty; pointers of the rest begin at the event.
        if !(self.frames.len() == 1 && self.member == Some(Member::Data)) {
            push_name(&mut self.path, name);
        }
    }

    /// Gives the path the last name, where that is only known by its place in the shape.
    fn catch_up(&mut self) {
        if let Some(at) = self.at.filter(|_| self.path_is_behind) {
            let shape = std::mem::take(&mut self.shape);
            self.put_name(shape.name(at));
            self.shape = shape;
        }
        self.path_is_behind = false;
    }

    /// Whether what comes now may be data.
    fn collects(&self) -> bool {
        match self.member {
            Some(Member::Data) => !self.has_data,
            Some(Member::Rest) => true,
            Some(Member::Field(_)) | None => false,
        }
    }

    fn open(&mut self, object: bool, offset: usize, text: &[u8]) {
        if self.collects() {
            self.catch_up();
        }
        self.at = None;
        self.element();
        self.value_begins(
            offset,
            Leaf { kind: AttributeKind::EmptyObject, offset, length: 1 },
            text,
        );
        self.nests(self.frames.len());
        let path_length = self.path.len();
        self.frames.push(Frame { number: self.objects, object, elements: 0, path_length });
        self.arrays += u32::from(!object);
        self.objects += 1;
    }

    fn leaf(&mut self, leaf: Leaf, text: &[u8], strings: &mut Strings) {
        self.element();
        let collects = self.collects();
        self.value_begins(leaf.offset, leaf, text);
        if let AttributeKind::EmptyObject | AttributeKind::EmptyArray = leaf.kind {
            self.nests(self.frames.len());
        }
        if collects {
            let pointer = self.at.and_then(|at| self.shape.pointer(at));
            if pointer.is_none() {
                self.catch_up();
            }
            let found =
                if self.member == Some(Member::Data) { &mut self.data } else { &mut self.rest };
            if let Some(pointer) = pointer {
                found.add_known(pointer, leaf);
            } else if let Some(number) = found.add(&self.path, leaf, strings)
                && let Some(at) = self.at
            {
                self.shape.set_pointer(at, (number, self.path.len()));
            }
        }
        if self.frames.len() == 1 {
            let quoted = matches!(leaf.kind, AttributeKind::Text | AttributeKind::EscapedText);
            self.member_ends(leaf.offset + leaf.length + usize::from(quoted), text);
        }
    }

    /// Gives a value in an array its pointer.
    fn element(&mut self) {
        let collects = self.collects();
        if let Some(frame) = self.frames.last_mut().filter(|frame| !frame.object)
            && collects
        {
            self.path.truncate(frame.path_length);
            // Writing to a `String` cannot fail.
            let _ = write!(self.path, "/{}", frame.elements);
            frame.elements += 1;
        }
    }

    /// Records where the value of a member of the top level begins, and what it is.
    fn value_begins(&mut self, offset: usize, leaf: Leaf, text: &[u8]) {
        if self.frames.len() != 1 {
            return;
        }
        self.member_begin = offset;
        if let Some(Member::Field(field)) = self.member {
            self.set(field, leaf, text);
        }
    }

    fn set(&mut self, field: Field, leaf: Leaf, text: &[u8]) {
        let Some(slot) = self.fields.get_mut(field as usize) else { return };
        // `null` says nothing.
        if leaf.kind == AttributeKind::Null {
            return;
        }
        match slot {
            Some(known) if !same(known, &leaf, text) => {
                self.fault = Some(Fault::Ambiguous(name_of(field)))
            }
            _ => *slot = Some(leaf),
        }
    }

    /// A value of the top level has ended: `data` and `payload` must say the same.
    fn member_ends(&mut self, end: usize, text: &[u8]) {
        if self.member != Some(Member::Data) {
            return;
        }
        let span = (self.member_begin, end);
        match self.data_text {
            Some((begin, end)) if text.get(begin..end) != text.get(span.0..span.1) => {
                self.fault = Some(Fault::Ambiguous("data"));
            }
            _ => self.data_text = Some(span),
        }
        self.has_data = true;
    }

    /// `open` containers are around one that begins, the event itself among them. The event is a
    /// level of the rest, and not of `data`.
    fn nests(&mut self, open: usize) {
        let (found, level) = match self.member {
            Some(Member::Data) => (&mut self.data, open),
            Some(Member::Rest) => (&mut self.rest, open + 1),
            _ => return,
        };
        if level > NESTING_MAX && found.fault.is_none() {
            found.fault = Some(Fault::Nesting);
        }
    }
}

/// Whether two scalars say the same.
fn same(first: &Leaf, second: &Leaf, text: &[u8]) -> bool {
    let plain = |leaf: &Leaf| match leaf.kind {
        AttributeKind::EscapedText => {
            (AttributeKind::Text, unescape(leaf.bytes(text)).into_bytes())
        }
        kind => (kind, leaf.bytes(text).to_vec()),
    };
    plain(first) == plain(second)
}

/// Appends `/name` as RFC 6901 writes it.
fn push_name(path: &mut String, name: &[u8]) {
    path.push('/');
    if !name.iter().any(|byte| matches!(byte, b'~' | b'/'))
        && let Ok(name) = std::str::from_utf8(name)
    {
        path.push_str(name);
        return;
    }
    for part in String::from_utf8_lossy(name).chars() {
        match part {
            '~' => path.push_str("~0"),
            '/' => path.push_str("~1"),
            part => path.push(part),
        }
    }
}

/// What we call a field when we complain.
#[must_use]
pub fn name_of(field: Field) -> &'static str {
    match field {
        Field::Id => "id",
        Field::Type => "type",
        Field::Subject => "subject",
        Field::Source => "source",
        Field::Time => "time",
        Field::User => "user",
        Field::Feature => "feature",
        Field::Customer => "customer_id",
        Field::Hold => "holdid",
        Field::HoldEnd => "holdend",
        Field::SpecVersion => "specversion",
        Field::DataBase64 => "data_base64",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scan::Scanner;

    /// Pointer, kind and text of each attribute of the data and of the rest, and what is wrong.
    type Seen = (Vec<(String, AttributeKind, String)>, Option<Fault>);

    fn collect(collector: &mut Collector, strings: &mut Strings, text: &str) -> [Seen; 2] {
        collector.start(0);
        let mut scanner = Scanner::new(text, 0);
        scanner.value(|token| collector.token(token, text.as_bytes(), strings)).unwrap();
        collector.finish(scanner.at());
        [&collector.data, &collector.rest].map(|found| {
            let attribute = |attribute: &Attribute| {
                let (from, length) = (attribute.offset as usize, attribute.length as usize);
                let pointer = strings.get(attribute.pointer).to_owned();
                (pointer, attribute.kind, text[from..from + length].to_owned())
            };
            let attributes = found.attributes.iter().map(attribute).collect();
            (attributes, collector.fault.or(found.fault))
        })
    }

    fn value() -> impl Strategy<Value = String> {
        let scalar = prop_oneof!["[0-9]", Just("\"x\"".to_owned()), Just("null".to_owned())];
        scalar.prop_recursive(3, 12, 3, |inner| {
            let name = prop_oneof!["[ab]", Just("a/~".to_owned()), Just("\\u0061".to_owned())];
            let array = prop::collection::vec(inner.clone(), 0..3);
            let object = prop::collection::vec((name, inner), 0..3);
            prop_oneof![
                array.prop_map(|values| format!("[{}]", values.join(","))),
                object.prop_map(|members| object_of(&members)),
            ]
        })
    }

    fn object_of(members: &[(String, String)]) -> String {
        let member = |(name, value): &(String, String)| format!("\"{name}\":{value}");
        format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","))
    }

    fn event() -> impl Strategy<Value = String> {
        let name = prop_oneof!["[abc]", Just("data".to_owned()), Just("id".to_owned())];
        prop::collection::vec((name, value()), 0..4).prop_map(|members| object_of(&members))
    }

    proptest! {
        #[test]
        fn an_event_is_read_as_if_it_were_alone(events in prop::collection::vec(event(), 1..5), repeated in 0..5_usize) {
            let mut events = events;
            events.extend(events.get(repeated).cloned());
            let (mut collector, mut strings) = (Collector::default(), Strings::default());
            for event in events {
                let together = collect(&mut collector, &mut strings, &event);
                let alone = collect(&mut Collector::default(), &mut Strings::default(), &event);
                prop_assert_eq!(together, alone, "{}", event);
            }
        }
    }
}
