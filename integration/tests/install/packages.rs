//! Files that belong to a package of the host.

use std::fs;
use std::path::Path;

use cni_testbox::{GO_PLUGINS, bare_cases, sh};

use crate::host::{fails, files, succeeds};

bare_cases! {
    what_dpkg_installed_is_refused;
    what_rpm_installed_is_refused;
}

fn what_dpkg_installed_is_refused() {
    // Debian's package, in a directory that can be written for once.
    sh(&format!("cp -a {GO_PLUGINS} /run/copy && mount --bind /run/copy {GO_PLUGINS}"));
    let before = files(GO_PLUGINS);
    for dry in [&["--dry-run"][..], &[]] {
        let said = fails(&[&["install"], dry].concat());
        let expected = "/usr/lib/cni/portmap belongs to package containernetworking-plugins";
        assert!(said.contains(expected) && said.contains("--replace-packaged"), "{said}");
        assert_eq!(files(GO_PLUGINS), before);
    }
    succeeds(&["install", "--replace-packaged"]);
    assert!(Path::new(GO_PLUGINS).join("portmap.go-backup").exists());
    succeeds(&["uninstall"]);
    assert_eq!(files(GO_PLUGINS), before);
    sh("dpkg --verify containernetworking-plugins");
    // What is diverted is no longer the package's.
    for name in ["portmap", "tuning"] {
        sh(&format!(
            "dpkg-divert --local --no-rename --divert /usr/lib/cni/{name}.go --add /usr/lib/cni/{name}"
        ));
    }
    succeeds(&["install", "--plugins", "portmap,tuning"]);
}

fn what_rpm_installed_is_refused() {
    const SPEC: &str = "Name: some-plugins\nVersion: 1\nRelease: 1\nSummary: s\nLicense: l\nBuildArch: noarch\n\
        %description\nd\n%install\nmkdir -p %{buildroot}/opt/cni/bin\necho x > %{buildroot}/opt/cni/bin/portmap\n\
        %files\n/opt/cni/bin/portmap\n";
    fs::write("/tmp/some.spec", SPEC).expect("a copy");
    // Debian's rpm has the database of the machine in another place than a host of rpm's kind has.
    sh("rm -rf /var/lib/rpm && mkdir -p /var/lib/rpm && export HOME=/tmp && \
        echo '%_dbpath /var/lib/rpm' > /tmp/.rpmmacros && mkdir -p /etc/rpm && cp /tmp/.rpmmacros /etc/rpm/macros && \
        rpmbuild -bb --quiet --define '_topdir /tmp/rpm' /tmp/some.spec && \
        rpm -i --nodeps /tmp/rpm/RPMS/noarch/some-plugins-1-1.noarch.rpm");
    let before = files("/opt/cni/bin");
    let said = fails(&["install"]);
    assert!(said.contains("/opt/cni/bin/portmap belongs to package some-plugins"), "{said}");
    assert_eq!(files("/opt/cni/bin"), before);
    // rpm does not own the others.
    succeeds(&["install", "--plugins", "tuning"]);
}
