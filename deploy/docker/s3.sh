#!/bin/sh
# Start the S3 store with one identity; its telemetry stays off.
set -eu
umask 077
printf '{"identities":[{"name":"mint","credentials":[{"accessKey":"%s","secretKey":"%s"}],"actions":["Admin"]}]}' \
  "$S3_ACCESS_KEY" "$(cat /run/secrets/s3_secret_key)" > /tmp/s3.json
exec weed mini -dir=/data -master.telemetry=false -webdav=false -admin.ui=false -s3.port=8333 \
  -s3.config=/tmp/s3.json -bucket=mint
