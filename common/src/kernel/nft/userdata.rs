//! nftables' user data: type, length, value (libnftnl's udata.h). Type 0 is a comment on tables,
//! rules and elements.

const COMMENT: u8 = 0;

/// A comment, NUL-terminated as nft writes it.
pub(super) fn comment(text: &str) -> Vec<u8> {
    tlv(COMMENT, &[text.as_bytes(), &[0]].concat())
}

/// One piece of user data.
pub(super) fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, u8::try_from(value.len()).unwrap_or(u8::MAX)];
    bytes.extend(&value[..value.len().min(255)]);
    bytes
}

/// The comment in user data, if it has one.
pub(super) fn read_comment(mut bytes: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = bytes {
        let (value, tail) = rest.split_at_checked(usize::from(*length))?;
        if *kind == COMMENT {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        bytes = tail;
    }
    None
}
