//! Different byte strings of a message, each written once and known by its number.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use super::codec::Output;

/// Byte strings in the order in which they came first, without memory of their own for each.
#[derive(Clone, Debug, Default)]
pub(super) struct Interner {
    /// Numbers, by the hash of what they stand for.
    numbers: HashTable<u32>,
    /// Where each begins and ends in `encoded`.
    places: Vec<(usize, usize)>,
    encoded: Vec<u8>,
}

fn text<'a>(places: &[(usize, usize)], encoded: &'a [u8], number: u32) -> &'a [u8] {
    let place = usize::try_from(number).ok().and_then(|number| places.get(number));
    place.and_then(|(from, to)| encoded.get(*from..*to)).unwrap_or_default()
}

impl Interner {
    /// The number of a string, written now if it is new.
    pub fn intern(&mut self, bytes: &[u8]) -> u32 {
        let Interner { numbers, places, encoded } = self;
        let hash = xxh3_64(bytes);
        if let Some(number) = numbers.find(hash, |number| text(places, encoded, *number) == bytes) {
            return *number;
        }
        let number = u32::try_from(places.len()).unwrap_or(u32::MAX);
        encoded.bytes(bytes);
        places.push((encoded.len() - bytes.len(), encoded.len()));
        numbers.insert_unique(hash, number, |number| xxh3_64(text(places, encoded, *number)));
        number
    }

    /// The string of a number; empty where there is none.
    pub fn get(&self, number: u32) -> &[u8] {
        text(&self.places, &self.encoded, number)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// All of them in their order, each behind its length.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// Forgets all and keeps the memory.
    pub fn clear(&mut self) {
        self.numbers.clear();
        self.places.clear();
        self.encoded.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_are_given_in_the_order_of_the_first(texts in proptest::collection::vec("[a-c]{0,3}", 0..200)) {
            let mut interner = Interner::default();
            for _ in 0..2 {
                let mut known = HashMap::new();
                let mut encoded = Vec::new();
                for text in &texts {
                    let next = u32::try_from(known.len()).unwrap();
                    let number = *known.entry(text).or_insert_with(|| {
                        encoded.bytes(text.as_bytes());
                        next
                    });
                    prop_assert_eq!(interner.intern(text.as_bytes()), number);
                    prop_assert_eq!(interner.get(number), text.as_bytes());
                }
                prop_assert_eq!((interner.len(), interner.encoded()), (known.len(), &encoded[..]));
                interner.clear();
            }
        }
    }
}
