# The trainer, as the pods of a DreamBoothJob run it. `make images` builds it; so does
#
#     docker build --file images/trainer.Dockerfile .
#
# BASE_IMAGE and the secrets are those of operator.Dockerfile. With TORCH_VARIANT=cuda, PyTorch is
# the one without a label in its version, as PyPI has it: for NVIDIA's GPUs, with CUDA in packages
# of its own, so that the base needs none. Anything else is a label, such as `cpu`: pip has to find
# that version through the secret `pip` or the build argument PIP_EXTRA_INDEX_URL.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS tools
WORKDIR /src
# Debian's mirrors keep only the newest versions: a pinned one could soon not be installed. The
# fonts are for the labels of sample grids, in most scripts.
# hadolint ignore=DL3008
RUN mkdir -p /usr/share/fonts \
    && { { command -v tini-static && python3 -c 'import ensurepip'; } \
         || { apt-get update \
              && apt-get install --yes --no-install-recommends \
                  fonts-dejavu-core fonts-droid-fallback python3-venv tini \
              && rm -rf /var/lib/apt/lists/*; }; }
COPY constraints.txt ./
# pip has an environment of its own, which is left behind.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    python3 -m venv /opt/pip \
    && python3 -m venv --without-pip /opt/venv \
    && /opt/pip/bin/pip install --no-cache-dir --upgrade --constraint constraints.txt pip

# Gigabytes that change with constraints.txt alone: a layer apart from our own packages.
FROM tools AS dependencies
ARG TORCH_VARIANT=cuda
ARG PIP_EXTRA_INDEX_URL
COPY images/requirements.py ./
COPY crds/pyproject.toml crds/
COPY storage/pyproject.toml storage/
COPY report/pyproject.toml report/
COPY trainer/pyproject.toml trainer/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    python3 requirements.py crds storage report 'trainer[serve,wandb]' > requirements.txt \
    && case "${TORCH_VARIANT}" in \
        cuda) sed 's/^torch==/torch===/' constraints.txt ;; \
        *) sed "s/^torch==.*/&+${TORCH_VARIANT}/" constraints.txt ;; \
    esac > variant.txt \
    && /opt/pip/bin/pip --python /opt/venv install --no-cache-dir \
        --only-binary :all: --constraint variant.txt --requirement requirements.txt

FROM dependencies AS packages
# Each package's LICENSE is a link to this one.
COPY LICENSE ./
COPY crds crds
COPY storage storage
COPY report report
COPY trainer trainer
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    /opt/pip/bin/pip --python /opt/venv install --no-cache-dir --no-deps \
        --prefix /opt/packages --build-constraint constraints.txt ./crds ./storage ./report ./trainer

FROM ${BASE_IMAGE}
COPY --from=tools /usr/bin/tini-static /usr/bin/tini
COPY --from=tools /usr/share/fonts /usr/share/fonts
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=packages /opt/packages /opt/venv
# Any user may run it, and the root file system may be read-only: the caches of all libraries are
# below HOME, where pods mount a volume. USER is for libraries that would look up the user's name.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    USER=dreambooth \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
# The first process is tini. The kernel would keep SIGTERM from a Python that is the first process
# and does not wait for signals yet, as in the preflight.
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["python", "-m", "dreambooth_trainer.launcher", "--config", "/etc/dreambooth/job.yaml"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.title="DreamBooth trainer" \
      org.opencontainers.image.description="Trains one DreamBoothJob" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
