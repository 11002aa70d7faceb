# The program with its pinned packages: for one command anywhere, and for the workers of a study
# (docs/studies/cluster.md).
#
#     docker build -t quantum-plasticity .
#     docker run --rm -v "$PWD/results:/work/results" quantum-plasticity \
#         python -m experiments.mnist --preset quick
#
# PIP_EXTRA_INDEX_URL may name an index of torch's builds for the CPU, which are smaller by gigabytes.
FROM python:3.11-slim
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 MPLBACKEND=agg
WORKDIR /opt/quantum-plasticity
# The packages first: they are built anew only if the pins change.
COPY requirements.txt ./
RUN grep -v '^-e' requirements.txt > pins.txt && pip install -r pins.txt
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY plasticity plasticity
COPY experiments experiments
RUN pip install --no-deps .
# No root: files in a shared folder belong to who runs the container (--user), or to this user.
RUN useradd --create-home --uid 1000 plasticity && mkdir /work && chown plasticity /work
USER plasticity
WORKDIR /work
CMD ["python", "-m", "experiments"]
