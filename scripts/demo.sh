#!/usr/bin/env bash
# The main job on real parts. Installs what it needs first.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
export PATH="$PWD/node_modules/.bin:$PATH"
exec node --no-warnings test/demo/demo.ts
