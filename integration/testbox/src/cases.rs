//! The macro that makes the tests of a case.

/// Makes the tests of each case, `case::ours`, `case::iptables_nft`, `case::iptables_legacy` and
/// `case::go`:
/// - `case;` runs for all;
/// - `case, ours;` runs once, with our plugin and the backend that it chooses;
/// - `case, backends;` uses what only ours has, whatever its backend (GC, STATUS, …);
/// - `case, once;` is of a plugin with one backend, or names it itself: it runs for ours and for Go;
/// - `case, once_defect("why");` is the same with a known defect of the Go plugin;
/// - `case, iptables_only;` uses what only our iptables backend has;
/// - `case, go_defect("why");` is something the Go plugin is known to get wrong. Its test only
///   prints the reason; with `E2E_VERIFY_DEFECTS=1` it demands that the case really fails.
#[macro_export]
macro_rules! cases {
    ($($name:ident $(, $kind:ident $(($reason:literal))?)?;)+) => {
        $(mod $name {
            $crate::cases!(@ours $name $($kind)?);
            $crate::cases!(@go $name $($kind $($reason)?)?);
        })+
    };
    (@ours $name:ident iptables_only) => {};
    (@ours $name:ident $($kind:ident)?) => {
        #[test]
        fn ours() {
            $crate::in_box(
                concat!(module_path!(), "::ours"),
                $crate::Implementation::Ours,
                super::$name,
            );
        }
    };
    (@iptables $name:ident) => {
        #[test]
        fn iptables_nft() {
            $crate::in_box(
                concat!(module_path!(), "::iptables_nft"),
                $crate::Implementation::IptablesNft,
                super::$name,
            );
        }
        #[test]
        fn iptables_legacy() {
            $crate::in_box(
                concat!(module_path!(), "::iptables_legacy"),
                $crate::Implementation::IptablesLegacy,
                super::$name,
            );
        }
    };
    (@go $name:ident) => {
        $crate::cases!(@iptables $name);
        $crate::cases!(@go_alone $name);
    };
    (@go_alone $name:ident) => {
        #[test]
        fn go() {
            $crate::in_box(
                concat!(module_path!(), "::go"),
                $crate::Implementation::Go,
                super::$name,
            );
        }
    };
    (@go $name:ident ours) => {};
    (@go $name:ident once) => {
        $crate::cases!(@go_alone $name);
    };
    (@go $name:ident once_defect $reason:literal) => {
        $crate::cases!(@go_defect_alone $name $reason);
    };
    (@go $name:ident iptables_only) => {
        $crate::cases!(@iptables $name);
    };
    (@go $name:ident backends) => {
        $crate::cases!(@iptables $name);
    };
    (@go $name:ident go_defect $reason:literal) => {
        $crate::cases!(@iptables $name);
        $crate::cases!(@go_defect_alone $name $reason);
    };
    (@go_defect_alone $name:ident $reason:literal) => {
        #[test]
        fn go() {
            $crate::known_defect(
                concat!(module_path!(), "::go"),
                $crate::Implementation::Go,
                super::$name,
                $reason,
            );
        }
    };
}

/// Makes the tests of cases that take no argument and furnish a bare box themselves.
#[macro_export]
macro_rules! bare_cases {
    ($($name:ident;)+) => {
        $(mod $name {
            #[test]
            fn bare() {
                $crate::in_bare_box(concat!(module_path!(), "::bare"), super::$name);
            }
        })+
    };
}
