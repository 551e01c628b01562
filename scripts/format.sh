#!/usr/bin/env bash
# Formats everything that `npm run check` judges. Names of files as arguments: these only.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/node_modules/.bin:$PATH"

if [ "$#" -gt 0 ]; then
  files=("$@")
else
  mapfile -t files < <(git ls-files --cached --others --exclude-standard)
fi
prettier --write --log-level=warn --ignore-unknown "${files[@]}"
printf '%s\n' "${files[@]}" | grep -E '\.(cc|c|h)$' | xargs -r clang-format-14 -i
