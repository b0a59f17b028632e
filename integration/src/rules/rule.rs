//! What one rule makes of a packet.

use cni_common::kernel::attributes::{Attributes, list};
use cni_common::kernel::nft::Found;

use super::packet::{Packet, STATE_NEW, STATUS_DST_NAT};
use super::registers::Registers;
use super::verdict;
use super::xtables;

/// What a rule does with a packet that is as its conditions want it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing that decides: the next rule follows.
    Next,
    Accept,
    Drop,
    /// Gives it another destination, which ends the way through this hook's translations.
    Translate,
    Jump(String),
    Goto(String),
    Return,
}

/// What it does with this packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) verdict: Verdict,
    /// Whether a condition is not understood, so that it may do nothing.
    pub(super) is_possible_only: bool,
}

/// A set that cannot be asked so.
#[derive(Debug)]
pub(super) struct Unreadable;

/// Looks a key up in a set; an error is a set that cannot be asked so.
pub(super) type Lookup<'a> = &'a mut dyn FnMut(&str, &[u8]) -> Result<Option<Found>, Unreadable>;

// enum nft_list_attributes, nft_expr_attributes, nft_data_attributes
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

/// Runs a rule's expressions. Malformed ones are conditions that are not understood.
pub(super) fn run(expressions: &[u8], packet: &Packet, lookup: Lookup<'_>) -> Outcome {
    let mut run = Run { packet, registers: Registers::default(), is_possible_only: false };
    let mut verdict = Verdict::Next;
    for (_, expression) in list(expressions).unwrap_or_default() {
        match run.expression(expression, lookup) {
            Some(Effect::Goes) => {}
            Some(Effect::Differs) => return run.outcome(Verdict::Next),
            Some(Effect::Decides(decided)) => {
                verdict = decided;
                break;
            }
            None => run.is_possible_only = true,
        }
    }
    run.outcome(verdict)
}

/// What an expression does.
enum Effect {
    Goes,
    /// The packet is not as the rule wants it.
    Differs,
    Decides(Verdict),
}

impl Effect {
    fn of_condition(holds: bool) -> Self {
        if holds { Self::Goes } else { Self::Differs }
    }

    fn of_verdict(verdict: Verdict) -> Self {
        if verdict == Verdict::Next { Self::Goes } else { Self::Decides(verdict) }
    }
}

struct Run<'a> {
    packet: &'a Packet,
    registers: Registers,
    is_possible_only: bool,
}

impl Run<'_> {
    fn outcome(&self, verdict: Verdict) -> Outcome {
        let is_possible_only = self.is_possible_only && verdict != Verdict::Next;
        Outcome { verdict, is_possible_only }
    }

    /// `None` where one cannot tell.
    fn expression(&mut self, expression: &[u8], lookup: Lookup<'_>) -> Option<Effect> {
        let expression = Attributes::parse(expression)?;
        let name = expression.text(EXPR_NAME)?;
        let data = expression.nested(EXPR_DATA).unwrap_or_default();
        match name.as_str() {
            "payload" => self.payload(&data),
            "meta" => self.meta(&data),
            "ct" => self.connection(&data),
            "fib" => self.fib(&data),
            "bitwise" => self.bitwise(&data),
            "cmp" => self.compare(&data),
            "lookup" => self.look_up(&data, lookup),
            "immediate" => self.immediate(&data),
            "match" => {
                const NAME: u16 = 1;
                const INFO: u16 = 3;
                let holds = xtables::matches(&data.text(NAME)?, data.get(INFO)?, self.packet)?;
                Some(Effect::of_condition(holds))
            }
            "target" => Some(target(&data.text(1)?)),
            "nat" => {
                const TYPE: u16 = 1;
                const DNAT: u32 = 1;
                let is_dnat = data.be32(TYPE)? == DNAT;
                Some(if is_dnat { Effect::Decides(Verdict::Translate) } else { Effect::Goes })
            }
            "redir" | "tproxy" => Some(Effect::Decides(Verdict::Translate)),
            "reject" => Some(Effect::Decides(Verdict::Drop)),
            "counter" | "log" | "notrack" | "masq" | "last" | "flow_offload" => Some(Effect::Goes),
            _ => None,
        }
    }

    fn payload(&mut self, data: &Attributes<'_>) -> Option<Effect> {
        // enum nft_payload_attributes, nft_payload_bases
        const DESTINATION: u16 = 1;
        const BASE: u16 = 2;
        const OFFSET: u16 = 3;
        const LEN: u16 = 4;
        const NETWORK: u32 = 1;
        const TRANSPORT: u32 = 2;
        // Without a destination it writes into the packet.
        let register = data.be32(DESTINATION)?;
        let (base, offset) = (data.be32(BASE)?, data.be32(OFFSET)? as usize);
        let places = offset..offset + data.be32(LEN)? as usize;
        let byte = |at| match base {
            NETWORK => self.packet.network_byte(at),
            TRANSPORT => self.packet.transport_byte(at),
            _ => None,
        };
        let bytes: Vec<Option<u8>> = places.map(byte).collect();
        self.registers.set(register, &bytes);
        Some(Effect::Goes)
    }

    fn meta(&mut self, data: &Attributes<'_>) -> Option<Effect> {
        // enum nft_meta_attributes, nft_meta_keys
        const DESTINATION: u16 = 1;
        const KEY: u16 = 2;
        const SOURCE: u16 = 3;
        const PROTOCOL: u32 = 1;
        const IIFNAME: u32 = 6;
        const OIFNAME: u32 = 7;
        const NFPROTO: u32 = 15;
        const L4PROTO: u32 = 16;
        // <linux/netfilter.h>
        const NFPROTO_IPV4: u8 = 2;
        const NFPROTO_IPV6: u8 = 10;
        if data.get(SOURCE).is_some() {
            // It sets a mark or the like.
            return Some(Effect::Goes);
        }
        let is_v4 = self.packet.version().is_v4();
        let bytes: Vec<Option<u8>> = match data.be32(KEY)? {
            PROTOCOL => known(if is_v4 { &[0x08, 0x00] } else { &[0x86, 0xdd] }),
            NFPROTO => known(&[if is_v4 { NFPROTO_IPV4 } else { NFPROTO_IPV6 }]),
            L4PROTO => known(&[self.packet.protocol.number()]),
            IIFNAME => name(self.packet.input.as_deref()),
            OIFNAME => name(self.packet.output.as_deref()),
            _ => vec![None; 16],
        };
        self.registers.set(data.be32(DESTINATION)?, &bytes);
        Some(Effect::Goes)
    }

    fn connection(&mut self, data: &Attributes<'_>) -> Option<Effect> {
        // enum nft_ct_attributes, nft_ct_keys
        const DESTINATION: u16 = 1;
        const KEY: u16 = 2;
        const SOURCE: u16 = 4;
        const STATE: u32 = 0;
        const STATUS: u32 = 2;
        if data.get(SOURCE).is_some() {
            return Some(Effect::Goes);
        }
        let status = if self.packet.is_dnat { STATUS_DST_NAT } else { 0 };
        let bytes = match data.be32(KEY)? {
            STATE => known(&STATE_NEW.to_ne_bytes()),
            STATUS => known(&status.to_ne_bytes()),
            _ => vec![None; 16],
        };
        self.registers.set(data.be32(DESTINATION)?, &bytes);
        Some(Effect::Goes)
    }

    fn fib(&mut self, data: &Attributes<'_>) -> Option<Effect> {
        // enum nft_fib_attributes, nft_fib_result, nft_fib_flags
        const DESTINATION: u16 = 1;
        const RESULT: u16 = 2;
        const FLAGS: u16 = 3;
        const ADDRTYPE: u32 = 3;
        const BY_DESTINATION: u32 = 2;
        const RTN_LOCAL: u32 = 2;
        let asks = (data.be32(RESULT)?, data.be32(FLAGS)?);
        let bytes = if asks == (ADDRTYPE, BY_DESTINATION) && self.packet.is_local {
            known(&RTN_LOCAL.to_ne_bytes())
        } else if asks == (ADDRTYPE, BY_DESTINATION) {
            // Of another type, but of which? RTN_UNICAST fits what is routed on.
            known(&1_u32.to_ne_bytes())
        } else {
            vec![None; 16]
        };
        self.registers.set(data.be32(DESTINATION)?, &bytes);
        Some(Effect::Goes)
    }

    fn bitwise(&mut self, data: &Attributes<'_>) -> Option<Effect> {
        // enum nft_bitwise_attributes
        const SOURCE: u16 = 1;
        const DESTINATION: u16 = 2;
        const LEN: u16 = 3;
        const MASK: u16 = 4;
        const XOR: u16 = 5;
        let (source, destination) = (data.be32(SOURCE)?, data.be32(DESTINATION)?);
        let len = data.be32(LEN)? as usize;
        let constant = |kind| data.nested(kind)?.get(DATA_VALUE);
        let bytes = match (constant(MASK), constant(XOR)) {
            (Some(mask), Some(xor)) => {
                let one = |((byte, mask), xor): ((Option<u8>, &u8), &u8)| match mask {
                    0 => Some(*xor),
                    _ => Some((byte? & mask) ^ xor),
                };
                let bytes = self.registers.get(source, len).into_iter();
                bytes.zip(mask).zip(xor).map(one).collect()
            }
            // A shift.
            _ => vec![None; len],
        };
        self.registers.set(destination, &bytes);
        Some(Effect::Goes)
    }

    fn compare(&mut self, data: &Attributes<'_>) -> Option<Effect> {
        // enum nft_cmp_attributes, nft_cmp_ops
        const SOURCE: u16 = 1;
        const OPERATOR: u16 = 2;
        const DATA: u16 = 3;
        let constants = data.nested(DATA)?;
        let constant = constants.get(DATA_VALUE)?;
        let source = data.be32(SOURCE)?;
        let operator = data.be32(OPERATOR)?;
        let bytes = self.registers.get(source, constant.len());
        // One byte that is known to differ is enough.
        let differs =
            bytes.iter().zip(constant).any(|(byte, want)| byte.is_some_and(|b| b != *want));
        let is_known = bytes.iter().all(Option::is_some);
        let order = self
            .registers
            .known(source, constant.len())
            .map(|bytes| bytes.as_slice().cmp(constant));
        Some(Effect::of_condition(match operator {
            0 if differs => false,
            1 if differs => true,
            0 if is_known => true,
            1 if is_known => false,
            2 => order?.is_lt(),
            3 => order?.is_le(),
            4 => order?.is_gt(),
            5 => order?.is_ge(),
            _ => return None,
        }))
    }

    fn look_up(&mut self, data: &Attributes<'_>, lookup: Lookup<'_>) -> Option<Effect> {
        // enum nft_lookup_attributes
        const SET: u16 = 1;
        const SOURCE: u16 = 2;
        const DESTINATION: u16 = 3;
        const FLAGS: u16 = 5;
        let set = data.text(SET)?;
        let inverted = data.be32(FLAGS).unwrap_or_default() & 1 != 0;
        let found = self.find(data.be32(SOURCE)?, &set, lookup).ok()?;
        let destination = data.be32(DESTINATION);
        match (found, destination) {
            (Some(Found::Verdict(verdict)), _) => Some(decision(&Attributes::parse(&verdict)?)?)
                .map(|verdict| match verdict {
                    Verdict::Next => Effect::Goes,
                    verdict => Effect::Decides(verdict),
                }),
            (Some(Found::Value(value)), Some(register)) => {
                self.registers.set(register, &known(&value));
                Some(Effect::Goes)
            }
            (found, _) => Some(Effect::of_condition(found.is_some() != inverted)),
        }
    }

    /// Keys are of as many bytes as the set says, which only the set knows: the kernel refuses others.
    fn find(
        &self,
        register: u32,
        set: &str,
        lookup: Lookup<'_>,
    ) -> Result<Option<Found>, Unreadable> {
        const LONGEST: usize = 64;
        let lengths = [1, 2].into_iter().chain((4..=LONGEST).step_by(4));
        for len in lengths {
            let Some(key) = self.registers.known(register, len) else { break };
            if let Ok(found) = lookup(set, &key) {
                return Ok(found);
            }
        }
        Err(Unreadable)
    }

    fn immediate(&mut self, data: &Attributes<'_>) -> Option<Effect> {
        // enum nft_immediate_attributes
        const DESTINATION: u16 = 1;
        const DATA: u16 = 2;
        let constant = data.nested(DATA)?;
        if let Some(verdict) = constant.nested(DATA_VERDICT) {
            return Some(Effect::of_verdict(decision(&verdict)?));
        }
        let value = known(constant.get(DATA_VALUE)?);
        self.registers.set(data.be32(DESTINATION)?, &value);
        Some(Effect::Goes)
    }
}

/// A verdict that can be followed.
fn decision(parts: &Attributes<'_>) -> Option<Verdict> {
    Some(match verdict::Verdict::read(parts)? {
        verdict::Verdict::Accept => Verdict::Accept,
        verdict::Verdict::Drop => Verdict::Drop,
        verdict::Verdict::Continue => Verdict::Next,
        verdict::Verdict::Return => Verdict::Return,
        verdict::Verdict::Jump(chain) => Verdict::Jump(chain),
        verdict::Verdict::Goto(chain) => Verdict::Goto(chain),
        verdict::Verdict::Other => return None,
    })
}

/// A target of iptables.
fn target(name: &str) -> Effect {
    match name {
        "DNAT" | "REDIRECT" | "TPROXY" => Effect::Decides(Verdict::Translate),
        "REJECT" | "DROP" => Effect::Decides(Verdict::Drop),
        _ => Effect::Goes,
    }
}

fn known(bytes: &[u8]) -> Vec<Option<u8>> {
    bytes.iter().copied().map(Some).collect()
}

/// An interface's name as it stands in a register.
fn name(name: Option<&str>) -> Vec<Option<u8>> {
    const IFNAMSIZ: usize = 16;
    let byte = |at: usize| name.map(|name| name.as_bytes().get(at).copied().unwrap_or(0));
    (0..IFNAMSIZ).map(byte).collect()
}
