# The trainer, with vLLM for rollouts, on vLLM's own image. From the repository's folder:
#   docker build --file deploy/docker/student.Dockerfile --tag counterhint/student:0.1.0 .
ARG PYTHON=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d
ARG VLLM=vllm/vllm-openai:v0.32.0

FROM ${PYTHON} AS wheel
COPY deploy/docker/requirements/build.txt /requirements/
RUN python3 -m pip install --no-cache-dir --require-hashes --requirement /requirements/build.txt
COPY . /source
RUN python3 -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels /source

# vLLM, torch and transformers stay as the base has them: beside them, in a folder of their own, goes
# only what it lacks.
FROM ${VLLM} AS packages
COPY deploy/docker/requirements/student.txt /requirements/
COPY --from=wheel /wheels /wheels
RUN python3 -m pip install --no-cache-dir --no-deps --require-hashes --target /opt/counterhint \
        --requirement /requirements/student.txt \
    && python3 -m pip install --no-cache-dir --no-deps --no-index --target /opt/counterhint \
        /wheels/*.whl
ENV PYTHONPATH=/opt/counterhint
# Fails when base and lock together lack something, or when their versions do not go together.
# hadolint ignore=DL3013
RUN python3 -m pip install --no-cache-dir --dry-run --no-index 'counterhint[student-vllm,tracing]'

FROM ${VLLM}
RUN groupadd --gid 10001 counterhint \
    && useradd --uid 10001 --gid counterhint --home-dir /tmp --no-create-home counterhint \
    && install --directory --owner counterhint --group counterhint /counterhint/runs
COPY --from=packages /opt/counterhint /opt/counterhint
COPY recipes /counterhint/recipes
ENV PATH=/opt/counterhint/bin:$PATH PYTHONPATH=/opt/counterhint \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /counterhint
USER 10001:10001
ENTRYPOINT ["counterhint"]
