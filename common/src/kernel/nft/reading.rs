//! What a rule means that another program wrote, as far as one can tell without knowing how that
//! program's version puts it into expressions.

use super::InstalledRule;
use crate::kernel::attributes::list as attributes;

/// The constants and the outcome of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Everything that packets are compared with, in order and without gaps: some versions of nft
    /// compare neighbouring fields in one go.
    pub compared: Vec<u8>,
    /// Constants that are put into registers, such as the address and the port of a translation.
    pub loaded: Vec<Vec<u8>>,
    /// The chains that the rule leads to.
    pub targets: Vec<String>,
    /// The last expression's name, for instance `nat`.
    pub outcome: String,
}

impl InstalledRule {
    /// Reads the rule; `None` if it holds something malformed, or a comparison for anything but
    /// equality.
    #[must_use]
    pub fn reading(&self) -> Option<Reading> {
        const NAME: u16 = 1;
        const DATA: u16 = 2;
        let mut reading = Reading::default();
        for (_, expression) in attributes(&self.expressions)? {
            let parts = attributes(expression)?;
            let name = text(find(&parts, NAME)?);
            let data = attributes(find(&parts, DATA).unwrap_or_default())?;
            match name.as_str() {
                "cmp" => reading.compared.extend(equal_to(&data)?),
                "immediate" => reading.immediate(&data)?,
                _ => {}
            }
            reading.outcome = name;
        }
        Some(reading)
    }
}

impl InstalledRule {
    /// The chains that the rule leads to, whatever packets must be like.
    #[must_use]
    pub fn targets(&self) -> Vec<String> {
        const NAME: u16 = 1;
        const DATA: u16 = 2;
        let mut reading = Reading::default();
        let expressions = attributes(&self.expressions).unwrap_or_default();
        for parts in expressions.into_iter().filter_map(|(_, expression)| attributes(expression)) {
            let data = find(&parts, DATA).and_then(attributes);
            if let (Some(b"immediate\0"), Some(data)) = (find(&parts, NAME), data) {
                // What is malformed leads nowhere.
                let _ = reading.immediate(&data);
            }
        }
        reading.targets
    }
}

impl Reading {
    fn immediate(&mut self, data: &[(u16, &[u8])]) -> Option<()> {
        const DATA: u16 = 2;
        const VALUE: u16 = 1;
        const VERDICT: u16 = 2;
        const CHAIN: u16 = 2;
        let nested = attributes(find(data, DATA)?)?;
        self.loaded.extend(find(&nested, VALUE).map(<[u8]>::to_vec));
        let verdict = attributes(find(&nested, VERDICT).unwrap_or_default())?;
        self.targets.extend(find(&verdict, CHAIN).map(text));
        Some(())
    }
}

/// The value of a comparison for equality.
fn equal_to<'a>(data: &[(u16, &'a [u8])]) -> Option<&'a [u8]> {
    const OPERATOR: u16 = 2;
    const DATA: u16 = 3;
    const VALUE: u16 = 1;
    const EQUAL: [u8; 4] = [0; 4];
    if find(data, OPERATOR)? != EQUAL {
        return None;
    }
    find(&attributes(find(data, DATA)?)?, VALUE)
}

fn find<'a>(list: &[(u16, &'a [u8])], kind: u16) -> Option<&'a [u8]> {
    list.iter().find(|(k, _)| *k == kind).map(|(_, value)| *value)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::nft::expressions::rule_expressions;
    use crate::kernel::nft::{Family, Operand, Rule, Selector, Statement};

    fn read(statements: Vec<Statement>) -> Option<Reading> {
        let rule = Rule { chain: "c".to_owned(), statements, comment: None };
        let expressions = rule_expressions(Family::Ip, &rule);
        InstalledRule { chain: rule.chain, handle: 1, expressions, comment: None }.reading()
    }

    fn matching(negated: bool) -> Statement {
        let operand = Operand::Network("10.0.0.2/32".parse().expect("a network"));
        Statement::Match { selector: Selector::Ip4Source, negated, operand }
    }

    #[test]
    fn constants_targets_and_outcome() {
        let reading = read(vec![matching(false), Statement::Masquerade]).expect("readable");
        assert!(reading.compared.ends_with(&[10, 0, 0, 2]), "{reading:?}");
        assert_eq!(reading.outcome, "masq");
        let reading = read(vec![Statement::Jump("there".to_owned())]).expect("readable");
        assert_eq!(reading.targets, ["there"]);
        assert!(reading.loaded.is_empty());
    }

    #[test]
    fn what_is_compared_otherwise_is_not_understood() {
        assert_eq!(read(vec![matching(true), Statement::Accept]), None);
    }

    #[test]
    fn a_jump_is_one_whatever_it_asks_for() {
        let jump = Statement::Jump("there".to_owned());
        for statements in [vec![jump.clone()], vec![matching(true), jump]] {
            let rule = Rule { chain: "c".to_owned(), statements, comment: None };
            let expressions = rule_expressions(Family::Ip, &rule);
            let rule = InstalledRule { chain: rule.chain, handle: 1, expressions, comment: None };
            assert_eq!(rule.targets(), ["there"]);
        }
    }
}
