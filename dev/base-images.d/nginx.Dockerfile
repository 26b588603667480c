# Stands in for nginx:alpine: Debian's nginx with the official image's paths, user, output and default site.
FROM launchway/stand-in:debian
RUN groupadd --system --gid 101 nginx && useradd --system --gid nginx --uid 101 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin nginx \
 && apt-get update \
 && apt-get install -y --no-install-recommends nginx-light \
 && rm -rf /var/lib/apt/lists/* /usr/share/doc /usr/share/man /etc/nginx/sites-* /var/www \
 && mkdir -p /etc/nginx/conf.d /usr/share/nginx/html /var/cache/nginx \
 && ln -sf /dev/stdout /var/log/nginx/access.log && ln -sf /dev/stderr /var/log/nginx/error.log
COPY nginx.conf /etc/nginx/nginx.conf
COPY default.conf /etc/nginx/conf.d/default.conf
EXPOSE 80
STOPSIGNAL SIGQUIT
CMD ["nginx", "-g", "daemon off;"]
