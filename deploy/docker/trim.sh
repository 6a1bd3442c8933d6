#!/bin/sh
# Remove from the virtual environment of an image what its services never load: installers, packages' own tests, debug
# symbols of extension modules, and AWS' descriptions of services other than S3 and those that sign in to it.
# Usage: trim.sh STATEMENTS: Python that must still run afterwards.
set -eu
cd /opt/mint
.venv/bin/python -m pip uninstall --quiet --yes uv setuptools pip
packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
find "$packages" -type d -name tests -prune -exec rm -r {} +
# Libraries that wheels bring along, in folders NAME.libs, hold none, and some do not survive the tool.
find "$packages" -name '*.so' -not -path '*.libs/*' -exec strip --strip-debug {} +
find "$packages/botocore/data" -mindepth 1 -maxdepth 1 -type d \
  -not -name s3 -not -name sts -not -name sso -not -name sso-oidc -not -name signin -exec rm -r {} +
.venv/bin/python -B -c "$1"
