# Stands in for redis:7-alpine: Debian's Redis 7.0, in /data, reachable by the other containers.
FROM launchway/stand-in:debian
RUN groupadd --system --gid 1000 redis && useradd --system --gid redis --uid 999 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin redis \
 && apt-get update \
 && apt-get install -y --no-install-recommends redis-server redis-tools \
 && rm -rf /var/lib/apt/lists/* /usr/share/doc /usr/share/man \
 && mkdir /data && chown redis:redis /data
COPY redis-entrypoint.sh /usr/local/bin/docker-entrypoint.sh
VOLUME /data
WORKDIR /data
EXPOSE 6379
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["redis-server"]
