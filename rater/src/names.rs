//! Numbers of names in the dictionary of a batch's sums: each name is looked up once per block.

use domain::{catalog::Catalog, wire::codec::DictionaryWriter};

use crate::sums::ClassOf;

/// Numbers of a catalog's names.
pub struct Names {
    /// Of its meters.
    pub meters: Vec<Option<u32>>,
    /// Of the cards of its card versions.
    pub cards: Vec<Option<u32>>,
    /// Of their currencies.
    pub currencies: Vec<Option<u32>>,
    /// Numbers of what lines are summed up under; there are few.
    pub classes: Vec<(ClassOf, u32)>,
    /// Tells the block and the catalog apart from all others of the batch.
    pub serial: u32,
}

impl Names {
    /// None is known yet.
    pub fn of(catalog: &Catalog, serial: u32) -> Names {
        let (meters, cards) = (catalog.meters.len(), catalog.card_versions.len());
        Names {
            meters: vec![None; meters],
            cards: vec![None; cards],
            currencies: vec![None; cards],
            classes: Vec::new(),
            serial,
        }
    }

    /// The number of a class, if it is known.
    pub fn class(&self, of: ClassOf) -> Option<u32> {
        self.classes.iter().find(|(known, _)| *known == of).map(|(_, class)| *class)
    }
}

/// The number of a name, looked up if it is not known yet.
pub fn number_of(
    known: &mut [Option<u32>],
    place: usize,
    dictionary: &mut DictionaryWriter,
    name: &str,
) -> u32 {
    match known.get_mut(place) {
        Some(known) => *known.get_or_insert_with(|| dictionary.intern(name)),
        None => dictionary.intern(name),
    }
}
