//! Numbers of names in the dictionary of a batch's sums: each name is looked up once per block.

use domain::{catalog::Catalog, wire::codec::DictionaryWriter};

/// Numbers of a catalog's names.
pub struct Names {
    /// Of its meters.
    pub meters: Vec<Option<u32>>,
    /// Of the cards of its card versions.
    pub cards: Vec<Option<u32>>,
    /// Of their currencies.
    pub currencies: Vec<Option<u32>>,
}

impl Names {
    /// None is known yet.
    pub fn of(catalog: &Catalog) -> Names {
        let (meters, cards) = (catalog.meters.len(), catalog.card_versions.len());
        Names {
            meters: vec![None; meters],
            cards: vec![None; cards],
            currencies: vec![None; cards],
        }
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
