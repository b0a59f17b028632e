#!/usr/bin/env bash
# Time and system calls of single calls of portmap, by how many mappings other containers have.
# Everything happens in a network namespace that dies with the script.
#
#   deploy/bench.sh PORTMAP [CALLS]
set -euo pipefail

plugin=$(readlink -f "${1:?usage: bench.sh PORTMAP [CALLS]}")
calls=${2:-50}
if [ "${IN_BOX:-}" != 1 ]; then
    exec env IN_BOX=1 unshare --net --mount --pid --fork --kill-child --mount-proc \
        --propagation private "$(readlink -f "$0")" "$plugin" "$calls"
fi
mount -t tmpfs tmpfs /run
mkdir /run/netns
ip link set lo up
ip netns add c
ip link add cni0 type bridge
ip addr add 10.88.0.1/16 dev cni0
ip link set cni0 up

export CNI_IFNAME=eth0 CNI_NETNS=/run/netns/c CNI_PATH=/nowhere
request() { # ADDRESS MAPPINGS
    cat <<END
{"cniVersion":"1.0.0","name":"bench","type":"portmap","runtimeConfig":{"portMappings":[$2]},
"prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/run/netns/c"}],
"ips":[{"address":"$1/16","interface":0}]}}
END
}
mapping() { printf '{"hostPort":%d,"containerPort":80,"protocol":"tcp"}' "$1"; }
call() { CNI_COMMAND=$1 CNI_CONTAINERID=$2 "$plugin" </run/request >/run/result; }
now() { date +%s%N; }

# One ADD with N mappings stands for N containers: the maps are what grows.
fill() {
    local list port
    list=$(mapping 20001)
    for ((port = 20002; port <= 20000 + $1; port++)); do
        list+=,$(mapping "$port")
    done
    request 10.88.0.9 "$list" >/run/request
    call ADD others
}

report() { # NAME OTHERS NANOSECONDS SYSCALLS
    printf '%-6s %7d %10.3f ms %8d\n' "$1" "$2" "$(awk "BEGIN {print $3 / $calls / 1e6}")" "$4"
}
syscalls() { # COMMAND
    CNI_COMMAND=$1 CNI_CONTAINERID=one strace -f -c -o /run/strace "$plugin" </run/request >/run/result
    awk '$NF == "total" {print $4}' /run/strace
}

printf '%-6s %7s %13s %8s\n' call others "time" syscalls
for others in 0 1000 10000; do
    [ "$others" = 0 ] || fill "$others"
    request 10.88.0.2 "$(mapping 8080)" >/run/request
    declare -A spent=([ADD]=0 [CHECK]=0 [DEL]=0)
    call ADD one # the table is there from now on
    call DEL one
    for ((i = 0; i < calls; i++)); do
        for command in ADD CHECK DEL; do
            start=$(now)
            call "$command" one
            spent[$command]=$((spent[$command] + $(now) - start))
        done
    done
    for command in ADD CHECK DEL; do
        report "$command" "$others" "${spent[$command]}" "$(syscalls "$command")"
    done
    if [ "$others" != 0 ]; then
        echo '{"cniVersion":"1.0.0","name":"bench","type":"portmap"}' >/run/request
        call DEL others
    fi
done
echo "$calls calls each; the time includes starting the process, about what /bin/true takes here:"
start=$(now)
for ((i = 0; i < calls; i++)); do /bin/true </run/request >/run/result; done
report true 0 $(($(now) - start)) 0
