#!/usr/bin/env bash
# What the official image's entrypoint does with the same variables and folders, written anew: a new data folder is
# made, its user, password and database too, and /docker-entrypoint-initdb.d is read before anybody can connect.
set -euo pipefail

from_file() { # VAR or VAR_FILE
    local file=$1_FILE
    if [[ -n ${!file:-} ]]; then export "$1=$(<"${!file}")"; unset "$file"; fi
}

local_server() { # start without TCP, so that nobody mistakes it for the ready one; or stop
    case $1 in
    start) pg_ctl -D "$PGDATA" -o "-c listen_addresses='' -p 5432 -k /run/postgresql" -w start ;;
    stop) pg_ctl -D "$PGDATA" -m fast -w stop ;;
    esac
}

query() { PGPASSWORD=${POSTGRES_PASSWORD:-} psql -v ON_ERROR_STOP=1 --no-password --no-psqlrc -U "$POSTGRES_USER" "$@"; }

init_files() {
    local file
    for file in /docker-entrypoint-initdb.d/*; do
        case $file in
        *.sh) printf '%s: running %s\n' "$0" "$file"; if [[ -x $file ]]; then "$file"; else . "$file"; fi ;;
        *.sql) printf '%s: running %s\n' "$0" "$file"; query -d "$POSTGRES_DB" -f "$file" ;;
        *.sql.gz) printf '%s: running %s\n' "$0" "$file"; gunzip -c "$file" | query -d "$POSTGRES_DB" ;;
        '/docker-entrypoint-initdb.d/*') ;;
        *) printf '%s: ignoring %s\n' "$0" "$file" ;;
        esac
    done
}

new_data() {
    from_file POSTGRES_PASSWORD
    from_file POSTGRES_USER
    from_file POSTGRES_DB
    export POSTGRES_USER=${POSTGRES_USER:-postgres}
    export POSTGRES_DB=${POSTGRES_DB:-$POSTGRES_USER}
    local method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
    if [[ -z ${POSTGRES_PASSWORD:-} && $method != trust ]]; then
        printf 'Error: Database is uninitialized and superuser password is not specified.\n       You must specify POSTGRES_PASSWORD to a non-empty value for the superuser.\n' >&2
        exit 1
    fi
    local password=()
    if [[ -n ${POSTGRES_PASSWORD:-} ]]; then password=(--pwfile=/dev/stdin); fi
    # shellcheck disable=SC2086 # words on purpose
    initdb -D "$PGDATA" --username="$POSTGRES_USER" "${password[@]}" ${POSTGRES_INITDB_ARGS:-} <<<"${POSTGRES_PASSWORD:-}"
    printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"
    export PGHOST=/run/postgresql
    local_server start
    if [[ $POSTGRES_DB != postgres ]]; then
        printf 'CREATE DATABASE :"db";\n' | query -d postgres -v db="$POSTGRES_DB"
    fi
    init_files
    local_server stop
    unset PGHOST
    printf '\nPostgreSQL init process complete; ready for start up.\n\n'
}

if [[ ${1:-} == -* ]]; then set -- postgres "$@"; fi
if [[ ${1:-} == postgres ]]; then
    if [[ $(id -u) == 0 ]]; then
        mkdir -p "$PGDATA" /run/postgresql
        chown -R postgres:postgres "$PGDATA" /run/postgresql
        chmod 700 "$PGDATA"
        exec setpriv --reuid=postgres --regid=postgres --init-groups -- "$0" "$@"
    fi
    if [[ ! -s $PGDATA/PG_VERSION ]]; then new_data; fi
    unset POSTGRES_PASSWORD
    shift
    # These builds look for the socket in /tmp, people in /run/postgresql.
    set -- postgres -c listen_addresses='*' -c unix_socket_directories=/run/postgresql,/tmp "$@"
fi
exec "$@"
