#!/bin/sh
# Print the path of uv: the one on PATH, else a pinned one in the user's cache, installed there first if need be.
set -eu

version=0.13.9
if command -v uv; then exit; fi

home=${FRAUDSCALE_CACHE:-$HOME/.cache/fraudscale}/uv-$version
if [ ! -x "$home/bin/uv" ]; then
    python=$(command -v python3.11 || command -v python3) || {
        echo "Python is missing: install Python 3.11 or newer (Debian, Ubuntu: apt install python3 python3-venv)" >&2
        exit 1
    }
    # Made beside its place and then moved there, so that an interrupted run leaves nothing half-made.
    part=$home.part.$$
    trap 'rm -rf "$part"' EXIT
    mkdir -p "$(dirname "$home")"
    began=$(date +%s)
    "$python" -m venv "$part" >&2 || {
        echo "Python's venv is missing: apt install python3-venv" >&2
        exit 1
    }
    "$part/bin/pip" install --quiet --disable-pip-version-check "uv==$version" >&2
    echo "uv $version: $(du -sm "$part" | cut -f1) MB in $(($(date +%s) - began)) s" >&2
    [ -e "$home" ] || mv "$part" "$home" # another run may have been faster: its copy is as good
fi
echo "$home/bin/uv"
