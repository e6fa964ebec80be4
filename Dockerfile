# The service on CPUs (target cpu, which is the last and so the default), on NVIDIA GPUs (gpu), and the trainer (train):
#   docker build --target cpu --tag lowerbound:cpu .

FROM python:3.11-slim-bookworm AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_ONLY_BINARY=:all:
RUN python -m venv --without-pip /opt/venv
WORKDIR /locks
COPY .ci/serve.lock .ci/remote.lock ./
# The lock has ONNX Runtime's GPU build on Linux; without a GPU the plain one does the same at a fifth of the size.
RUN sed -e '/^onnxruntime==/s/ ;.*/ \\/' -e "/^onnxruntime-gpu==/s/ ;.*/ ; python_version < '3' \\\\/" serve.lock > cpu.lock

FROM packages AS cpu-packages
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip --python /opt/venv/bin/python install --require-hashes --no-deps \
        --requirement cpu.lock --requirement remote.lock \
    && find /opt/venv -type d -name tests -prune -exec rm -r {} +

FROM packages AS gpu-packages
COPY .ci/cuda.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip --python /opt/venv/bin/python install --require-hashes --no-deps \
        --requirement serve.lock --requirement remote.lock --requirement cuda.lock \
    && find /opt/venv -type d -name tests -prune -exec rm -r {} +

FROM packages AS train-packages
COPY .ci/train.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip --python /opt/venv/bin/python install --require-hashes --no-deps \
        --requirement cpu.lock --requirement remote.lock --requirement train.lock
# PyTorch by its version, not its digest: whether that is a build for CPUs alone or for CUDA is the package index's say.
ARG PIP_INDEX_URL
COPY .ci/constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip --python /opt/venv/bin/python install --constraint constraints.txt torch

FROM python:3.11-slim-bookworm AS code
WORKDIR /app
COPY service service
COPY training training
RUN python -m compileall -q .

FROM python:3.11-slim-bookworm AS base
LABEL org.opencontainers.image.title="Lowerbound" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1
RUN useradd --uid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin lowerbound
# A new volume that is mounted there begins as a copy, its owner included: the trainer may write to it.
COPY --chown=10001:10001 service/models /models

FROM base AS train
LABEL org.opencontainers.image.description="Trains variational autoencoders, and writes the bundles that are served."
COPY --from=train-packages /opt/venv /opt/venv
COPY --from=code /app /app
WORKDIR /runs
RUN chown 10001:10001 .
# Where `models` and `runs` are, unless the trainer is told otherwise.
WORKDIR /
USER 10001:10001
ENTRYPOINT ["python", "-m", "training"]
CMD ["digits"]

FROM base AS serve
LABEL org.opencontainers.image.description="Serves variational autoencoders: encode, decode, sample, and score by the ELBO."
ENV LOWERBOUND_HOST=0.0.0.0 LOWERBOUND_PORT=8000 LOWERBOUND_MODELS=/models
EXPOSE 8000
USER 10001:10001
HEALTHCHECK --interval=5s --timeout=6s --start-period=60s \
    CMD ["python", "-IS", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', os.environ['LOWERBOUND_PORT'], timeout=5); c.request('GET', '/health/ready'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["python", "-m", "service"]

FROM serve AS gpu
ENV LOWERBOUND_DEVICE=cuda NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=gpu-packages /opt/venv /opt/venv
COPY --from=code /app/service /app/service

FROM serve AS cpu
ENV LOWERBOUND_DEVICE=cpu
COPY --from=cpu-packages /opt/venv /opt/venv
COPY --from=code /app/service /app/service
