#!/usr/bin/env bash
# Everything that ships, into dist/: the bundled program, the addon, the CNI executable, the schema of the netconf.
# Incremental: a part whose sources did not change costs nothing. Finished files appear by rename, so that a running
# agent keeps the addon that it has mapped.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/node_modules/.bin:$PATH"

mkdir -p build dist/native
exec 9>build/.build-lock
flock 9

# install_file FROM TO: replaces TO when it differs.
install_file() {
  cmp -s "$1" "$2" && return
  install -m "$(stat -c %a "$1")" "$1" "$2.new"
  mv "$2.new" "$2"
}

bash scripts/build-native.sh
addon=build/native/virtio_user.node
# Symbols for a debugger stay in the build tree: they are nine tenths of the file.
[ "$addon" -ot build/native/stripped.node ] || strip --strip-debug -o build/native/stripped.node "$addon"
install_file build/native/stripped.node dist/native/virtio_user.node

make -s -C cni

stamp=$( (find src -name '*.ts' -print0 | sort -z | xargs -0 cat; cat package-lock.json scripts/build.sh scripts/bundle*.js) | sha256sum)
if [ "$(cat dist/.stamp 2>/dev/null)" != "$stamp" ]; then
  rm -f dist/.stamp
  node scripts/bundle.js
  node --no-warnings scripts/netconf-schema.ts dist/netconf.schema.json
  printf '%s' "$stamp" >dist/.stamp
fi
