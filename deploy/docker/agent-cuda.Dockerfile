# syntax=docker/dockerfile:1
# An agent whose engines compute on NVIDIA GPUs: ours, and vLLM in an environment of its own.
# Build from the root of the repository:
#   docker build -f deploy/docker/agent-cuda.Dockerfile --build-arg PYTHON_IMAGE=… --build-arg CUDA_IMAGE=… .
# Neither has a default: the release workflow asks the registry for the digests of the tags in images.env.
# The driver comes from the node (NVIDIA's container toolkit); torch brings its own CUDA libraries, so that the `base`
# flavour of CUDA_IMAGE is enough. Its Python must be 3.11 or 3.12: Ubuntu 24.04 has 3.12.
ARG PYTHON_IMAGE
ARG CUDA_IMAGE

FROM ${PYTHON_IMAGE} AS wheels
WORKDIR /src
COPY . .
RUN python3 -m venv /build && /build/bin/pip install --no-cache-dir --quiet build==1.6.1 \
 && /build/bin/python -m build --wheel --outdir dist . \
 && /build/bin/python -m build --wheel --outdir dist vllm_plugin

FROM ${CUDA_IMAGE} AS python
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv tini \
 && rm -rf /var/lib/apt/lists/*

FROM python AS installed
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cu128
ARG WITH_VLLM_VERSION=0.32.0
ENV TORCH_INDEX_URL=${TORCH_INDEX_URL} \
    WITH_VLLM_VERSION=${WITH_VLLM_VERSION}
WORKDIR /src
COPY constraints.txt ./
COPY deploy/docker/install.sh ./
COPY --from=wheels /src/dist ./dist
RUN ./install.sh agent-cuda /opt/sllm /src
# A layer of its own: it is the larger one, and changes with vLLM's version only.
# hadolint ignore=DL3059
RUN ./install.sh vllm /opt/vllm /src

FROM python
RUN groupadd --gid 10001 sllm \
 && useradd --uid 10001 --gid sllm --home-dir /var/lib/serverlessllm --create-home sllm
COPY --from=installed /opt/sllm /opt/sllm
COPY --from=installed /opt/vllm /opt/vllm
COPY deploy/docker/healthcheck.py /opt/sllm/healthcheck.py
ENV PATH=/opt/sllm/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    SLLM_DATA_DIR=/var/lib/serverlessllm \
    SLLM_ENGINE_DEVICE=cuda \
    SLLM_ENGINE_VLLM_ENVIRONMENT=/opt/vllm \
    HEALTHCHECK_URL=http://127.0.0.1:8344/healthz
USER 10001:10001
VOLUME /var/lib/serverlessllm
EXPOSE 8344
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD ["python3", "/opt/sllm/healthcheck.py"]
ENTRYPOINT ["tini", "--", "sllm"]
CMD ["agent", "--port", "8344"]
