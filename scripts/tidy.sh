#!/usr/bin/env bash
# clang-tidy over native/core, the code of ours that reads what others write to shared memory (.clang-tidy says which
# checks). native/bind is the compiler's alone: napi.h would take most of the time. What passed is not looked at again
# until it, a header or the checks change.
set -euo pipefail
cd "$(dirname "$0")/.."

passed=build/tidy
mkdir -p "$passed"
common=$(cat .clang-tidy scripts/tidy.sh native/core/*.h | sha256sum)

pending=()
for source in native/core/*.cc; do
  stamp=$(printf '%s' "$common" | cat - "$source" | sha256sum | cut -d' ' -f1)
  [ "$(cat "$passed/$(basename "$source")" 2>/dev/null)" = "$stamp" ] || pending+=("$source" "$stamp")
done
[ "${#pending[@]}" -gt 0 ] || exit 0

# "N warnings generated" of system headers goes to stderr whatever is said: shown only with a finding.
printf '%s\n' "${pending[@]}" | xargs -P "$(nproc)" -n 2 bash -c '
  said=$(clang-tidy-14 --quiet "$1" -- -std=c++20 -Inative/core 2>&1) || { printf "%s\n" "$said" >&2; exit 1; }
  printf "%s\n" "$2" >"$0/$(basename "$1")"' "$passed"
