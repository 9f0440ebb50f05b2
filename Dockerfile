# syntax=docker/dockerfile:1.7
# One image for every role: `run --roles worker`, or VERGER_ROLES=worker. See docs/kubernetes.md.
#   docker build -t verger:0.1.0 .
#   docker build -t verger:0.1.0-dev --build-arg EXTRAS=vectors,embedded .    with a MongoDB, for `verger dev`
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build
ARG EXTRAS=vectors
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements.lock pyproject.toml README.md LICENSE ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip install --quiet "$(grep '^setuptools==' requirements.lock)"
COPY schemas schemas
COPY service service
COPY actors actors
# Ready-made wheels alone, in the versions that were tested: nothing is compiled, and nobody's setup.py is run.
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip wheel --quiet --no-build-isolation --only-binary=:all: \
        --constraint requirements.lock --wheel-dir /wheels ".[${EXTRAS}]"
# Byte code that goes by what it was made of, not by a time: the image is the same whenever it is built, and its files
# need not be writable to start quickly.
RUN python -m venv --without-pip /opt/verger && \
    python -m pip --python /opt/verger/bin/python install --quiet --no-compile --no-index --find-links /wheels \
        "verger[${EXTRAS}]" && \
    python -m compileall -q --invalidation-mode unchecked-hash /opt/verger/lib

FROM python:${PYTHON}
ARG EXTRAS=vectors
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Verger" \
      org.opencontainers.image.description="A scheduler and task queue on RabbitMQ and MongoDB." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}"
# The bundled mongod is linked with libcurl.
RUN case ",${EXTRAS}," in *,embedded,*) \
        apt-get update && apt-get install --yes --no-install-recommends libcurl4 && rm -rf /var/lib/apt/lists/* ;; \
    esac && \
    install --directory --owner=65532 --group=65532 /var/lib/verger
COPY --from=build /opt/verger /opt/verger
ENV PATH=/opt/verger/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    VERGER_DATA_DIR=/var/lib/verger \
    VERGER_HEALTH_PORT=8081
WORKDIR /var/lib/verger
EXPOSE 8080 8081
USER 65532:65532
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request as web; web.urlopen('http://127.0.0.1:' + os.environ['VERGER_HEALTH_PORT'] + '/healthz', timeout=4)"]
ENTRYPOINT ["verger"]
CMD ["run"]
