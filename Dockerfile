# One image for every Dropflow process: Prefect server, apply, listener and worker.

# Of one Python and one Debian, not of one digest: each build takes their fixes.
FROM python:3.12-slim-trixie AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH="/opt/venv/bin:$PATH"
WORKDIR /opt/dropflow

# The lock is complete: pip checks every hash and resolves nothing.
COPY requirements.lock ./
RUN pip install --no-deps --require-hashes -r requirements.lock

# setuptools is needed for the build alone; the development lock has its hash.
COPY requirements-dev.lock ./
RUN sed -n '/^setuptools==/,/# via/p' requirements-dev.lock > /tmp/build.lock \
    && pip install --no-deps --require-hashes -r /tmp/build.lock

# Editable: datasets/ and automations/ are looked for beside the package.
COPY pyproject.toml LICENSE ./
COPY notifications/ notifications/
COPY dropflow/ dropflow/
COPY flows/ flows/
COPY listeners/ listeners/
COPY automations/ automations/
COPY datasets/ datasets/
RUN pip install --no-deps --no-build-isolation --editable . \
    && pip uninstall --yes setuptools \
    && python -m compileall -q automations dropflow flows listeners notifications

FROM python:3.12-slim-trixie
RUN groupadd --gid 10001 dropflow \
    && useradd --uid 10001 --gid dropflow --no-create-home \
        --home-dir /var/lib/dropflow --shell /usr/sbin/nologin dropflow \
    && install -d -o dropflow -g dropflow /var/lib/dropflow /var/lib/dropflow/ui
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/dropflow /opt/dropflow
# The Prefect UI copies its pages at start; beside the package it may not write.
ENV PATH="/opt/venv/bin:$PATH" \
    PYTHONUNBUFFERED=1 \
    DROPFLOW_DATA_DIR=/var/lib/dropflow \
    PREFECT_HOME=/var/lib/dropflow/prefect \
    PREFECT_SERVER_UI_STATIC_DIRECTORY=/var/lib/dropflow/ui
WORKDIR /var/lib/dropflow
# By number: Kubernetes has to see that it is not root.
USER 10001:10001
ENTRYPOINT ["dropflow"]
CMD ["--help"]
