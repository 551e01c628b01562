#!/usr/bin/env bash
# Builds what the cluster tests run and Debian does not package: Kubernetes, containerd 2, helm, crictl, from their Go
# modules. Cold about ten minutes, with Go's build cache half a minute, up to date in a blink. Output: build/cluster/bin.
# Exit code 75: this machine lacks something for it.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lack.sh

say() { printf '\033[1m[cluster]\033[0m %s\n' "$*"; }
fail() { printf '[cluster] %s\n' "$*" >&2; exit 1; }

# Needed by these tests alone, and Debian 12's is too old.
needed=1.24
remedy="install Go $needed or newer (https://go.dev/dl: unpack it to /usr/local/go, add /usr/local/go/bin to PATH), then run this again"
PATH="$PATH:/usr/local/go/bin"
command -v go >/dev/null || lack cluster "Go is missing, and the cluster is built from its Go modules: $remedy"
version=$(go env GOVERSION)
[ "$(printf '%s\n' "$needed" "${version#go}" | sort -V | head -n 1)" = "$needed" ] ||
  lack cluster "Go is ${version#go}: $remedy"

# The nodes share the machine's cgroup hierarchies, which version 2 does not allow with controllers.
[ "$(stat -fc %T /sys/fs/cgroup)" = tmpfs ] ||
  lack cluster "these tests need cgroup version 1: boot with systemd.unified_cgroup_hierarchy=0, then run this again"

packages=(etcd-server containerd runc busybox-static buildah mmdebstrap openssl)
bash scripts/apt-install.sh "${packages[@]}"

out="$PWD/build/cluster/bin"
mkdir -p "$out"
exec 9>"$out/.lock"
flock 9
export CGO_ENABLED=0

# One part of test/cluster/binaries, unless it is built from the same source already.
part() { # name, function that builds it
  local stamp
  stamp="$(cat "test/cluster/binaries/$1"/* | sha256sum | cut -d' ' -f1) $version $(declare -f "$2" | sha256sum | cut -d' ' -f1)"
  [ "$(cat "$out/.stamp-$1" 2>/dev/null)" != "$stamp" ] || return 0
  say "building $1"
  rm -f "$out/.stamp-$1"
  if ! (cd "test/cluster/binaries/$1" && "$2"); then
    ! (cd "test/cluster/binaries/$1" && go_modules_lack) || lack cluster "$1: its Go modules cannot be downloaded"
    fail "$1 does not build: Go's words are above"
  fi
  printf '%s\n' "$stamp" >"$out/.stamp-$1"
}

kubernetes() {
  local component=k8s.io/component-base/version name
  go build -o "$out/kubernetes" \
    -ldflags "-s -w -X $component.gitVersion=v1.34.4 -X $component.gitMajor=1 -X $component.gitMinor=34" . || return
  for name in kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl; do ln -sf kubernetes "$out/$name"; done
}
containerd2() {
  local name
  mkdir -p "$out/containerd2"
  for name in containerd containerd-shim-runc-v2 ctr; do
    go build -tags 'no_btrfs no_devmapper no_zfs' -o "$out/containerd2/$name" \
      -ldflags '-s -w -X github.com/containerd/containerd/v2/version.Version=2.1.4' \
      "github.com/containerd/containerd/v2/cmd/$name" || return
  done
}
helm() { go build -o "$out/helm" -ldflags '-s -w' helm.sh/helm/v3/cmd/helm; }
crictl() { go build -o "$out/crictl" -ldflags '-s -w' sigs.k8s.io/cri-tools/cmd/crictl; }

part kubernetes kubernetes
part containerd containerd2
part helm helm
part cri-tools crictl
