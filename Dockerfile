# Three stages on pinned images:
#   train  prepares corpora, trains, evaluates, exports:  docker build --target train -t ko-asr:train .
#   serve  tritonserver with this project's defaults:     docker build --target serve -t ko-asr:serve .
# Triton 26.01 brings TensorRT 10.13.3 and ONNX Runtime 1.23.2; requirements-gpu.txt names the same versions.

FROM python:3.11-slim-bookworm AS train
SHELL ["/bin/bash", "-eo", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
# kenlm is compiled from source; make and git are what the recipes themselves call.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential git \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/ko-asr
COPY requirements.txt constraints.txt ./
RUN pip install -r requirements.txt
COPY pyproject.toml README.md ./
COPY src src
RUN pip install --no-deps -e .
COPY . .
RUN useradd --create-home --uid 1000 asr && chown -R asr /opt/ko-asr
USER 1000
CMD ["python", "recipes/train_ctc.py", "--config-name", "fastconformer_ko"]

FROM nvcr.io/nvidia/tritonserver:26.01-py3 AS serve
# The repository that export/to_triton.py filled; mount another over /models to serve that instead.
COPY --chown=1000:1000 triton /models
USER 1000
EXPOSE 8000 8001 8002
# Each Python model needs shared memory: run with --shm-size=256m or more.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["curl", "--fail", "--silent", "http://127.0.0.1:8000/v2/health/ready"]
CMD ["tritonserver", "--model-repository=/models", "--exit-timeout-secs=30"]
