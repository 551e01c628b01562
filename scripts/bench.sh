#!/usr/bin/env bash
# Figures of the README, measured on this machine: about 15 minutes on a quiet one. --quick is a smoke run.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
export PATH="$PWD/node_modules/.bin:$PATH"
exec node --no-warnings test/bench/bench.ts "$@"
