#!/usr/bin/env bash
# Builds Multus, whose calls a deploy test compares with the replayed ones, from its Go module. Cold about five minutes,
# with Go's build cache some seconds, up to date in a blink. Output: build/multus/bin.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v go >/dev/null || {
  printf '[multus] Go is missing: install Go 1.24 or newer (it is needed for the deploy tests only)\n' >&2
  exit 1
}

out="$PWD/build/multus/bin"
mkdir -p "$out"
stamp="$(cat test/deploy/multus/go.mod scripts/build-multus.sh | sha256sum | cut -d' ' -f1) $(go version)"
[ "$(cat "$out/.stamp" 2>/dev/null)" = "$stamp" ] && exit 0

printf '\033[1m[multus]\033[0m building Multus 4.2.3\n'
(cd test/deploy/multus && CGO_ENABLED=0 go build -o "$out/multus" -ldflags '-s -w' \
  gopkg.in/k8snetworkplumbingwg/multus-cni.v4/cmd/multus)
printf '%s\n' "$stamp" >"$out/.stamp"
