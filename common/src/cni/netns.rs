//! `CNI_NETNS`: is it there, is it a network namespace, and is it not the plugin's own; work inside it.

use std::io;
use std::path::Path;
use std::sync::OnceLock;

use super::failure::{code_of, of_io};
use super::protocol::{CniError, ErrorCode};
use crate::kernel::netns::Netns;

/// The network namespace that a call is made in: the host's. The kernel is asked for it once, when somebody first
/// wants to know.
#[derive(Debug)]
pub struct OwnNetns {
    netns: OnceLock<Netns>,
    may_leave: bool,
}

impl OwnNetns {
    /// Of a process that makes one call and ends.
    #[must_use]
    pub fn of_one_call() -> Self {
        Self { netns: OnceLock::new(), may_leave: true }
    }

    /// Of a process that goes on after the call.
    #[must_use]
    pub fn of_lasting_process() -> Self {
        Self { netns: OnceLock::new(), may_leave: false }
    }

    /// Whether `netns` is this one.
    pub fn is(&self, netns: &Netns) -> Result<bool, CniError> {
        let own = self.get().map_err(|error| {
            let what = "cannot open the plugin's own network namespace";
            of_io(&error, ErrorCode::InvalidNetns, what, "is /proc mounted?")
        })?;
        Ok(own.is(netns))
    }

    /// Runs `work` inside `netns`. Who makes one call stays there: a thread would take as long as all the rest, and the
    /// way back may fail when everything is done.
    pub fn work_inside<T: Send>(
        &self,
        netns: &Netns,
        work: impl FnOnce() -> T + Send,
    ) -> io::Result<T> {
        if !self.may_leave {
            return netns.run(work);
        }
        // Inside, nobody could tell any more.
        self.get()?;
        netns.enter()?;
        Ok(work())
    }

    fn get(&self) -> io::Result<&Netns> {
        if let Some(own) = self.netns.get() {
            return Ok(own);
        }
        let own = Netns::own()?;
        Ok(self.netns.get_or_init(|| own))
    }
}

/// Judges `CNI_NETNS` before anything is changed.
///
/// `required` namespaces (ADD, CHECK) must exist. Unless `same_allowed`, the namespace must not
/// be the plugin's own: the rules would then be made for the host itself.
pub fn validate(
    path: &str,
    own: &OwnNetns,
    required: bool,
    same_allowed: bool,
) -> Result<(), CniError> {
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
    if !same_allowed && own.is(&netns)? {
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

    const OWN: &str = "/proc/self/ns/net";

    #[test]
    fn the_own_namespace_is_refused_where_that_matters() {
        let error = validate(OWN, &OwnNetns::of_one_call(), true, false).expect_err("same");
        assert_eq!(error.code, ErrorCode::InvalidNetns);
        assert!(validate(OWN, &OwnNetns::of_one_call(), true, true).is_ok());
    }

    #[test]
    fn who_makes_one_call_stays_inside_and_knows_where_it_came_from() {
        let container = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
            Netns::own().expect("of the thread")
        });
        let container = container.join().expect("a namespace");
        for (own, stays) in
            [(OwnNetns::of_lasting_process(), false), (OwnNetns::of_one_call(), true)]
        {
            let inside = own.work_inside(&container, || Netns::own().expect("inside"));
            assert!(inside.expect("root").is(&container));
            assert_eq!(Netns::own().expect("afterwards").is(&container), stays);
            assert!(!own.is(&container).expect("open"));
        }
    }

    #[test]
    fn what_is_no_namespace() {
        for path in ["/", "/etc/passwd", "/does/not/exist", "", "relative", "/proc/self/ns/uts"] {
            assert!(validate(path, &OwnNetns::of_one_call(), true, false).is_err(), "{path}");
            assert!(validate(path, &OwnNetns::of_one_call(), false, false).is_ok(), "{path}");
        }
    }
}
