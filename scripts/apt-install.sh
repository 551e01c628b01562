#!/usr/bin/env bash
# Installs those Debian packages that are missing, without letting them start their services: this machine's daemons are
# none of our business. Exit code 75: they cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lack.sh
missing=()
for package in "$@"; do
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ "${#missing[@]}" -gt 0 ] || exit 0
printf '\033[1m[packages]\033[0m installing %s\n' "${missing[*]}"
mkdir -p build

guard=/usr/sbin/policy-rc.d
if [ ! -e "$guard" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$guard" && chmod 755 "$guard"
  trap 'rm -f "$guard"' EXIT
fi
install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >build/apt.log 2>&1; }

install "${missing[@]}" && exit 0
apt-get update -q >build/apt-update.log 2>&1 || { tail -n 5 build/apt-update.log >&2; lack packages 'apt-get update failed'; }
install --download-only "${missing[@]}" || { tail -n 20 build/apt.log >&2; lack packages "cannot be had: ${missing[*]}"; }
install "${missing[@]}" || { tail -n 20 build/apt.log >&2; exit 1; }
