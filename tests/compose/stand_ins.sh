#!/usr/bin/env bash
# Make images that stand in for the public ones where there is no registry: Debian with this machine's Python, NATS
# and SeaweedFS from their wheels, Debian's PostgreSQL. Usage: stand_ins.sh WORK VENV. Needs root, podman, mmdebstrap.
set -euo pipefail
work=$1 venv=$2 suite=${SUITE:-trixie}
build() { podman build --quiet --format docker --network=host "$@" >/dev/null; }
mkdir -p "$work"/{python,nats,s3,postgres}

rootfs=$work/rootfs.tar
[ -f "$rootfs" ] || mmdebstrap --quiet --variant=minbase \
  --include=ca-certificates,netbase,tzdata,libsqlite3-0,libssl3t64,libffi8,libbz2-1.0,liblzma5,libreadline8t64,zlib1g,libncursesw6,libuuid1,libexpat1 \
  "$suite" "$rootfs"
podman import --quiet "$rootfs" localhost/mint-debian:test >/dev/null

# CPython of the virtual environment, under /usr/local as in the public image.
prefix=$("$venv/bin/python" -c 'import sys; print(sys.base_prefix)')
version=$("$venv/bin/python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
mkdir -p "$work/python/rootfs/usr/local"
tar -C "$prefix" --exclude="lib/$version/site-packages/*" --exclude="lib/$version/test" --exclude='*.a' \
  --exclude=__pycache__ -cf - "bin/$version" lib include | tar -C "$work/python/rootfs/usr/local" -xf -
for name in python3 python; do ln -sf "$version" "$work/python/rootfs/usr/local/bin/$name"; done
cp /etc/ssl/certs/ca-certificates.crt "$work/python/ca.crt"
cat >"$work/python/Dockerfile" <<'D'
FROM localhost/mint-debian:test
COPY rootfs/ /
COPY ca.crt /etc/ssl/certs/ca-certificates.crt
RUN ldconfig && python3 -c "import ssl, sqlite3, ctypes, lzma"
ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
CMD ["python3"]
D
build -t localhost/mint-python:test "$work/python"

cp "$venv/bin/nats-server" "$work/nats/nats-server"
cp "$venv/bin/weed" "$work/s3/weed"
chmod 755 "$work/nats/nats-server" "$work/s3/weed"
tools='RUN apt-get update -q && apt-get install -q -y --no-install-recommends busybox && ln -s /bin/busybox /usr/bin/wget && ln -s /bin/busybox /usr/bin/nc && rm -rf /var/lib/apt/lists/*'
printf 'FROM localhost/mint-debian:test\n%s\nCOPY nats-server /usr/local/bin/\nENTRYPOINT ["nats-server"]\n' "$tools" >"$work/nats/Dockerfile"
printf 'FROM localhost/mint-debian:test\n%s\nCOPY weed /usr/bin/weed\nENTRYPOINT ["weed"]\n' "$tools" >"$work/s3/Dockerfile"
build -t localhost/mint-nats:test "$work/nats"
build -t localhost/mint-s3:test "$work/s3"

# What the public image's entry point does with the variables that the compose file sets.
cat >"$work/postgres/entry.sh" <<'S'
#!/bin/bash
set -e
export PGDATA=${PGDATA:-/var/lib/postgresql/data}
if [ "$(id -u)" = 0 ]; then
  mkdir -p "$PGDATA" /var/run/postgresql
  chown -R postgres "$PGDATA" /var/run/postgresql
  chmod 700 "$PGDATA"
  exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb -D "$PGDATA" -U "$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" -A scram-sha-256 --auth-local=trust -E UTF8 --locale=C.UTF-8
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  pg_ctl -D "$PGDATA" -o "-c listen_addresses=''" -w start
  psql -U "$POSTGRES_USER" -d postgres -c "CREATE DATABASE \"$POSTGRES_DB\""
  for script in /docker-entrypoint-initdb.d/*.sh; do [ ! -x "$script" ] || "$script"; done
  pg_ctl -D "$PGDATA" -m fast -w stop
fi
exec "$@"
S
cat >"$work/postgres/Dockerfile" <<'D'
FROM localhost/mint-debian:test
RUN apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends postgresql-17 && rm -rf /var/lib/apt/lists/* && { pg_dropcluster 17 main || true; }
ENV PATH=/usr/lib/postgresql/17/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
RUN sed -i "s/^#listen_addresses.*/listen_addresses = '*'/" /usr/share/postgresql/17/postgresql.conf.sample
COPY --chmod=755 entry.sh /usr/local/bin/docker-entrypoint.sh
STOPSIGNAL SIGINT
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
D
build -t localhost/mint-postgres:test "$work/postgres"
