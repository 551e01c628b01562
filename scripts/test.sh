#!/usr/bin/env bash
# `npm test`: makes the machine ready, then runs every tier, the cheap ones first, whatever the others did.
#   scripts/test.sh                     everything but what needs Go
#   scripts/test.sh TIER [arguments]    one folder of test/, with arguments for Jest (files, -t …)
#   CLUSTER_BUILD_SECONDS=N             everything: the tiers deploy and cluster, too, if what they need from Go modules can be
#                                       built here within N seconds (`.ci/run`: its hour may have to do with an empty cache);
#                                       a build that breaks is a failure
# Output of each tier: build/test/TIER.log. The last line of a whole run is "N passed, N failed".
set -uo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/node_modules/.bin:$PATH"

tiers=(check unit fuzz addon native protocol executable interop e2e)
cluster_build_seconds=${CLUSTER_BUILD_SECONDS:-0}

heading() { printf '\n\033[1m=== %s\033[0m\n' "$*"; }

jest_tier() { # tier, arguments…
  local tier=$1
  shift
  # A leaked handle keeps Jest alive after green tests: bounded here, never hidden with --forceExit.
  local limit_seconds=600
  case $tier in
    cluster) limit_seconds=2400 ;;                                                # eight minutes where nothing else runs
    interop) [ -z "${VU_MATRIX:-}" ] || limit_seconds=2400 ;;                     # ten
    fuzz) limit_seconds=$((600 + ${VIRTIO_USER_FUZZ_MS:-0} * 8 / 1000)) ;;        # each test that fuzzes takes as long
  esac
  local workers=(--runInBand) # the addon, namespaces and the switch are shared by the whole process
  case $tier in unit | protocol | executable) workers=(--maxWorkers=2) ;; esac
  [[ "$*" == *test/* ]] || set -- --testPathPatterns="^$PWD/test/$tier/" "$@"
  rm -f "build/test/$tier.json"
  timeout --kill-after=10 "$limit_seconds" node --disable-warning=ExperimentalWarning --experimental-vm-modules \
    node_modules/jest/bin/jest.js --config test/jest.config.js "${workers[@]}" \
    --json --outputFile="build/test/$tier.json" "$@" 2>&1 >/dev/null
}

run_tier() { # tier, arguments…
  case $1 in
    check) bash scripts/check.sh ;;
    native) bash scripts/test-native.sh ;;
    *) jest_tier "$@" ;;
  esac
}

# "passed failed skipped" of a finished tier.
count_tier() { # tier, its exit code
  local passed=0 failed=0 skipped=0
  case $1 in
    native)
      passed=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) tests\?\..*/\1/p' "build/test/$1.log" | awk '{ sum += $1 } END { print sum + 0 }')
      failed=$(sed -n 's/^ *\([0-9]*\) FAILED TESTS\?$/\1/p' "build/test/$1.log" | awk '{ sum += $1 } END { print sum + 0 }')
      ;;
    check) [ "$2" -ne 0 ] || passed=1 ;;
    *)
      [ ! -f "build/test/$1.json" ] || read -r passed failed skipped < <(node -p '
        const run = JSON.parse(fs.readFileSync(process.argv[1], "utf8"));
        [run.numPassedTests, run.numFailedTests + run.numRuntimeErrorTestSuites, run.numPendingTests].join(" ")' "build/test/$1.json")
      ;;
  esac
  [ "$2" -eq 0 ] || [ "$failed" -gt 0 ] || failed=1
  printf '%d %d %d\n' "$passed" "$failed" "$skipped"
}

mkdir -p build/test

if [ "$#" -gt 0 ]; then
  case $1 in unit | protocol | native | check) ;; *) bash scripts/build.sh || exit 1 ;; esac
  run_tier "$@"
  exit
fi

heading setup
bash scripts/setup.sh || { printf '\n0 passed, 1 failed\n'; exit 1; }

total_passed=0 total_failed=0 first_failed=
summary=()
run_and_count() { # tier
  local tier=$1 started=$SECONDS code passed failed skipped
  heading "$tier"
  run_tier "$tier" 2>&1 | tee "build/test/$tier.log"
  code=${PIPESTATUS[0]}
  read -r passed failed skipped < <(count_tier "$tier" "$code")
  total_passed=$((total_passed + passed)) total_failed=$((total_failed + failed))
  summary+=("$(printf '%-11s %4d passed %4d failed %4d skipped %5d s' "$tier" "$passed" "$failed" "$skipped" $((SECONDS - started)))")
  [ "$code" -eq 0 ] || [ -n "$first_failed" ] || first_failed=$tier
}
for tier in "${tiers[@]}"; do run_and_count "$tier"; done

# What Kubernetes, containerd 2, helm, Multus and the image need; a build that is cut goes on from Go's cache next time.
if [ "$cluster_build_seconds" -gt 0 ]; then
  heading "build for the tiers deploy and cluster"
  started=$SECONDS
  bash scripts/try-build.sh "$cluster_build_seconds" scripts/build-{cluster,multus,image}.sh 2>&1 | tee build/test/build.log
  case ${PIPESTATUS[0]} in
    0)
      summary+=("$(printf '%-11s %44d s' 'cluster build' $((SECONDS - started)))")
      export IMAGE_ARCHIVE=build/image/virtio-user-cni.tar
      for tier in deploy cluster; do run_and_count "$tier"; done
      ;;
    75) summary+=("deploy, cluster: NOT RUN on this machine: $(tail -n 1 build/test/build.log)") ;;
    *)
      summary+=("deploy, cluster: NOT RUN, failed to build")
      total_failed=$((total_failed + 1)) first_failed=${first_failed:-build}
      ;;
  esac
fi

if [ -n "$first_failed" ]; then
  heading "first failure: $first_failed (whole output: build/test/$first_failed.log)"
  tail -n 80 "build/test/$first_failed.log"
fi
heading "tiers ($SECONDS s)"
printf '%s\n' "${summary[@]}"
printf '%d passed, %d failed\n' "$total_passed" "$total_failed"
[ "$total_failed" -eq 0 ]
