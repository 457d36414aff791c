#!/bin/sh
# Print the path of uv: the one on PATH, else a pinned one in the user's cache, installed there first if need be.
set -eu

version=0.13.9
if command -v uv; then exit; fi

fail() {
    echo "$1" >&2
    exit 1
}

# A name on PATH may be a shim with nothing behind it, or an older Python.
new_enough() {
    command -v "$1" >/dev/null && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for name in python3 python3.11 python3.12 python3.13 python3.14; do
        if new_enough "$name"; then
            echo "$name"
            return
        fi
    done
    fail "Python 3.11 or newer is missing: install it (Debian, Ubuntu: apt install python3 python3-venv)"
}

cache=${FRAUDSCALE_CACHE:-${HOME:+$HOME/.cache/fraudscale}}
[ -n "$cache" ] || fail "HOME is not set: set it, or FRAUDSCALE_CACHE to a folder of yours"
home=$cache/uv-$version
if [ ! -x "$home/bin/uv" ]; then
    python=$(find_python)
    mkdir -p "$cache" 2>/dev/null || fail "FRAUDSCALE_CACHE=$cache can't be made: set it to a folder of yours"
    # Made beside its place and then moved there, so that an interrupted run leaves nothing half-made.
    part=$home.part.$$
    trap 'rm -rf "$part"' EXIT
    began=$(date +%s)
    "$python" -m venv "$part" >&2 || fail "Python's venv is missing: apt install python3-venv"
    "$part/bin/pip" install --quiet --disable-pip-version-check "uv==$version" >&2
    echo "uv $version: $(du -sm "$part" | cut -f1) MB in $(($(date +%s) - began)) s" >&2
    [ -e "$home" ] || mv "$part" "$home" # another run may have been faster: its copy is as good
fi
echo "$home/bin/uv"
