# syntax=docker/dockerfile:1
# Two images without weights, which come at run time:
#
#   docker build --target server  -t tritonlm:0.1.0 .           tritonserver, and what its models run
#   docker build --target gateway -t tritonlm-gateway:0.1.0 .   OpenAI's API; no torch, no CUDA
#
# For another release of tritonserver: --build-arg TRITON_IMAGE=nvcr.io/nvidia/tritonserver:24.10-py3
# Nothing else changes while its Python is 3.10 to 3.13, which constraints.txt pins packages for. One
# of them is numpy 1.26, since the Python backend up to 24.10 cannot read the arrays of numpy 2.
# torch brings its own CUDA 13, for which the node needs an NVIDIA driver of 580 or newer in any case.
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.10-py3
ARG PYTHON_IMAGE=python:3.12.12-slim-bookworm


# Dependencies are a layer of their own: they stay when only the sources change.
FROM ${TRITON_IMAGE} AS server-build
WORKDIR /src
# The packages of models must be those of the Python that tritonserver's stub is linked to: this one.
RUN python3 -m virtualenv --no-download /opt/tritonlm
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    mkdir src client && touch README.md \
    && /opt/tritonlm/bin/python -m pip install -c constraints.txt '.[engine,quantization,cache,tracing]'
COPY README.md ./
COPY client client
COPY src src
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/tritonlm/bin/python -m pip install -c constraints.txt --no-deps --force-reinstall .


FROM ${TRITON_IMAGE} AS server
# Not the image's user 1000: a number that no user of a node has.
RUN useradd --uid 10001 --create-home tritonlm && install --directory --owner tritonlm /models
COPY --from=server-build /opt/tritonlm /opt/tritonlm
COPY model_repository /opt/tritonlm/share/tritonlm/model_repository
COPY task_repository /opt/tritonlm/share/tritonlm/task_repository
COPY ensembles /opt/tritonlm/share/tritonlm/ensembles
ENV PATH=/opt/tritonlm/bin:$PATH \
    HF_HOME=/models \
    TRITONLM_HOST=0.0.0.0
USER 10001
WORKDIR /home/tritonlm
EXPOSE 8000 8001 8002
# Loading and compiling a large model takes minutes. Each model that is loaded is asked for something,
# since tritonserver calls one ready whose engine or process is gone.
HEALTHCHECK --start-period=30m --interval=30s --timeout=20s \
    CMD ["tritonlm", "health", "--timeout-s", "15", "--may-be-full"]
ENTRYPOINT ["tritonlm"]
CMD ["serve"]


FROM ${PYTHON_IMAGE} AS gateway-build
WORKDIR /src
RUN python -m venv /opt/tritonlm
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    mkdir src client && touch README.md \
    && /opt/tritonlm/bin/python -m pip install -c constraints.txt '.[cache,tracing]'
COPY README.md ./
COPY client client
COPY src src
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/tritonlm/bin/python -m pip install -c constraints.txt --no-deps --force-reinstall .


FROM ${PYTHON_IMAGE} AS gateway
RUN useradd --uid 10001 --create-home tritonlm
COPY --from=gateway-build /opt/tritonlm /opt/tritonlm
ENV PATH=/opt/tritonlm/bin:$PATH \
    TRITONLM_GATEWAY_HOST=0.0.0.0
USER 10001
WORKDIR /home/tritonlm
EXPOSE 9000
HEALTHCHECK --start-period=30s --interval=15s --timeout=5s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://localhost:9000/health/live')"]
ENTRYPOINT ["tritonlm"]
CMD ["gateway"]
