# Four stages on pinned images; compose.yaml runs export, plan, serve and gateway.
#   train   prepares corpora, trains, evaluates:       docker build --target train -t ko-asr:train .
#   export  .nemo -> model repository, on the CPU:     docker build --target export -t ko-asr:export .
#   serve   builds TensorRT plans and serves:          docker build --target serve -t ko-asr:serve .
#   gateway HTTP before Triton, without torch:         docker build --target gateway -t ko-asr:gateway .
# No image holds a corpus, a checkpoint or a model: they are mounted.
#   docker run --gpus all --shm-size 8g -v "$PWD/data:/opt/ko-asr/data" -v "$PWD/tokenizers:/opt/ko-asr/tokenizers" \
#     -v "$PWD/experiments:/opt/ko-asr/experiments" ko-asr:train python recipes/train_ctc.py --config-name NAME

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
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-deps -e . && python -c 'from ko_asr import checkout; checkout.install()'
COPY . .
RUN useradd --create-home --uid 1000 asr && chown -R asr /opt/ko-asr
USER 1000
CMD ["python", "recipes/train_ctc.py", "--config-name", "fastconformer_ko"]

FROM train AS export
# NeMo and its libraries keep caches there; a user of another id than 1000 has no home.
ENV HOME=/tmp
ENTRYPOINT ["python", "export/to_triton.py"]

# Triton 26.08 carries TensorRT 11.2.1 and ONNX Runtime 1.28.0, CUDA 13.4 and Python 3.12.
# The holes that NVIDIA has published are closed in it: docs/serving.md, "What clients may do".
FROM nvcr.io/nvidia/tritonserver:26.08-py3 AS serve
WORKDIR /opt/ko-asr
COPY requirements.txt requirements-gpu.txt constraints.txt ./
# What export/build_plan.py needs and the image lacks: Python bindings of the image's own TensorRT, and ONNX
# Runtime to compare with. In a folder of their own, so that the server's Python models never see them.
RUN sed -nE 's/^tensorrt==/tensorrt-cu13-bindings==/p; /^onnxruntime==/p; /^numpy==/p' \
        requirements.txt requirements-gpu.txt > requirements-plan.txt \
    && pip install --no-cache-dir --target plan-packages -r requirements-plan.txt -c constraints.txt
COPY src/ko_asr src/ko_asr
COPY export/build_plan.py export/closed_server.py export/healthcheck.py export/
# As ko_asr.serving.server's PROCESS_SETTINGS: one thread a Python model, and freed memory is kept.
ENV OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=134217728
USER 1000
EXPOSE 8001 8002
HEALTHCHECK --interval=4s --timeout=5s --retries=2 --start-period=120s \
    CMD ["python3", "/opt/ko-asr/export/healthcheck.py"]
# Each Python model needs shared memory: run with --shm-size=512m. HTTP is for the health check alone, so it
# listens inside the container only.
CMD ["python3", "/opt/ko-asr/export/closed_server.py", "tritonserver", "--model-repository=/models", \
    "--exit-timeout-secs=30", "--allow-http=true", "--http-address=127.0.0.1"]

FROM python:3.11-slim-bookworm AS gateway
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
WORKDIR /opt/ko-asr
COPY requirements-gateway.txt constraints.txt ./
RUN pip install -r requirements-gateway.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-deps .
# Keys, jobs and corrections are kept in a mounted folder; so are uploads, which would fill a tmpfs.
ENV XDG_DATA_HOME=/opt/ko-asr/state TMPDIR=/opt/ko-asr/state
USER 1000
EXPOSE 9000
# An inference, which waits no longer than ten seconds for its answer.
HEALTHCHECK --interval=10s --timeout=12s --retries=3 --start-period=30s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9000/health/ready', timeout=11)"]
# Its address is the container's, so nobody comes in without a key: docs/gateway.md.
CMD ["python", "-m", "ko_asr.gateway", "--host", "0.0.0.0", "--keys", "--triton", "triton:8001"]
