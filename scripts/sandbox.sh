#!/bin/sh
# Installs bubblewrap, the sandbox that runs are kept in, where this machine lacks it and lets us.
# Never fails: without it `overnight` says at start-up what is missing and how to get it.
set -u
command -v bwrap >/dev/null 2>&1 && exit 0
if command -v apt-get >/dev/null 2>&1; then
  as_root=""
  [ "$(id -u)" = 0 ] || as_root="sudo -n"
  # shellcheck disable=SC2086
  { $as_root apt-get update -qq && DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends bubblewrap; } >/dev/null 2>&1
fi
command -v bwrap >/dev/null 2>&1 || echo "note: bubblewrap is not installed (try: apt-get install bubblewrap); runs will not be sandboxed" >&2
exit 0
