# Teacher and trainer for machines without a GPU. From the repository's folder:
#   docker build --file deploy/docker/cpu.Dockerfile --tag counterhint/cpu:0.1.0 .
# TORCH can name another build of torch, one for CPUs only, say, which is some gigabytes smaller:
#   --build-arg TORCH='torch==2.13.0 --index-url …'
ARG PYTHON=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${PYTHON} AS wheels
# A compiler, for what comes as source only; it stays in this stage.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY deploy/docker/requirements/build.txt deploy/docker/requirements/cpu.txt /requirements/
RUN python3 -m pip install --no-cache-dir --require-hashes --requirement /requirements/build.txt \
    && python3 -m pip wheel --no-cache-dir --require-hashes --no-deps --no-build-isolation \
        --wheel-dir /wheels --requirement /requirements/cpu.txt
COPY . /source
RUN python3 -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels /source

FROM ${PYTHON} AS packages
ARG TORCH=torch==2.13.0
# TORCH is split into words on purpose.
# hadolint ignore=SC2086
RUN python3 -m venv /opt/counterhint \
    && /opt/counterhint/bin/pip install --no-cache-dir ${TORCH}
COPY --from=wheels /wheels /wheels
# The second line fails when the lock lacks something, or when versions do not go together.
RUN /opt/counterhint/bin/pip install --no-cache-dir --no-deps --no-index /wheels/*.whl \
    && /opt/counterhint/bin/pip install --dry-run --no-index 'counterhint[teacher,student,tracing]'

FROM ${PYTHON}
RUN groupadd --gid 10001 counterhint \
    && useradd --uid 10001 --gid counterhint --home-dir /tmp --no-create-home counterhint \
    && install --directory --owner counterhint --group counterhint /counterhint/runs
COPY --from=packages /opt/counterhint /opt/counterhint
COPY recipes /counterhint/recipes
ENV PATH=/opt/counterhint/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /counterhint
USER 10001:10001
ENTRYPOINT ["counterhint"]
