#!/bin/sh
# Asks the registries for the digest of each tag in images.env: `NAME=image:tag@sha256:…` per line, on stdout.
#
#   deploy/docker/pin.sh > deploy/docker/images.lock
#
# Needs docker with buildx, which the machines of the release workflow have. INSPECT replaces the command that prints
# a manifest's digest.
set -eu
cd "$(dirname "$0")"
inspect=${INSPECT:-docker buildx imagetools inspect --format '{{.Manifest.Digest}}'}

grep -Ev '^(#|$)' images.env | while IFS='=' read -r name image; do
  digest=$(eval "$inspect \"\$image\"")
  case $digest in
    sha256:????????????????????????????????????????????????????????????????) echo "$name=$image@$digest" ;;
    *) echo "pin.sh: $image: the registry gave no digest but '$digest'" >&2; exit 1 ;;
  esac
done
