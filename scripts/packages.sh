#!/bin/sh
# Installs Debian packages whose commands this machine lacks, if it lets us: packages.sh COMMAND=PACKAGE ...
# Never fails: whatever needs the command says so itself, and what to do.
set -u
missing=""
for pair in "$@"; do
  command -v "${pair%%=*}" >/dev/null 2>&1 || missing="$missing ${pair#*=}"
done
[ -n "$missing" ] || exit 0
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo -n"
# shellcheck disable=SC2086
if command -v apt-get >/dev/null 2>&1; then
  { $as_root apt-get update -qq && DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing; } >/dev/null 2>&1
fi
for pair in "$@"; do
  command -v "${pair%%=*}" >/dev/null 2>&1 || echo "note: ${pair%%=*} is missing (apt-get install ${pair#*=})" >&2
done
exit 0
