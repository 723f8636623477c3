//! A set of places in a segment: a short list while it is small, a bitmap where that takes less.

use super::SEGMENT;

/// Words of a bitmap.
const WORDS: usize = 64;

/// Places that a list takes before a bitmap is smaller: 256 × 2 bytes are 512.
const FEW: usize = 256;

/// A set of numbers below [`SEGMENT`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bits(Form);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    /// Rising.
    Few(Vec<u16>),
    Many(Box<[u64; WORDS]>),
}

/// Bytes that are no [`Bits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the bits of a segment")]
pub struct InvalidBits;

impl Default for Bits {
    fn default() -> Self {
        Self(Form::Few(Vec::new()))
    }
}

impl Bits {
    /// How many places are in the set.
    pub fn len(&self) -> u32 {
        match &self.0 {
            Form::Few(places) => u32::try_from(places.len()).unwrap_or_default(),
            Form::Many(words) => words.iter().map(|word| word.count_ones()).sum(),
        }
    }

    /// Whether no place is in the set.
    pub fn is_empty(&self) -> bool {
        match &self.0 {
            Form::Few(places) => places.is_empty(),
            Form::Many(words) => words.iter().all(|word| *word == 0),
        }
    }

    /// Whether a place is in the set.
    pub fn contains(&self, at: u16) -> bool {
        match &self.0 {
            Form::Few(places) => places.binary_search(&at).is_ok(),
            Form::Many(words) => words.get(usize::from(at / 64)).is_some_and(|word| word & bit(at) != 0),
        }
    }

    /// Adds a place below [`SEGMENT`]; false when it was there.
    pub fn insert(&mut self, at: u16) -> bool {
        if i64::from(at) >= SEGMENT {
            return false;
        }
        match &mut self.0 {
            Form::Few(places) => match places.binary_search(&at) {
                Ok(_) => return false,
                Err(to) if places.len() < FEW => places.insert(to, at),
                Err(_) => {
                    let mut words = Box::new([0; WORDS]);
                    places.iter().chain([&at]).for_each(|at| set(&mut words, *at));
                    self.0 = Form::Many(words);
                }
            },
            Form::Many(words) => {
                let is_new = words.get(usize::from(at / 64)).is_some_and(|word| word & bit(at) == 0);
                set(words, at);
                return is_new;
            }
        }
        true
    }

    /// Takes a place out; false when it was not there.
    pub fn remove(&mut self, at: u16) -> bool {
        let was_there = self.contains(at);
        match &mut self.0 {
            Form::Few(places) => places.retain(|place| *place != at),
            Form::Many(words) => {
                if let Some(word) = words.get_mut(usize::from(at / 64)) {
                    *word &= !bit(at);
                }
            }
        }
        self.shrink();
        was_there
    }

    /// Keeps those places that are wanted.
    pub fn retain(&mut self, wants: impl Fn(u16) -> bool) {
        *self = self.iter().filter(|at| wants(*at)).collect();
    }

    /// Adds all of another set.
    pub fn union(&mut self, other: &Self) {
        if let (Form::Many(words), Form::Many(others)) = (&mut self.0, &other.0) {
            words.iter_mut().zip(others.iter()).for_each(|(word, other)| *word |= other);
            return;
        }
        if self.is_empty() {
            *self = other.clone();
            return;
        }
        for at in other.iter() {
            self.insert(at);
        }
    }

    /// The places, rising.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        let (few, many) = match &self.0 {
            Form::Few(places) => (places.as_slice(), None),
            Form::Many(words) => (&[][..], Some(words)),
        };
        let many = many.into_iter().flat_map(|words| (0_u16..).zip(words.iter())).flat_map(|(number, word)| {
            (0..64).filter(move |place| word & (1 << place) != 0).map(move |place| number * 64 + place)
        });
        few.iter().copied().chain(many)
    }

    /// As it stands in the store.
    pub fn to_bytes(&self) -> Vec<u8> {
        match &self.0 {
            Form::Few(places) => places.iter().flat_map(|at| at.to_le_bytes()).collect(),
            Form::Many(words) => std::iter::once(1).chain(words.iter().flat_map(|word| word.to_le_bytes())).collect(),
        }
    }

    /// Reads [`Bits::to_bytes`].
    ///
    /// # Errors
    /// When the bytes are something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidBits> {
        // A list has an even number of bytes, a bitmap an odd one.
        if bytes.len() == 1 + WORDS * 8 {
            let (words, _) = bytes.get(1..).unwrap_or_default().as_chunks::<8>();
            let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
            let words: Box<[u64; WORDS]> = words.into_boxed_slice().try_into().map_err(|_| InvalidBits)?;
            return Ok(Self(Form::Many(words)));
        }
        let (places, []) = bytes.as_chunks::<2>() else { return Err(InvalidBits) };
        let places: Vec<u16> = places.iter().map(|place| u16::from_le_bytes(*place)).collect();
        let is_rising = places.is_sorted_by(|a, b| a < b) && places.iter().all(|at| i64::from(*at) < SEGMENT);
        if places.len() <= FEW && is_rising { Ok(Self(Form::Few(places))) } else { Err(InvalidBits) }
    }

    fn shrink(&mut self) {
        // Half of where it grew, so that one letter more or less does not make it change its form each time.
        if let Form::Many(_) = &self.0
            && usize::try_from(self.len()).is_ok_and(|len| len <= FEW / 2)
        {
            self.0 = Form::Few(self.iter().collect());
        }
    }
}

impl FromIterator<u16> for Bits {
    fn from_iter<I: IntoIterator<Item = u16>>(places: I) -> Self {
        let mut bits = Self::default();
        for at in places {
            bits.insert(at);
        }
        bits
    }
}

fn bit(at: u16) -> u64 {
    1 << (at % 64)
}

fn set(words: &mut [u64; WORDS], at: u16) {
    if let Some(word) = words.get_mut(usize::from(at / 64)) {
        *word |= bit(at);
    }
}
