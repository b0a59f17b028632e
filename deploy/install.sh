#!/bin/sh
# Installs cni-chain's plugins into a CNI bin directory, each by an atomic rename: a runtime that
# calls the plugin at this moment gets the old one or the new one, never half of one.
#
# Needs nothing but a POSIX shell and coreutils or busybox.
set -eu

usage() {
    cat <<'END'
usage: install.sh [--from DIR] [--bin-dir DIR] [--plugins "NAME…"]

  --from DIR        where the binaries are [this script's directory, or its parent's
                    target/<triple>/release]
  --bin-dir DIR     where they go [the one of /opt/cni/bin, /usr/lib/cni and
                    /usr/libexec/cni that holds a plugin "portmap", else /opt/cni/bin]
  --plugins "…"     which plugins [portmap bandwidth tuning firewall]

A plugin that is replaced is kept as NAME.go-backup, once, unless it is one of ours.
To go back: mv NAME.go-backup NAME
END
}

die() {
    echo "install.sh: $*" >&2
    exit 1
}

from= bin_dir= plugins='portmap bandwidth tuning firewall'
while [ $# -gt 0 ]; do
    case $1 in
        --from | --bin-dir | --plugins) [ $# -ge 2 ] || die "$1 needs a value" ;;
    esac
    case $1 in
        --from) from=$2 && shift ;;
        --bin-dir) bin_dir=$2 && shift ;;
        --plugins) plugins=$(echo "$2" | tr ',' ' ') && shift ;;
        -h | --help) usage && exit 0 ;;
        *) usage >&2 && exit 2 ;;
    esac
    shift
done

here=$(cd "$(dirname "$0")" && pwd)
if [ -z "$from" ]; then
    for dir in "$here" "$here"/../target/*/release; do
        [ ! -f "$dir/portmap" ] || { from=$dir && break; }
    done
    [ -n "$from" ] || die "no binaries beside this script nor in target/: run './dev release' or use --from"
fi
if [ -z "$bin_dir" ]; then
    bin_dir=/opt/cni/bin
    for dir in /opt/cni/bin /usr/lib/cni /usr/libexec/cni; do
        [ ! -e "$dir/portmap" ] || { bin_dir=$dir && break; }
    done
fi

# Our banner's version starts at 2; the Go plugins are at 1.
is_ours() {
    env -u CNI_COMMAND "$1" </dev/null 2>&1 | grep -q "^CNI $2 plugin v[2-9]"
}

# Everything is checked before anything is changed.
for name in $plugins; do
    case $name in
        portmap | bandwidth | tuning | firewall | cni-chain) ;;
        *) die "no plugin is called $name" ;;
    esac
    [ -f "$from/$name" ] || die "$from/$name is missing"
    [ ! -d "$bin_dir/$name" ] || die "$bin_dir/$name is a directory"
done
mkdir -p "$bin_dir"

for name in $plugins; do
    target=$bin_dir/$name
    backup=$target.go-backup
    # In the target's directory, because a rename cannot cross file systems.
    temporary=$bin_dir/.$name.$$
    trap 'rm -f "$temporary"' EXIT
    cp "$from/$name" "$temporary"
    chmod 0755 "$temporary"
    sync "$temporary" 2>/dev/null || sync
    if [ "$name" != cni-chain ] && [ -e "$target" ] && [ ! -e "$backup" ] && ! is_ours "$target" "$name"; then
        # A hard link: there is no moment without a plugin.
        ln "$target" "$backup" 2>/dev/null || cp -p "$target" "$backup"
        echo "kept $backup"
    fi
    mv -f "$temporary" "$target"
    trap - EXIT
    echo "installed $target"
done
