#!/usr/bin/env bash
# docs/charts/dashboard.svg: the dashboard with two minutes of real data, scraped by Debian's Prometheus and drawn by our
# own renderer. Grafana is not run.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
bash scripts/apt-install.sh prometheus
export PATH="$PWD/node_modules/.bin:$PATH"
exec node --no-warnings test/bench/dashboard.ts
