# Varve in a container: docker build -t varve .
#
# The image runs as user 10001 and writes to /var/lib/varve alone, so it works with a read-only root file system.
# It listens on 0.0.0.0 inside the container. That is refused without TLS, unless --insecure is said: compose.yaml
# says it, and publishes the port on 127.0.0.1 of the host only.
#
# There is no HEALTHCHECK: the image has no HTTP client. Let the orchestrator ask GET /readyz (takes writes) and
# GET /healthz (answers).

FROM rust:1-bookworm AS build
WORKDIR /source
COPY . .
RUN cargo build --locked --release -p varve --bin varve

FROM debian:bookworm-slim
COPY --from=build /source/target/release/varve /usr/local/bin/varve
COPY --from=build /source/LICENSE-MIT /source/LICENSE-APACHE /usr/share/doc/varve/
# A named volume takes over owner and mode of this directory when it is made.
RUN install -d -m 0700 -o 10001 -g 10001 /var/lib/varve
USER 10001:10001
ENV VARVE_DATA=/var/lib/varve VARVE_LISTEN=0.0.0.0:8117
VOLUME /var/lib/varve
EXPOSE 8117
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/varve"]
# Once the store is made, set VARVE_MUST_EXIST=true: a volume that is missing then stops the start, instead of
# starting every log again.
CMD ["serve"]
