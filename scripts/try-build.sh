#!/usr/bin/env bash
# Runs build scripts one after the other, within a time.
#   scripts/try-build.sh SECONDS SCRIPT…
# Exit code: 0 built; 75 this machine lacks something for it, be it time (the last line says what); 1 a build is broken.
set -uo pipefail
. "$(dirname "$0")/lack.sh"
seconds=$1
shift

timeout --kill-after=10 "$seconds" bash -c 'for script; do bash "$script" || exit; done' _ "$@"
code=$?
case $code in
  0) ;;
  "$exit_lack") exit "$exit_lack" ;;
  124 | 137) lack build "not built within $seconds s; the next run goes on from here" ;;
  *)
    printf '[build] failed to build (exit code %d): the words are above\n' "$code" >&2
    exit 1
    ;;
esac
