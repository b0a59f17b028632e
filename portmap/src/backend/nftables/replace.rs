//! ADD where something is there already: an earlier ADD of the same owner, a key that another
//! attachment has, or an address that was another's.

use cni_common::cni::log::Log;
use cni_common::cni::protocol::CniError;
use cni_common::cni::{Failure as _, OwnerTag};
use cni_common::kernel::nft::compare::misplaced_chains;
use cni_common::kernel::nft::{
    Chain, Element, Elements, Generation, Nft, NftError, Set, Transaction, Value, Verb, keys_only,
    lookup, lookup_all,
};
use cni_common::kernel::retry::{Again, Retry, retry};

use super::Wanted;
use super::claims::{self, Claim};
use super::elements::{Account, Content, describe, is_mapping, mapping_of, owner_key};
use super::entry::Split;
use super::known::Known;
use super::layout::Layout;
use super::owned::{self, Owned};
use super::sets::{self, TABLE};
use super::sources;
use crate::backend::conflict;
use crate::config::OnConflict;
use crate::plan::Mapping;

/// What ADD made.
pub(super) struct Added {
    /// The mappings that are now in force.
    pub(super) mappings: Vec<Mapping>,
    /// Whether the attachment had something before.
    pub(super) replaced: bool,
}

/// Makes exactly what is wanted.
///
/// - Against another container the newest attachment wins, and the loser's mapping waits.
/// - Between attachments of one container the first keeps the key, as with the Go plugin, and the
///   second waits: runtimes hand the same mappings to each of a container's networks, and only
///   through the first, which has the default route, do answers leave the way questions came.
/// - With `"onConflict": "wait"` whoever has a key keeps it, and whoever waits for it comes before.
/// - An address is its newest attachment's. What led to it for somebody else is gone: that
///   container's DEL was lost, or is late.
pub(super) fn replace(
    nft: &mut dyn Nft,
    wanted: &Wanted<'_>,
    log: &Log,
) -> Result<Added, CniError> {
    const DOING: &str = "cannot replace the port mappings";
    let outcome: Result<_, ReplaceError> = retry(|| {
        let found = Found::read(nft, wanted)?;
        if wanted.plan.on_conflict == OnConflict::Fail {
            conflict::refuse(wanted.plan, owned::held(nft)?).map_err(ReplaceError::Refused)?;
        }
        let replacement = found.settle(wanted);
        let accounts = found.accounts(nft, &replacement)?;
        let mut transaction = replacement.transaction.clone();
        for (old, new) in accounts {
            let attachments = sets::attachments();
            transaction.elements(Verb::Delete, &TABLE, &attachments, keys_only([&old]));
            transaction.elements(Verb::Create, &TABLE, &attachments, new.into_iter().collect());
        }
        nft.commit(&transaction)?;
        let replaced = found.owned.elements.iter().any(|(_, elements)| !elements.is_empty());
        Ok((replacement, replaced))
    });
    let (replacement, replaced) = outcome.map_err(|error| match error {
        ReplaceError::Nft(error) => error.into_cni(DOING),
        ReplaceError::Refused(error) => error,
    })?;
    replacement.tell(&wanted.content, log);
    Ok(Added { mappings: replacement.content.mappings(), replaced })
}

/// Why a replacement was not made.
enum ReplaceError {
    Nft(NftError),
    Refused(CniError),
}

impl From<NftError> for ReplaceError {
    fn from(error: NftError) -> Self {
        Self::Nft(error)
    }
}

impl Retry for ReplaceError {
    fn again(&self) -> Again {
        match self {
            Self::Nft(error) => error.again(),
            Self::Refused(_) => Again::Never,
        }
    }
}

/// What is in the way, all of one generation.
struct Found {
    generation: Generation,
    owned: Owned,
    /// Other owners' elements at the keys that are wanted, but for those of `evicted`.
    foreign: Elements,
    /// Other owners' elements that lead to addresses of this container.
    evicted: Elements,
    /// Sources that are there for what is the owner's or evicted, and for nothing else.
    sources: Elements,
    /// Everybody's.
    claims: Vec<Claim>,
    /// Chains of our names that are in no place of ours.
    misplaced: Vec<Chain>,
    /// What is wanted of the table's chains, beside what others need.
    layout: Layout,
}

/// What is made of it.
struct Replacement {
    transaction: Transaction,
    /// What is wanted, without what waits.
    content: Content,
    /// Elements of attachments that keep a key which is wanted.
    waiting: Vec<(Set, Element)>,
    /// Other containers' mappings that wait from now on.
    taken: Vec<(Set, Element)>,
    /// Other attachments' mappings to addresses that are this one's now.
    evicted: Vec<Element>,
    heirs: Vec<Claim>,
}

impl Found {
    fn read(nft: &mut dyn Nft, wanted: &Wanted<'_>) -> Result<Self, NftError> {
        let content = &wanted.content;
        let generation = nft.generation()?;
        let owned = owned::of(nft, &content.tag, Some(content))?;
        let is_foreign = |element: &Element| !content.tag.owns(element);
        let mut foreign = lookup_all(nft, &TABLE, &content.keys())?;
        for (_, elements) in &mut foreign {
            elements.retain(is_foreign);
        }
        // A digest of 60 bits can be shared; whoever has the name in `attachments` loses it.
        let is_here = |element: &Element| !is_mapping(element) && content.has_target_of(element);
        let is_contested = foreign.iter().any(|(_, elements)| elements.iter().any(is_here));
        let mut evicted = Elements::new();
        if is_contested {
            evicted =
                owned::all(nft, |element| is_foreign(element) && content.has_target_of(element))?;
            for (_, elements) in &mut foreign {
                elements.retain(|element| !content.has_target_of(element));
            }
        }
        let may_go = owned::each(&owned.elements).chain(owned::each(&evicted));
        let sources = sources::of_addresses(nft, may_go)?;
        let claims = claims::read(nft)?;
        let layout = wanted.layout.beside(Known::read(nft, &content.scope)?);
        let misplaced = misplaced_chains(nft, &TABLE, &layout.chains())?;
        Ok(Self { generation, owned, foreign, evicted, sources, claims, misplaced, layout })
    }

    fn settle(&self, wanted: &Wanted<'_>) -> Replacement {
        let tag = &wanted.content.tag;
        let yields = wanted.plan.on_conflict == OnConflict::Wait;
        let is_kept =
            |element: &Element| is_mapping(element) && (yields || tag.is_sibling(element.owner()));
        let all = self.foreign.iter().flat_map(|(set, elements)| {
            elements.iter().map(move |element| (set.clone(), element.clone()))
        });
        let (waiting, others): (Vec<_>, Vec<_>) = all.partition(|(_, element)| is_kept(element));
        let (taken, nameless): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|(_, element)| is_mapping(element));

        let kept: Elements =
            waiting.iter().map(|(set, element)| (set.clone(), vec![element.clone()])).collect();
        let content = wanted.content.without(&kept);
        let split = Split::new(&self.owned.elements, &wanted.content.scope);
        // What other entries need as well is made anew with this one's.
        let is_wanted = wanted.content.index();
        let is_shared = |set: &Set, element: &Element| {
            is_wanted.contains_key(&(set.name.as_str(), element.key.as_slice()))
        };
        let (shared, others) = split.others_by(is_shared);
        let mut transaction =
            Transaction { generation: Some(self.generation), ..Transaction::new() };
        transaction.remove_chains(&TABLE, self.misplaced.clone());
        self.layout.build(&mut transaction);
        let gone = split.own.iter().chain(&shared).chain(&self.evicted);
        for (set, elements) in gone.clone() {
            transaction.elements(Verb::Delete, &TABLE, set, keys_only(elements));
        }
        for (set, element) in taken.iter().chain(&nameless) {
            transaction.elements(Verb::Delete, &TABLE, set, keys_only([element]));
        }
        let elements = gone.clone().flat_map(|(set, of)| of.iter().map(move |one| (set, one)));
        let sources = sources::places(elements);
        for (set, element) in owned::each(&self.sources) {
            let goes = |(other, keys): &(Set, Vec<Vec<Value>>)| {
                other == set && keys.contains(&element.key)
            };
            if sources.iter().any(goes) {
                transaction.elements(Verb::Delete, &TABLE, set, keys_only([element]));
            }
        }
        let made = content.index();
        let is_made = |map: &Set, key: &[Value]| made.contains_key(&(map.name.as_str(), key));
        let remain: Vec<Claim> =
            self.claims.iter().filter(|claim| self.stays(claim, wanted)).cloned().collect();
        let is_waited_for = remain.iter().any(|claim| is_made(&claim.map, &claim.element.key));
        let conflicts =
            self.owned.conflicts || is_waited_for || !taken.is_empty() || !waiting.is_empty();
        let account = Account::new(content.len() + waiting.len() + others, conflicts);
        content.create(&mut transaction, account);

        // Who is not served waits, the newest of all that wait for the key, or behind them.
        let order = match wanted.plan.on_conflict {
            OnConflict::Wait => claims::last_order(&self.claims),
            OnConflict::Replace | OnConflict::Fail => claims::next_order(&self.claims),
        };
        let own = waiting.iter().filter_map(|(set, held)| {
            let wanted = is_wanted.get(&(set.name.as_str(), held.key.as_slice()))?;
            Some((set, (*wanted).clone()))
        });
        let lost = taken.iter().map(|(set, element)| (set, element.clone()));
        for (map, element) in own.chain(lost) {
            // Who waited already, waits as long as before.
            let mut earlier = self.claims.iter().filter(|claim| claim.is_for(map, &element.key));
            let earlier = earlier.find(|claim| !yields && claim.element.owner() == element.owner());
            let order = earlier.map_or(order, |claim| claim.order);
            let claim = Claim::new(&wanted.content.scope, map, element, order);
            if let Some((set, waiting)) = claim.waiting() {
                transaction.elements(Verb::Create, &TABLE, &set, vec![waiting]);
            }
        }

        // What waits for a key that is given up serves again.
        let freed = gone
            .flat_map(|(set, elements)| elements.iter().map(move |element| (set, element)))
            .filter(|(set, element)| !is_made(set, &element.key));
        let heirs = claims::heirs(freed, &remain);
        owned::promote(&mut transaction, &heirs);
        let evicted = self.evicted.iter().flat_map(|(_, elements)| elements);
        let evicted = evicted.filter(|element| is_mapping(element)).cloned().collect();
        Replacement { transaction, content, waiting, taken, evicted, heirs }
    }

    /// Whether a claim is still there afterwards.
    fn stays(&self, claim: &Claim, wanted: &Wanted<'_>) -> bool {
        let is_evicted = || {
            let waiting = claim.waiting();
            waiting.is_some_and(|(set, element)| {
                let evicted = self.evicted.iter().filter(|(other, _)| *other == set);
                evicted.flat_map(|(_, elements)| elements).any(|other| other.key == element.key)
            })
        };
        let Content { tag, scope, .. } = &wanted.content;
        let is_own = tag.owns(&claim.element) && claim.is_in(scope);
        !is_own && !is_evicted()
    }

    /// The elements in `attachments` of the others who are concerned, each with what must be there
    /// instead, `None` for who has nothing left: else their DEL would search for what they do not
    /// have any more, or would not know that somebody waits for what they have.
    fn accounts(
        &self,
        nft: &mut dyn Nft,
        replacement: &Replacement,
    ) -> Result<Vec<(Element, Option<Element>)>, NftError> {
        let attachments = sets::attachments();
        let mut losses: std::collections::BTreeMap<&str, u32> = std::collections::BTreeMap::new();
        for (_, element) in replacement.waiting.iter().chain(&replacement.taken) {
            losses.entry(element.owner()).or_default();
        }
        let is_account = |set: &Set| *set == attachments;
        let evicted = self.evicted.iter().filter(|(set, _)| !is_account(set));
        for element in evicted.flat_map(|(_, elements)| elements) {
            *losses.entry(element.owner()).or_default() += 1;
        }
        let mut accounts = Vec::new();
        for (owner, lost) in losses {
            let key = vec![Value::Name(OwnerTag::owner_name_of(owner))];
            // Who shares our digest loses the name altogether.
            if key == owner_key(&replacement.content.tag) {
                continue;
            }
            let held = lookup(nft, &TABLE, &attachments, &[key])?;
            for old in held.into_iter().filter(|element| element.owner() == owner) {
                let Some(account) = Account::of(&old) else { continue };
                let count = account.count.saturating_sub(lost);
                let conflicts = account.conflicts || lost == 0;
                let new = (count > 0).then(|| Account { count, conflicts }.element(owner));
                accounts.push((old, new));
            }
        }
        Ok(accounts)
    }
}

impl Replacement {
    fn tell(&self, wanted: &Content, log: &Log) {
        let (tag, index) = (&wanted.tag, wanted.index());
        for (set, element) in &self.waiting {
            let (mapping, keeper) = (describe(element), element.owner());
            if tag.is_sibling(keeper) {
                log.debug(|| {
                    format!("host port mapping {mapping} stays with {keeper}, the same container")
                });
                continue;
            }
            let own = index.get(&(set.name.as_str(), element.key.as_slice()));
            if let Some(own) = own.and_then(|own| mapping_of(own)) {
                log.warn(conflict::yielded(&(own, keeper.to_owned()), tag));
            }
        }
        for (_, element) in &self.taken {
            log.warn(format!(
                "host port mapping {} of attachment {} was taken over by {tag}, the newest owner, and waits",
                describe(element),
                element.owner()
            ));
        }
        for element in &self.evicted {
            if let Some(mapping) = mapping_of(element) {
                log.warn(conflict::evicted(&mapping, element.owner(), tag));
            }
        }
        owned::tell(&self.heirs, log);
    }
}
