# docs/kubernetes.md says how to build this. Any base will do whose python3 is 3.11 or newer and has venv.
ARG BASE=docker.io/library/python:3.13.13-slim-trixie

FROM ${BASE} AS build
COPY . /src
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca.pem \
    --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/tproxy \
    && /opt/tproxy/bin/pip install --disable-pip-version-check --no-compile /src \
    && /opt/tproxy/bin/pip uninstall --yes pip setuptools \
    && find /opt/tproxy -depth -type d '(' -name test -o -name tests -o -name __pycache__ ')' -exec rm -r {} + \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/tproxy

FROM ${BASE}
LABEL org.opencontainers.image.title="tproxy" \
      org.opencontainers.image.description="A transparent proxy for mail systems in Kubernetes" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/tproxy /opt/tproxy
ENV PATH=/opt/tproxy/bin:$PATH
# What can't be written later: the caches of plug-ins, and bytecode of the standard library, which the public base lacks.
# Codecs are imported by name, when one is needed.
RUN twistd tproxy --help && tproxy --version \
    && python3 -m compileall -q "$(python3 -c 'import encodings; print(*encodings.__path__)')"
USER 65532:65532
WORKDIR /tmp
CMD ["twistd", "-n", "--pidfile=", "tproxy", "--config", "/etc/tproxy/tproxy.yaml"]
