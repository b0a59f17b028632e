//! `CNI_NETNS`: is it there, is it a network namespace, and is it not the plugin's own.

use std::path::Path;

use super::failure::code_of;
use super::protocol::{CniError, ErrorCode};
use crate::kernel::netns::Netns;

/// Judges `CNI_NETNS` before anything is changed.
///
/// `required` namespaces (ADD, CHECK) must exist. Unless `same_allowed`, the namespace must not
/// be the plugin's own: the rules would then be made for the host itself.
pub fn validate(path: &str, required: bool, same_allowed: bool) -> Result<(), CniError> {
    let netns = match Netns::open(Path::new(path)) {
        Ok(netns) => netns,
        Err(_) if !required => return Ok(()),
        Err(error) => {
            let code = code_of(&error, ErrorCode::InvalidNetns);
            let message = if code == ErrorCode::TryAgainLater {
                format!("cannot open CNI_NETNS {path:?}: try again later")
            } else {
                format!(
                    "CNI_NETNS {path:?} is not a network namespace: is the container still running?"
                )
            };
            return Err(CniError::new(code, message).with_details(error.to_string()));
        }
    };
    if same_allowed {
        return Ok(());
    }
    let own = Netns::own().map_err(|error| {
        CniError::new(
            code_of(&error, ErrorCode::InvalidNetns),
            "cannot open the plugin's own network namespace; is /proc mounted?",
        )
        .with_details(error.to_string())
    })?;
    if netns.is(&own) {
        return Err(CniError::new(
            ErrorCode::InvalidNetns,
            "plugin's netns and netns from CNI_NETNS should not be the same",
        )
        .with_details(path));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_is_refused_where_that_matters() {
        let error = validate("/proc/self/ns/net", true, false).expect_err("same");
        assert_eq!(error.code, ErrorCode::InvalidNetns);
        assert!(validate("/proc/self/ns/net", true, true).is_ok());
    }

    #[test]
    fn what_is_no_namespace() {
        for path in ["/", "/etc/passwd", "/does/not/exist", "", "relative", "/proc/self/ns/uts"] {
            assert!(validate(path, true, false).is_err(), "{path}");
            assert!(validate(path, false, false).is_ok(), "{path}");
        }
    }
}
