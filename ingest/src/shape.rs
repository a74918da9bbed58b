//! The names of an event's members, in their order: the next event of the request mostly has the same,
//! and what was found out about each is known then.

use domain::event::member::Member;

/// Names outside of arrays. Where the names and objects of an event have been those of the event
/// before so far, the next name, if it is the same, stands at the same path.
#[derive(Debug, Default)]
pub struct Shape {
    names: Vec<(usize, Name)>,
    /// The names' bytes, one after the other; each ends at its number.
    bytes: Vec<u8>,
    /// The next name's place.
    next: usize,
    /// Whether the event has had other names, and whether one of them cannot be kept.
    has_left: bool,
    is_lost: bool,
}

/// What is known of a name.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    /// The object that it is in.
    pub frame: u32,
    /// Its hash.
    pub hash: u64,
    /// Of the top level: what it is.
    pub member: Option<Member>,
    /// Pointer of its value, where that was a scalar that may be data, and the pointer's length.
    pub pointer: Option<(u32, usize)>,
}

impl Shape {
    /// Another event begins.
    pub fn begin(&mut self) {
        (self.next, self.has_left, self.is_lost) = (0, false, false);
    }

    /// The place of a name, and what is known of it, if it is the one that came next before.
    pub fn follow(&mut self, frame: u32, name: &[u8]) -> Option<(usize, Name)> {
        let at = self.next;
        let known = self.names.get(at).filter(|_| !self.has_left)?.1;
        if known.frame != frame || self.name(at) != name {
            return None;
        }
        self.next += 1;
        Some((at, known))
    }

    /// Keeps a name that did not come next before, and its place; none that has escapes, and then
    /// none after it.
    pub fn learn(&mut self, bytes: Option<&[u8]>, name: Name) -> Option<usize> {
        let at = self.next;
        if !self.has_left {
            self.has_left = true;
            self.names.truncate(at);
            self.bytes.truncate(self.end(at));
        }
        self.is_lost |= bytes.is_none();
        let bytes = bytes.filter(|_| !self.is_lost)?;
        self.bytes.extend_from_slice(bytes);
        self.names.push((self.bytes.len(), name));
        self.next += 1;
        Some(at)
    }

    /// Where the bytes of the names before a place end.
    fn end(&self, at: usize) -> usize {
        at.checked_sub(1).and_then(|before| self.names.get(before)).map_or(0, |(end, _)| *end)
    }

    /// The bytes of a name.
    pub fn name(&self, at: usize) -> &[u8] {
        let end = self.names.get(at).map_or(0, |(end, _)| *end);
        self.bytes.get(self.end(at)..end).unwrap_or_default()
    }

    /// The pointer of a name's value.
    pub fn pointer(&self, at: usize) -> Option<(u32, usize)> {
        self.names.get(at)?.1.pointer
    }

    /// Keeps the pointer of a name's value.
    pub fn set_pointer(&mut self, at: usize, pointer: (u32, usize)) {
        if let Some((_, name)) = self.names.get_mut(at) {
            name.pointer = Some(pointer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes an event of `(object, name)`; answers how many were known.
    fn take(shape: &mut Shape, names: &[(u32, &str)]) -> usize {
        shape.begin();
        let mut known = 0;
        for (frame, name) in names {
            let bytes = Some(name.as_bytes()).filter(|bytes| !bytes.contains(&b'\\'));
            match shape.follow(*frame, name.as_bytes()) {
                Some((at, found)) => {
                    assert_eq!((found.hash, shape.name(at)), (name.len() as u64, name.as_bytes()));
                    known += 1;
                }
                None => {
                    let hash = name.len() as u64;
                    let name = Name { frame: *frame, hash, member: None, pointer: None };
                    shape.learn(bytes, name);
                }
            }
        }
        known
    }

    #[test]
    fn the_names_of_the_event_before_are_known_up_to_the_first_other() {
        let mut shape = Shape::default();
        let event = [(0, "id"), (0, "data"), (1, "model"), (1, "tokens")];
        assert_eq!(take(&mut shape, &event), 0);
        assert_eq!(take(&mut shape, &event), 4);
        assert_eq!(take(&mut shape, &event[..2]), 2, "one that ends earlier");
        assert_eq!(take(&mut shape, &event), 4);
        // Behind another name nothing is known, though names and objects are the same.
        assert_eq!(take(&mut shape, &[(0, "id"), (0, "more"), (1, "model"), (1, "tokens")]), 1);
        assert_eq!(take(&mut shape, &event), 1);
        assert_eq!(take(&mut shape, &event), 4);
        assert_eq!(take(&mut shape, &[(0, "id"), (0, "data"), (0, "model")]), 2);
        let escaped = [(0, "id"), (0, "d\\u0061ta"), (0, "data")];
        assert_eq!(take(&mut shape, &escaped), 1);
        assert_eq!(take(&mut shape, &escaped), 1, "it is not kept, nor what stands behind");
    }
}
