# The queue services and the gateway, without torch. From the repository's folder:
#   docker build --file deploy/docker/services.Dockerfile --tag counterhint/services:0.1.0 .
ARG PYTHON=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${PYTHON} AS wheels
COPY deploy/docker/requirements/build.txt deploy/docker/requirements/services.txt /requirements/
RUN python3 -m pip install --no-cache-dir --require-hashes --requirement /requirements/build.txt \
    && python3 -m pip wheel --no-cache-dir --require-hashes --no-deps --no-build-isolation \
        --wheel-dir /wheels --requirement /requirements/services.txt
COPY . /source
RUN python3 -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels /source

FROM ${PYTHON} AS packages
RUN python3 -m venv /opt/counterhint
COPY --from=wheels /wheels /wheels
# The second line fails when the lock lacks something, or when versions do not go together.
RUN /opt/counterhint/bin/pip install --no-cache-dir --no-deps --no-index /wheels/*.whl \
    && /opt/counterhint/bin/pip install --dry-run --no-index 'counterhint[services,tracing]'

FROM ${PYTHON}
RUN groupadd --gid 10001 counterhint \
    && useradd --uid 10001 --gid counterhint --home-dir /tmp --no-create-home counterhint \
    && install --directory --owner counterhint --group counterhint /counterhint/runs
COPY --from=packages /opt/counterhint /opt/counterhint
ENV PATH=/opt/counterhint/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /counterhint
USER 10001:10001
ENTRYPOINT ["counterhint"]
