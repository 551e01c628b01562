#!/usr/bin/env bash
# Makes a fresh Debian 12 machine ready for `npm run demo`, `npm test` and `npm run bench`: packages, npm modules, build.
# Safe to repeat; when everything is there it takes well under a second.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1m[setup]\033[0m %s\n' "$*"; }
fail() { printf '[setup] %s\n' "$*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "must run as root: it makes network namespaces and TAPs, reserves hugepages and starts a switch"
[ -c /dev/net/tun ] || fail "/dev/net/tun is missing: load the tun module (modprobe tun)"

packages=(
  openvswitch-switch-dpdk openvswitch-common dpdk-dev containernetworking-plugins dnsmasq-base # the switch, testpmd, IPAM plugins, a DHCP server
  librte-mempool-ring23 librte-net-vhost23 librte-net-virtio23 librte-net-tap23 librte-bus-vdev23 # DPDK loads these by name
  g++ make cmake ninja-build musl-tools libgtest-dev                          # the addon, the executable, native tests
  clang libclang-rt-14-dev clang-format clang-tidy-14                         # sanitizers, fuzzing, format check, lint
  iproute2 iputils-ping iperf3 sockperf ethtool tcpdump strace procps python3 # what the tests drive and observe with
)

bash scripts/apt-install.sh "${packages[@]}" || fail "apt-get could not install them: see build/apt.log"

lock=$(sha256sum package-lock.json | cut -d' ' -f1)
if [ ! -x node_modules/.bin/jest ] || [ "$(cat node_modules/.lock-installed 2>/dev/null)" != "$lock" ]; then
  say "installing npm modules"
  npm ci --no-progress --loglevel=error
  printf '%s\n' "$lock" >node_modules/.lock-installed
fi
export PATH="$PWD/node_modules/.bin:$PATH"

bash scripts/build-native.sh
bash scripts/build.sh
