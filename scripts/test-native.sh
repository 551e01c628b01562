#!/usr/bin/env bash
# Native core under test: plain, with the rings on a model of weak memory order, AddressSanitizer + UBSan,
# ThreadSanitizer, then each fuzz target for a bounded time. The CNI executable, too: its tests on a build with
# AddressSanitizer + UBSan, and its scanner fuzzed.
# FUZZ_SECONDS (default 20) per target; "scripts/test-native.sh plain" runs the plain build only.
set -euo pipefail
cd "$(dirname "$0")/.."

fuzz_seconds=${FUZZ_SECONDS:-20}
jobs=${JOBS:-2}
say() { printf '\033[1m[native]\033[0m %s\n' "$*"; }

build() { # directory, compiler, cmake options…
  local directory=build/$1 compiler=$2
  shift 2
  mkdir -p "$directory"
  {
    cmake -S test/native -B "$directory" -G Ninja -DCMAKE_CXX_COMPILER="$compiler" "$@" &&
      ninja -C "$directory" -j "$jobs"
  } >"$directory/build.log" 2>&1 || { tail -n 40 "$directory/build.log" >&2; exit 1; }
}
run() { timeout --kill-after=5 300 "$@" --gtest_brief=1; }
run_everywhere() { # directory: what every build runs
  local name
  for name in native_tests wakeup_test durable_file_test; do run "build/$1/$name"; done
}

say plain
build native-test g++
run_everywhere native-test
run build/native-test/no_alloc_test
run build/native-test/weak_memory_test
[ "${1:-all}" = plain ] && exit 0

say 'address, undefined'
build asan g++ -DVU_SANITIZE=address,undefined
run_everywhere asan

say 'the executable: address, undefined'
make -s -C cni sanitized
VIRTIO_USER_EXECUTABLE="$PWD/build/cni/virtio-user-sanitized" bash scripts/test.sh executable

say thread
build tsan clang++ -DVU_SANITIZE=thread
run_everywhere tsan

build fuzz clang++ -DVU_FUZZ=ON
for target in build/fuzz/*_fuzz; do
  name=$(basename "$target")
  say "$name, $fuzz_seconds s"
  mkdir -p "build/fuzz/corpus/$name"
  if ! "$target" -max_total_time="$fuzz_seconds" -timeout=5 -max_len=2048 -print_final_stats=1 \
    -artifact_prefix="build/fuzz/$name-" "build/fuzz/corpus/$name" >"build/fuzz/$name.log" 2>&1; then
    tail -n 60 "build/fuzz/$name.log" >&2
    exit 1
  fi
  grep -E 'number_of_executed_units|average_exec_per_sec' "build/fuzz/$name.log"
done

say "json_scan_fuzz of the executable, $fuzz_seconds s"
make -s -C cni fuzz-run SECONDS="$fuzz_seconds" >build/fuzz/json_scan_fuzz.log 2>&1 || {
  tail -n 60 build/fuzz/json_scan_fuzz.log >&2
  exit 1
}
grep -E 'number_of_executed_units|average_exec_per_sec' build/fuzz/json_scan_fuzz.log
