# Stands in for python:3.11-slim: Debian's own Python 3.11, with pip allowed to install into the system.
FROM launchway/stand-in:debian
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-pip python3-venv \
 && rm -rf /var/lib/apt/lists/* /usr/share/doc /usr/share/man /usr/lib/python3*/EXTERNALLY-MANAGED \
 && ln -s python3 /usr/bin/python && ln -sf /usr/bin/python3 /usr/local/bin/python3 && ln -sf /usr/bin/python3 /usr/local/bin/python
ENV LANG=C.UTF-8
CMD ["python3"]
