#!/usr/bin/env bash
# Builds the image and writes it as an OCI archive that `ctr images import` takes: build/image/virtio-user-cni.tar.
# Needs root, buildah and mmdebstrap; no registry: where the base image of the Dockerfile is not in the local storage, it is made
# from Debian's packages. apt and npm in the build use this machine's client configuration, mounted for their one step.
#   scripts/build-image.sh [NAME]   default: virtio-user-cni:VERSION
#   IMAGE_STORAGE=DIR               where buildah keeps base image and layers (build/image/storage)
# Exit code 75: this machine lacks something for it.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lack.sh

say() { printf '\033[1m[image]\033[0m %s\n' "$*"; }
fail() { printf '[image] %s\n' "$*" >&2; exit 1; }
failed() { # LOG, words
  tail -n 40 "$1" >&2
  ! download_failed "$1" || lack image "$2: a package cannot be downloaded"
  fail "$2: see $1"
}

[ "$(id -u)" = 0 ] || lack image "must run as root: RUN steps are chroots"
for tool in buildah mmdebstrap; do
  command -v "$tool" >/dev/null || lack image "$tool is missing: apt-get install $tool"
done

version=$(sed -n 's/^  "version": "\(.*\)",$/\1/p' package.json)
name=${1:-virtio-user-cni:$version}
base=debian:bookworm-slim
out=build/image
storage=${IMAGE_STORAGE:-$PWD/$out/storage}
mkdir -p "$out" "$storage"
exec 9>"$out/.lock"
flock 9

buildah() { command buildah --root "$storage" --runroot "$storage/run" --storage-driver overlay "$@"; }

if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
  say "base image $base from Debian's packages"
  sources=()
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list.d/debian.list; do
    [ ! -s "$file" ] || sources+=("$file")
  done
  # Like the slim image: no manuals, no translations; and no sources, which the build mounts.
  mmdebstrap --quiet --variant=minbase --format=tar \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --customize-hook='rm -rf "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/* "$1"/etc/apt/apt.conf.d/99mmdebstrap' \
    --customize-hook='rm -f "$1"/etc/hostname "$1"/etc/resolv.conf' \
    bookworm "$out/base.tar" "${sources[@]}" 2>"$out/base.log" ||
    failed "$out/base.log" 'mmdebstrap failed'
  container=$(buildah from --pull-never scratch)
  buildah add --quiet "$container" "$out/base.tar" / >/dev/null
  buildah config --cmd bash "$container"
  buildah commit --quiet --rm "$container" "$base" >/dev/null
  rm -f "$out/base.tar"
fi

secrets=()
secret() { [ ! -r "$2" ] || secrets+=(--secret "id=$1,src=$2"); }
secret apt-sources /etc/apt/sources.list.d/debian.sources
secret npmrc "${NPM_CONFIG_USERCONFIG:-$HOME/.npmrc}"
secret certificates /etc/ssl/certs/ca-certificates.crt
apt_conf=$(mktemp)
trap 'rm -f "$apt_conf"' EXIT
apt-config dump | grep -E '^(Acquire::(Check|http|https|Retries|Max)|APT::Authentication)' >"$apt_conf" || true
secret apt-conf "$apt_conf"

say "building $name"
revision=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
started=$SECONDS
buildah build --isolation chroot --network host --layers --pull-never --format oci "${secrets[@]}" \
  --build-arg VERSION="$version" --build-arg REVISION="$revision" --tag "$name" . >"$out/build.log" 2>&1 ||
  failed "$out/build.log" 'the build failed'

say "writing $out/virtio-user-cni.tar ($((SECONDS - started)) s of building)"
rm -rf "$out/oci"
buildah push --quiet "$name" "oci:$PWD/$out/oci:$name" >/dev/null
PATH="$PWD/node_modules/.bin:$PATH" node --no-warnings scripts/image-archive.ts "$out/oci" "$name" "$out/virtio-user-cni.tar"
