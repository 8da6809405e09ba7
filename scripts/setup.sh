#!/usr/bin/env bash
# Install the project into .venv/, with what its wheels need of the system. Called by make.
#
#   scripts/setup.sh run    what the commands need
#   scripts/setup.sh dev    that, and what the tests and the linter need
#
# Environment: PYTHON names the interpreter (default: python3.11, python3.12 or python3, whichever
# is a Python 3.11 or 3.12). A finished installation leaves .venv/.stamp-run or .venv/.stamp-dev.
set -euo pipefail
cd "$(dirname "$0")/.."
tier="${1:?usage: scripts/setup.sh run|dev}"

# Shared libraries that the wheels load but do not carry, and the Debian package of each.
# Found by looking at what a process that has imported all of them has mapped.
system_libraries="
  libusb-1.0.so.0:libusb-1.0-0    libEGL.so.1:libegl1        libX11.so.6:libx11-6
  libidn2.so.0:libidn2-0          libudev.so.1:libudev1      libstdc++.so.6:libstdc++6
  libGL.so.1:libgl1               libglib-2.0.so.0:libglib2.0-0
" # the first two lines: open3d (libGL, too); the last: OpenCV

# Programs that some tests drive; those tests are skipped where they are missing.
test_programs="
  chromium:chromium    postgres:postgresql
"

fail() {
  echo "setup: $*" >&2
  exit 1
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3}; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
      2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "needs Python 3.11 or 3.12, found neither; install one or say PYTHON=/path/to/python3.11"
}

missing_packages() { # of the system, for the interpreter $1
  local pair missing=""
  for pair in $system_libraries; do
    "$1" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "${pair%%:*}" 2>/dev/null ||
      missing+=" ${pair#*:}"
  done
  "$1" -c 'import ensurepip, venv' 2>/dev/null ||
    missing+=" $("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
  echo "${missing# }"
}

missing_programs() { # postgres lies outside the PATH on Debian
  local pair missing="" path="$PATH:$(echo /usr/lib/postgresql/*/bin)"
  for pair in $test_programs; do
    PATH="$path" command -v "${pair%%:*}" >/dev/null || missing+=" ${pair#*:}"
  done
  echo "${missing# }"
}

install() { # the system packages $1
  echo "setup: installing system packages: $1"
  export DEBIAN_FRONTEND=noninteractive
  # shellcheck disable=SC2086  # a list of names
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends $1; } >/dev/null
}

may_install() { [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; }

python="$(find_python)"
missing="$(missing_packages "$python")"
if [ -n "$missing" ]; then
  may_install || fail "system packages are missing; run: sudo apt-get install $missing"
  install "$missing" || fail "apt-get could not install: $missing"
fi
if [ "$tier" = dev ]; then
  missing="$(missing_programs)"
  if [ -n "$missing" ] && ! { may_install && install "$missing"; }; then
    echo "setup: without these some tests are skipped; run: sudo apt-get install $missing"
  fi
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
what="."
[ "$tier" = dev ] && what=".[dev]"
echo "setup: installing $what into .venv (some minutes, about 2 GB the first time)"
# constraints.txt pins torch: whatever is newer would bring gigabytes of CUDA libraries along.
.venv/bin/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e "$what"
touch .venv/.stamp-run ".venv/.stamp-$tier"
echo "setup: done"
