#!/usr/bin/env bash
# Installs the system packages that the tests need, says which, and does nothing when they are there.
# chromium: the browser in which the console's tests run. redis-server, etcd-server: metadata stores of a cluster.
# prometheus, prometheus-alertmanager: what scrapes, judges and wakes; the monitoring's tests run the real ones.
# iproute2: networks of hosts on one machine, which tests cut.
# With `bench` as its argument, those of the benchmarks instead: nginx, curl and b3sum for benchmarks/fetch, and
# iproute2 for its slow links.
set -euo pipefail
missing=()
need() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null || missing+=("$2"); }
if [ "${1:-}" = bench ]; then
  need nginx nginx-light
  need curl curl
  need b3sum b3sum
  need tc iproute2
else
  need chromium chromium
  need redis-server redis-server
  need etcd etcd-server
  need promtool prometheus
  need prometheus-alertmanager prometheus-alertmanager
  need ip iproute2
fi
[ ${#missing[@]} -eq 0 ] && exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
  echo "missing: ${missing[*]}; install them with your package manager (on Debian: sudo apt-get install ${missing[*]})" >&2
  exit 1
fi
echo "installing system packages: ${missing[*]}"
apt-get update -qq
# The servers are started by the tests, on ports and directories of their own: no service must start by itself.
export RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
