# The image of the agent: the pinned Node.js, the bundled program, its addon, the CNI executable, the shared objects they
# need, and nothing else: no shell, no package manager, no compiler. glibc is there in full, as the host's IPAM plugins
# run in this container too. scripts/build-image.sh builds it without a registry; any BuildKit does with one.
#
# The secrets are optional: the client configuration of a machine that reaches Debian and npm through a mirror. They are
# mounted for one step and end up in no layer.

FROM debian:bookworm-slim AS build

RUN --mount=type=secret,id=apt-sources,target=/etc/apt/sources.list.d/debian.sources,mode=0444 \
    --mount=type=secret,id=apt-conf,target=/etc/apt/apt.conf.d/99client,mode=0444 \
    apt-get update -q \
    && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
      npm g++ make cmake ninja-build musl-tools \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /source
COPY package.json package-lock.json .npmrc ./
RUN --mount=type=secret,id=npmrc,target=/root/.npmrc,mode=0444 \
    --mount=type=secret,id=certificates,target=/etc/ssl/certs/ca-certificates.crt,mode=0444 \
    npm ci --no-progress --loglevel=error --cache=/tmp/npm && rm -rf /tmp/npm

COPY LICENSE tsconfig.json ./
COPY cni cni
COPY native native
COPY scripts scripts
COPY src src
RUN bash scripts/build.sh && node_modules/.bin/node --no-warnings scripts/image-root.ts /image

FROM scratch

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="virtio-user-cni" \
      org.opencontainers.image.description="CNI plugin and node agent that give every pod a virtio-user device on a vhost-user switch" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="scratch"

# What changes with Debian and Node.js, then what changes with every commit.
COPY --from=build /image/system /
COPY --from=build /image/product /

ENV PATH=/usr/local/bin:/usr/bin
# Root is needed: namespaces of pods are entered, callers prove themselves as root on the agent's socket. Capabilities
# are cut to a handful by the DaemonSet.
USER 0:0
ENTRYPOINT ["virtio-user-cni"]
CMD ["--help"]
