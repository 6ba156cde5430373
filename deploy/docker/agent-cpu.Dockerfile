# syntax=docker/dockerfile:1
# An agent whose engine computes on CPUs.
# Build from the root of the repository:
#   docker build -f deploy/docker/agent-cpu.Dockerfile --build-arg PYTHON_IMAGE=python:3.12-slim-bookworm@sha256:… .
# PYTHON_IMAGE has no default: the release workflow asks the registry for the digest of the tag in images.env.
ARG PYTHON_IMAGE

FROM ${PYTHON_IMAGE} AS wheels
WORKDIR /src
COPY . .
RUN python3 -m venv /build && /build/bin/pip install --no-cache-dir --quiet build==1.6.1 \
 && /build/bin/python -m build --wheel --outdir dist .

FROM ${PYTHON_IMAGE} AS installed
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ENV TORCH_INDEX_URL=${TORCH_INDEX_URL}
WORKDIR /src
COPY constraints.txt ./
COPY deploy/docker/install.sh ./
COPY --from=wheels /src/dist ./dist
RUN ./install.sh agent-cpu /opt/sllm /src

FROM ${PYTHON_IMAGE}
# tini reaps what a dead zygote leaves behind and hands signals on. The distribution's version is as good as any.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends tini && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 sllm && useradd --uid 10001 --gid sllm --home-dir /var/lib/serverlessllm --create-home sllm
COPY --from=installed /opt/sllm /opt/sllm
COPY deploy/docker/healthcheck.py /opt/sllm/healthcheck.py
ENV PATH=/opt/sllm/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SLLM_DATA_DIR=/var/lib/serverlessllm \
    HEALTHCHECK_URL=http://127.0.0.1:8344/healthz
USER 10001:10001
VOLUME /var/lib/serverlessllm
EXPOSE 8344
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python3", "/opt/sllm/healthcheck.py"]
ENTRYPOINT ["tini", "--", "sllm"]
CMD ["agent", "--port", "8344"]
