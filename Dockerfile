# Build: docker build -t fastgw .
# Run:   docker run -p 8080:8080 -v fastgw-data:/srv/fastgw/fastgw-data --read-only --tmpfs /tmp \
#            --cap-drop ALL --security-opt no-new-privileges fastgw
#
# Before you publish an image, pin both bases by digest. `docker buildx imagetools inspect NAME`
# prints it; hand it over as --build-arg BUILD_IMAGE=python:3.13-bookworm@sha256:... and likewise
# RUN_IMAGE. `make image-check` runs these steps without a Docker engine.
ARG BUILD_IMAGE=python:3.13-bookworm
ARG RUN_IMAGE=python:3.13-slim-bookworm

FROM ${BUILD_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ONLY_BINARY=:all:
WORKDIR /src
COPY requirements requirements
# The tools and the packages are locked by hash; nothing else is fetched.
RUN python -m venv /opt/build && \
    /opt/build/bin/python -m pip install --require-hashes -r requirements/build.lock
RUN python -m venv --without-pip /opt/fastgw && \
    /opt/build/bin/python -m pip --python /opt/fastgw/bin/python \
        install --require-hashes -r requirements/run.lock
COPY . .
# A fixed date makes the same sources give the same wheel.
RUN FASTGW_REQUIRE_EXT=1 SOURCE_DATE_EPOCH=1767225600 /opt/build/bin/python -m pip wheel \
        --no-deps --no-build-isolation --no-index --wheel-dir /opt/wheel . && \
    /opt/build/bin/python -m pip --python /opt/fastgw/bin/python \
        install --no-deps --no-index /opt/wheel/*.whl

FROM ${RUN_IMAGE}
COPY --from=build /opt/fastgw /opt/fastgw
# No file here lets its caller become another user; the data folder is the only one to write to.
RUN find / -xdev -type f -perm /6000 -exec chmod a-s {} + && \
    install -d -m 0700 -o 10001 -g 10001 /srv/fastgw/fastgw-data
ENV PATH=/opt/fastgw/bin:/usr/local/bin:/usr/bin:/bin HOME=/srv/fastgw \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /srv/fastgw
VOLUME ["/srv/fastgw/fastgw-data"]
EXPOSE 8080
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-c", "import http.client as h, os, sys; c = h.HTTPConnection('127.0.0.1', int(os.environ.get('FASTGW_SERVER__PORT', '8080')), timeout=2); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["fastgw"]
CMD ["serve", "--host", "0.0.0.0"]
