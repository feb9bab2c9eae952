//! Who wants subflows to be backup (`include/emptcp/prio.h`): chains by the number of their owner,
//! commands by a name, which is kept beside.

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use libbpf_rs::MapType;

use super::maps::create_map;
use super::state::STATE;
use super::state::kept_of;
use super::state::state_pin;
use super::tables;
use crate::abi::PrioWish;
use crate::abi::SubflowKey;
use crate::abi::TrackFlags;
use crate::abi::TrackSubflow;
use crate::abi::bytes_of;
use crate::abi::from_bytes;
use crate::module::Scope;
use crate::pin;
use crate::pin::Home;
use crate::sys;
use crate::track::Ends;
use crate::track::has;

/// Map of the wishes, as `include/emptcp/wish.h` declares it: what is made first is what the other
/// takes.
const WISHES: &str = "prio_wishes";
const ENTRIES: u32 = 65_536;
/// Map of the names of owners: that of place n in the n-th entry, zeros behind it.
const NAMES: &str = "prio_owners";
/// Bytes of a name, of which the last one is 0.
const NAME: usize = 16;

/// Whoever asks for backup on grounds of his own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Chains whose actors have this number as their owner.
    Chains(u8),
    /// A command.
    Named(String),
}

/// The maps of a policy in force; whoever changes them holds its lock.
#[derive(Debug)]
pub(crate) struct PrioWishes {
    wishes: MapHandle,
    names: Option<MapHandle>,
}

/// An owner's place in wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seat {
    Chains(usize),
    Named(usize),
}

impl Owner {
    /// # Errors
    ///
    /// It is neither a number of chains nor a name.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let most = PrioWish::default().pad_wants.len();
        if let Ok(number) = text.parse::<usize>() {
            match u8::try_from(number) {
                Ok(number) if usize::from(number) < most => return Ok(Self::Chains(number)),
                _ => bail!("owners of chains are 0 to {}, not {number}", most - 1),
            }
        }
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
        if text.is_empty() || text.len() >= NAME || !text.chars().all(fits) {
            bail!(
                "an owner is a name of up to {} of a-z, 0-9, _ and -, or the number of a chain's, \
                 not {text:?}",
                NAME - 1
            );
        }
        Ok(Self::Named(text.to_owned()))
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Chains(number) => write!(f, "{number}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

impl PrioWishes {
    /// `None`: nobody has ever wished anything.
    ///
    /// # Errors
    ///
    /// The kernel's, or that another version of emptcp made the maps.
    pub(crate) fn open() -> Result<Option<Self>> {
        let home = Home::current(false)?;
        match kept_of::<SubflowKey, PrioWish>(&home, WISHES)? {
            Some(wishes) => Ok(Some(Self {
                wishes,
                names: kept_of::<u32, [u8; NAME]>(&home, NAMES)?,
            })),
            None => Ok(None),
        }
    }

    /// The same; makes what is not there.
    ///
    /// # Errors
    ///
    /// As for [`PrioWishes::open`].
    pub(crate) fn open_or_create() -> Result<Self> {
        let home = Home::current(false)?;
        let sizes = [size_of::<SubflowKey>(), size_of::<PrioWish>()].map(|size| size as u32);
        let wishes = match Self::open()? {
            Some(known) if known.names.is_some() => return Ok(known),
            Some(known) => known.wishes,
            None => create(
                &home,
                WISHES,
                MapType::LruHash,
                [sizes[0], sizes[1], ENTRIES],
            )?,
        };
        let places = PrioWish::default().pad_named.len() as u32;
        let names = create(&home, NAMES, MapType::Array, [4, NAME as u32, places])?;
        Ok(Self {
            wishes,
            names: Some(names),
        })
    }

    /// The wishes for packets of a direction of a subflow, if there are any of this very subflow.
    pub(crate) fn get(
        &self,
        ends: &Ends,
        sub: &TrackSubflow,
        direction: usize,
    ) -> Result<Option<PrioWish>> {
        let value = self
            .wishes
            .lookup(bytes_of(&ends.packet_key(direction)), MapFlags::ANY)?;
        let wish: Option<PrioWish> = value.and_then(|value| from_bytes(&value));
        // Of an earlier one with its ports, whose SYN no chain saw.
        let is_old = |wish: &PrioWish| {
            let since = sub.created;
            wish.at != 0 && wish.at < since && !has(sub, TrackFlags::EMPTCP_TRACK_TAKEN_OVER)
        };
        Ok(wish.filter(|wish| !is_old(wish)))
    }

    /// Stores them; `None`: there are none.
    pub(crate) fn put(&self, ends: &Ends, direction: usize, wish: Option<&PrioWish>) -> Result<()> {
        let key = ends.packet_key(direction);
        match wish {
            Some(wish) => (self.wishes).update(bytes_of(&key), bytes_of(wish), MapFlags::ANY)?,
            None => drop(self.wishes.delete(bytes_of(&key))),
        }
        Ok(())
    }

    fn name(&self, place: usize) -> Result<Option<String>> {
        let Some(names) = &self.names else {
            return Ok(None);
        };
        let bytes = names.lookup(&(place as u32).to_ne_bytes(), MapFlags::ANY)?;
        let bytes = bytes.unwrap_or_default();
        let text: Vec<u8> = bytes.into_iter().take_while(|byte| *byte != 0).collect();
        Ok(String::from_utf8(text).ok().filter(|text| !text.is_empty()))
    }

    /// The seat of an owner; `None`: it never had one.
    pub(crate) fn seat(&self, owner: &Owner) -> Result<Option<Seat>> {
        let name = match owner {
            Owner::Chains(number) => return Ok(Some(Seat::Chains((*number).into()))),
            Owner::Named(name) => name,
        };
        for place in 0..PrioWish::default().pad_named.len() {
            if self.name(place)?.as_ref() == Some(name) {
                return Ok(Some(Seat::Named(place)));
            }
        }
        Ok(None)
    }

    /// The same; an owner that has none gets one that nobody needs.
    ///
    /// # Errors
    ///
    /// All are in use.
    pub(crate) fn take_seat(&self, owner: &Owner) -> Result<Seat> {
        if let Some(seat) = self.seat(owner)? {
            return Ok(seat);
        }
        let mut used = PrioWish::default().pad_named;
        tables::each(&self.wishes, &mut |_, value| {
            if let Some(wish) = from_bytes::<PrioWish>(value) {
                for (used, wants) in used.iter_mut().zip(wish.pad_named) {
                    *used |= wants;
                }
            }
        })?;
        let Some(place) = used.iter().position(|used| *used == 0) else {
            bail!(
                "{} owners with a name want subflows to be backup, and there is no room for {owner}: \
                 take back what one of them wants (--release --owner)",
                used.len()
            );
        };
        let mut bytes = [0; NAME];
        let text = owner.to_string();
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        let names = self
            .names
            .as_ref()
            .context("the names of owners are not there")?;
        names.update(&(place as u32).to_ne_bytes(), &bytes, MapFlags::ANY)?;
        Ok(Seat::Named(place))
    }

    /// Who wants backup: numbers of chains' owners, then names.
    pub(crate) fn owners(&self, wish: &PrioWish) -> Result<Vec<String>> {
        let wants = |wants: &[u8]| -> Vec<usize> {
            let all = wants.iter().enumerate();
            all.filter(|(_, wants)| **wants != 0)
                .map(|(n, _)| n)
                .collect()
        };
        let mut all: Vec<String> = wants(&wish.pad_wants)
            .iter()
            .map(usize::to_string)
            .collect();
        for place in wants(&wish.pad_named) {
            all.push(self.name(place)?.unwrap_or_else(|| "?".to_owned()));
        }
        Ok(all)
    }
}

impl Seat {
    /// Notes what its owner wants.
    pub(crate) fn set(self, wish: &mut PrioWish, backup: bool) {
        match self {
            Self::Chains(n) => {
                wish.pad_wants[n] = backup.into();
                wish.owners = wish.owners & !(1 << n) | u32::from(backup) << n;
            }
            Self::Named(n) => wish.pad_named[n] = backup.into(),
        }
    }
}

/// Whether any owner wants backup.
pub(crate) fn is_wanted(wish: &PrioWish) -> bool {
    let mut all = wish.pad_wants.iter().chain(&wish.pad_named);
    all.any(|wants| *wants != 0)
}

fn create(home: &Home, name: &str, ty: MapType, sizes: [u32; 3]) -> Result<MapHandle> {
    let path = state_pin(home, Scope::Keep, 0, name);
    pin::create_folder(&home.join(STATE))?;
    let map = create_map(name, ty, sizes, 0)?;
    sys::pin(&map, &path).with_context(|| format!("cannot pin {}", path.display()))?;
    Ok(map)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::module::Registry;

    #[test]
    fn the_map_is_that_of_the_modules() {
        let registry = Registry::builtin().unwrap();
        let objects = (0..registry.modules().len()).map(|index| registry.object(index));
        let maps = objects.flat_map(|object| object.own_maps());
        let shapes: Vec<_> = maps.filter(|m| m.name == WISHES).map(|m| m.shape).collect();
        assert!(!shapes.is_empty());
        for shape in shapes {
            assert_eq!(shape.ty, MapType::LruHash as usize);
            assert_eq!(shape.key_size, size_of::<SubflowKey>());
            assert_eq!(shape.value_size, size_of::<PrioWish>());
            assert_eq!((shape.entries, shape.flags), (ENTRIES as usize, 0));
        }
    }

    #[test]
    fn owners_by_number_and_name() {
        assert_eq!(Owner::parse("31").unwrap(), Owner::Chains(31));
        assert_eq!(Owner::parse("cli").unwrap(), Owner::Named("cli".to_owned()));
        for wrong in ["32", "", "Cli", "a name", "sixteen_letters_"] {
            Owner::parse(wrong).unwrap_err();
        }
        Owner::parse("fifteen_letters").unwrap();
    }

    #[test]
    fn backup_while_anybody_wants_it() {
        let mut wish = PrioWish::default();
        let seats = [Seat::Chains(31), Seat::Named(7)];
        for seat in seats {
            assert!(!is_wanted(&wish));
            seat.set(&mut wish, true);
            assert!(is_wanted(&wish));
            assert_eq!(wish.owners != 0, seat == seats[0]);
            seat.set(&mut wish, false);
        }
        assert!(!is_wanted(&wish));
        assert_eq!(wish.owners, 0);
    }
}
