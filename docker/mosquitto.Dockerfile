# Mosquitto for machines that cannot pull eclipse-mosquitto. It is used in the same way: the same paths, the
# same user id (1883), the configuration in /mosquitto/config/mosquitto.conf.
ARG BASE_IMAGE=debian:bookworm-slim
FROM ${BASE_IMAGE}

RUN groupadd --system --gid 1883 mosquitto \
    && useradd --system --uid 1883 --gid 1883 --no-create-home --shell /usr/sbin/nologin mosquitto \
    && apt-get update \
    && apt-get install -y --no-install-recommends mosquitto mosquitto-clients \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir -p /mosquitto/config /mosquitto/data /mosquitto/log \
    && chown -R mosquitto:mosquitto /mosquitto

USER mosquitto
VOLUME /mosquitto/data
EXPOSE 1883 1885 8883 9001
CMD ["mosquitto", "-c", "/mosquitto/config/mosquitto.conf"]
