#!/usr/bin/env bash
# What must hold before anything runs: types, lint, format, direction of dependency. `npm run format` mends the format.
set -uo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/node_modules/.bin:$PATH"

failed=0
step() { # name, command…
  local name=$1
  shift
  printf '\033[1m[check]\033[0m %s\n' "$name"
  "$@" || { failed=1; printf '[check] %s: FAILED\n' "$name" >&2; }
}
native_files() { git ls-files --cached --others --exclude-standard 'native/**' 'cni/**' 'test/**' | grep -E '\.(cc|c|h)$'; }

step types tsc -p .
step lint eslint .
step 'format of TypeScript' prettier --check --log-level=warn .
step 'format of C and C++' clang-format-14 --dry-run -Werror $(native_files)
step 'lint of the executable' make -s -C cni check
step 'lint of the native core' bash scripts/tidy.sh
step 'direction of dependency' bash scripts/test.sh unit test/unit/layering.test.ts
exit "$failed"
