//! Words as a shell reads them.

use std::borrow::Cow;

/// The text as one word of a command line.
#[must_use]
pub fn word(text: &str) -> Cow<'_, str> {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "_./:=@%+-,".contains(c);
    if !text.is_empty() && text.chars().all(harmless) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("'{}'", text.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_what_was_meant() {
        for text in ["", "eth0", "a b", "it's", "$(reboot)", "`x`", "a\"b\\", "#x", "~", "*", "ä\t"]
        {
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", word(text))])
                .output()
                .expect("sh");
            assert_eq!(String::from_utf8_lossy(&output.stdout), text);
        }
        assert_eq!(word("net/ipv4/ip_forward=1"), "net/ipv4/ip_forward=1");
    }
}
