#!/usr/bin/env bash
# Builds the addon to build/native/virtio_user.node; a blink when nothing changed.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build/native
if ! { cmake -S native -B build/native -G Ninja && ninja -C build/native -j "${JOBS:-2}"; } >build/native/build.log 2>&1; then
  grep -E 'error|Error' -A 3 build/native/build.log | head -n 40 >&2
  echo "[native] the addon does not build: see build/native/build.log" >&2
  exit 1
fi
