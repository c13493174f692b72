#!/bin/sh
# /usr/local/bin/penstock: run a penstock command with the user and the settings of penstock.service. Run it as root.
# The audit trail names the user who called sudo. RELEASE=/opt/penstock-0.2.0 runs another release than the current one.
set -eu
actor=${SUDO_USER:-$(id -un)}
RELEASE=${RELEASE:-/opt/penstock} exec runuser -u penstock -- sh -c '
  umask 077
  cd /var/lib/penstock
  set -a
  . /etc/penstock/penstock.env
  set +a
  exec "$RELEASE/bin/penstock" "$@"' penstock --actor "$actor" "$@"
