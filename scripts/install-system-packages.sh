#!/usr/bin/env bash
# Installs the system packages that the tests need, says which, and does nothing when they are there.
# chromium: the browser in which the console's tests run. redis-server, etcd-server: metadata stores of a cluster.
set -euo pipefail
missing=()
command -v chromium >/dev/null || missing+=(chromium)
command -v redis-server >/dev/null || missing+=(redis-server)
command -v etcd >/dev/null || missing+=(etcd-server)
[ ${#missing[@]} -eq 0 ] && exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
  echo "missing: ${missing[*]}; install them with your package manager (on Debian: sudo apt-get install ${missing[*]})" >&2
  exit 1
fi
echo "installing system packages for the tests: ${missing[*]}"
apt-get update -qq
# The servers are started by the tests, on ports and directories of their own: no service must start by itself.
export RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
