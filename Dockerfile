# CPU image: `docker build -t triton-async .`, then
# `docker run --rm -p8000:8000 -p8001:8001 -p8002:8002 -v "$PWD/models:/models:ro" triton-async`
# GPU image: `docker build --target gpu -t triton-async:gpu .`, then the same with `--gpus all` and, for clients in other
# containers that use CUDA shared memory, `--ipc host`.

FROM python:3.12-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libnghttp2-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml setup.py README.md ./
COPY csrc csrc
COPY protos protos
COPY triton_async triton_async
RUN python -m venv /opt/triton-async && /opt/triton-async/bin/pip install --no-cache-dir ".[cloud]"

FROM python:3.12-slim-bookworm AS cpu
RUN apt-get update \
    && apt-get install -y --no-install-recommends libnghttp2-14 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 1000 triton-server \
    && mkdir /models
COPY --from=build /opt/triton-async /opt/triton-async
ENV PATH=/opt/triton-async/bin:$PATH
# By number: Kubernetes does not know whether a name is root.
USER 1000
EXPOSE 8000 8001 8002
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
# Model servers are told to stop with SIGTERM; in-flight requests finish within --exit-timeout-secs.
STOPSIGNAL SIGTERM
# SageMaker starts it with the command `serve`, on a port of its choice, with one model or many.
LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true \
    com.amazonaws.sagemaker.capabilities.multi-models=true
# A command that begins with `tritonserver`, as those for the real image do, starts this one, too.
ENTRYPOINT ["triton-async"]
CMD ["--model-repository=/models"]

# CUDA's libraries come with the wheels, the driver from the host through the NVIDIA container toolkit. ONNX Runtime has
# one module name for its two builds, so that with CUDA takes the other's place.
FROM build AS build-gpu
RUN /opt/triton-async/bin/pip install --no-cache-dir ".[gpu,pytorch]" \
    && /opt/triton-async/bin/pip uninstall --yes onnxruntime \
    && /opt/triton-async/bin/pip install --no-cache-dir onnxruntime-gpu

FROM cpu AS gpu
COPY --from=build-gpu /opt/triton-async /opt/triton-async
# Kernels that are compiled on the spot stay in memory: the user has no folder to keep them in.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility CUPY_CACHE_IN_MEMORY=1

# What `docker build` makes when no target is named.
FROM cpu
