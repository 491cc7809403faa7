# The trainer, with vLLM for rollouts, on vLLM's own image. From the repository's folder:
#   docker build --file deploy/docker/student.Dockerfile --tag counterhint/student:0.1.0 .
ARG VLLM=vllm/vllm-openai:v0.32.0

FROM ${VLLM} AS wheels
# A compiler, for what comes as source only; it stays in this stage.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY deploy/docker/requirements/build.txt deploy/docker/requirements/student.txt /requirements/
ENV PYTHONPATH=/build
RUN python3 -m pip install --no-cache-dir --require-hashes --no-deps --target /build \
        --requirement /requirements/build.txt \
    && python3 -m pip wheel --no-cache-dir --require-hashes --no-deps --no-build-isolation \
        --wheel-dir /wheels --requirement /requirements/student.txt
COPY . /source
RUN python3 -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels /source

# vLLM, torch and transformers stay as the base has them: beside them, in a folder of their own, goes
# only what it lacks.
FROM ${VLLM} AS packages
COPY --from=wheels /wheels /wheels
ENV PYTHONPATH=/opt/counterhint
# The second line fails when base and lock lack something, or when versions do not go together.
# hadolint ignore=DL3013
RUN python3 -m pip install --no-cache-dir --no-deps --no-index --target /opt/counterhint \
        /wheels/*.whl \
    && python3 -m pip install --no-cache-dir --dry-run --no-index 'counterhint[student-vllm,tracing]'

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
