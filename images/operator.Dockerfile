# The operator, and the `dreambooth` command. `make images` builds it; so does
#
#     docker build --file images/operator.Dockerfile .
#
# BASE_IMAGE is Debian, or derived from it, with Python 3.11 or newer. When it has python3-venv and
# tini, nothing but Python packages is downloaded. Two secrets may be given: `pip`, pip's
# configuration, and `ca`, the certificates that it names as /run/secrets/ca.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS tools
WORKDIR /src
# Debian's mirrors keep only the newest versions: a pinned one could soon not be installed.
# hadolint ignore=DL3008
RUN { command -v tini-static && python3 -c 'import ensurepip'; } \
    || { apt-get update \
         && apt-get install --yes --no-install-recommends python3-venv tini \
         && rm -rf /var/lib/apt/lists/*; }
COPY constraints.txt ./
# pip has an environment of its own, which is left behind.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    python3 -m venv /opt/pip \
    && python3 -m venv --without-pip /opt/venv \
    && /opt/pip/bin/pip install --no-cache-dir --upgrade --constraint constraints.txt pip

FROM tools AS dependencies
COPY images/requirements.py ./
COPY crds/pyproject.toml crds/
COPY storage/pyproject.toml storage/
COPY report/pyproject.toml report/
COPY operator/pyproject.toml operator/
# Of `kubernetes`, only the reading of credentials is used: the classes for its API, 79 MB, are
# removed, and its models, which are hardly ever read, are not compiled.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    python3 requirements.py crds storage report 'operator[cli,controller]' > requirements.txt \
    && /opt/pip/bin/pip --python /opt/venv install --no-cache-dir --no-compile \
        --only-binary :all: --constraint constraints.txt --requirement requirements.txt \
    && rm -r /opt/venv/lib/python3*/site-packages/kubernetes/client/api \
        /opt/venv/lib/python3*/site-packages/kubernetes/aio/client/api \
    && /opt/venv/bin/python -m compileall -q -x '/kubernetes/.*/models/' /opt/venv/lib

FROM dependencies AS packages
# Each package's LICENSE is a link to this one.
COPY LICENSE ./
COPY crds crds
COPY storage storage
COPY report report
COPY operator operator
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    /opt/pip/bin/pip --python /opt/venv install --no-cache-dir --no-deps \
        --prefix /opt/packages --build-constraint constraints.txt ./crds ./storage ./report ./operator

FROM ${BASE_IMAGE}
COPY --from=tools /usr/bin/tini-static /usr/bin/tini
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=packages /opt/packages /opt/venv
# Any user may run it, and the root file system may be read-only: it writes nothing. USER is for
# libraries that would look up the user's name, which an arbitrary user does not have.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    USER=dreambooth \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
# The first process is tini. The kernel would keep SIGTERM from a Python that is the first process
# and does not wait for signals yet.
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["dreambooth-operator", "--settings", "/etc/dreambooth-operator/settings.yaml"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.title="DreamBooth operator" \
      org.opencontainers.image.description="Carries DreamBoothJobs out on Kubernetes" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
