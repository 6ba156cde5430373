#!/bin/sh
# Installs one role's programs into a fresh virtual environment. The Dockerfiles run this, and so does the test that
# executes their install steps on a machine without a container runtime: what is tested is what is built.
#
#   install.sh control-plane|agent-cpu|agent-cuda|vllm DESTINATION SOURCE
#
# SOURCE holds the checkout, or what of it the image needs: wheels in dist/, constraints.txt.
# TORCH_INDEX_URL: where torch comes from; empty asks the index that pip knows. WITH_VLLM_VERSION: the vLLM of `vllm`.
set -eu
role=$1 destination=$2 source=$3
case $role in
  control-plane) extras=ingest,s3,hub,redis,etcd,otel ;;
  agent-cpu | agent-cuda) extras=s3,hub,redis,etcd,otel ;;
  vllm) extras= ;;
  *) echo "install.sh: unknown role $role" >&2; exit 2 ;;
esac

python3 -m venv "$destination"
pip="$destination/bin/pip --no-cache-dir --disable-pip-version-check --quiet"
wheel=$(find "$source/dist" -name 'serverlessllm-*.whl' | head -n 1)
plugin=$(find "$source/dist" -name 'serverlessllm_vllm-*.whl' | head -n 1)
torch=$(grep -E '^torch==' "$source/constraints.txt")
index=${TORCH_INDEX_URL:+--index-url $TORCH_INDEX_URL}

if [ "$role" = vllm ]; then
  # shellcheck disable=SC2086  # pip and its options are several words
  $pip install "vllm==${WITH_VLLM_VERSION:?the version that docs/engines.md names}"
  # shellcheck disable=SC2086
  $pip install --no-deps "$plugin"
else
  if [ "$role" != control-plane ]; then
    # shellcheck disable=SC2086
    $pip install $index "$torch"
    extras=engine,$extras
  fi
  # shellcheck disable=SC2086
  $pip install -c "$source/constraints.txt" "${wheel}[$extras]"
fi

# What only an installation needs. Byte code stays: it saves half a second of each start.
"$destination/bin/python" -m pip uninstall --quiet --yes pip 2>/dev/null || true
find "$destination" -type d \( -name tests -o -name test \) -path '*/site-packages/numpy/*' -prune -exec rm -rf {} +
