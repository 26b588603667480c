#!/bin/sh
# As in the official image: options alone mean redis-server, and root's server becomes the user redis.
set -e
case ${1:-} in -* | *.conf) set -- redis-server "$@" ;; esac
if [ "$1" = redis-server ]; then
    # Debian's Redis protects itself unless it has a password; the official image listens to its network.
    set -- "$@" --protected-mode no
    if [ "$(id -u)" = 0 ]; then
        find . ! -user redis -exec chown redis:redis {} +
        exec setpriv --reuid=redis --regid=redis --clear-groups -- "$@"
    fi
fi
exec "$@"
