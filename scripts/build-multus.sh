#!/usr/bin/env bash
# Builds Multus, whose calls a deploy test compares with the replayed ones, from its Go module. Cold about five minutes,
# with Go's build cache some seconds, up to date in a blink. Output: build/multus/bin. Exit code 75: this machine lacks
# something for it.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lack.sh

PATH="$PATH:/usr/local/go/bin"
command -v go >/dev/null ||
  lack multus 'Go is missing: install Go 1.24 or newer (it is needed for the deploy tests only)'

out="$PWD/build/multus/bin"
mkdir -p "$out"
stamp="$(cat test/deploy/multus/go.mod scripts/build-multus.sh | sha256sum | cut -d' ' -f1) $(go version)"
[ "$(cat "$out/.stamp" 2>/dev/null)" = "$stamp" ] && exit 0

printf '\033[1m[multus]\033[0m building Multus 4.2.3\n'
cd test/deploy/multus
CGO_ENABLED=0 go build -o "$out/multus" -ldflags '-s -w' gopkg.in/k8snetworkplumbingwg/multus-cni.v4/cmd/multus || {
  ! go_modules_lack || lack multus 'its Go modules cannot be downloaded'
  printf "[multus] it does not build: Go's words are above\n" >&2
  exit 1
}
printf '%s\n' "$stamp" >"$out/.stamp"
