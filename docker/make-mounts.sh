#!/bin/sh
# Lays out docker/mounts/: for each container the folder that it is given, with configuration and secrets. Folders
# and not single files, so that a container sees a file that was replaced: a renewed certificate, a new password.
#
#     docker/make-mounts.sh [GATEWAY_ID]      default: what docker/.env says, else edge-1
#
# Run it again after mosquitto/make-passwords.sh, mosquitto/make-certs.sh, or a change in mosquitto/*.conf or acl.*;
# `make compose-up` does all of that. Then: docker compose … kill -s HUP local-broker cloud-broker
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mosquitto=$here/../mosquitto
mounts=$here/mounts
written=$(sed -n 's/^GATEWAY_ID=//p' "$here/.env" 2>/dev/null || true)
id=${1:-${GATEWAY_ID:-${written:-edge-1}}}
# Containers read the files as another user, so the files are readable and the folder is not.
mkdir -p "$mounts"
chmod 700 "$mounts"
umask 022

lay() { # source, container, name there: whole at any moment, also for a container that reads it
    if [ ! -s "$1" ]; then
        echo "make-mounts.sh: there is no $1; run mosquitto/make-passwords.sh and mosquitto/make-certs.sh $id" >&2
        exit 1
    fi
    mkdir -p "$mounts/$2"
    cmp -s "$1" "$mounts/$2/$3" && return 0
    cp "$1" "$mounts/$2/$3.new"
    chmod 644 "$mounts/$2/$3.new"
    mv "$mounts/$2/$3.new" "$mounts/$2/$3"
}

gateway() { # id
    lay "$mosquitto/passwords/gateway.secret" "gateway-$1" gateway-password
    lay "$mosquitto/passwords/http-token.secret" "gateway-$1" http-token
    lay "$mosquitto/certs/ca.pem" "gateway-$1" cloud-ca
    lay "$mosquitto/certs/$1.pem" "gateway-$1" gateway-cert
    lay "$mosquitto/certs/$1.key" "gateway-$1" gateway-key
}

broker() { # side
    lay "$mosquitto/$1.conf" "$1-broker" mosquitto.conf
    lay "$mosquitto/acl.$1" "$1-broker" acl
    lay "$mosquitto/passwords/$1" "$1-broker" passwords
}

broker local
broker cloud
lay "$mosquitto/certs/ca.pem" cloud-broker ca.pem
lay "$mosquitto/certs/server.pem" cloud-broker server.pem
lay "$mosquitto/certs/server.key" cloud-broker server.key
[ ! -s "$mosquitto/certs/crl.pem" ] || lay "$mosquitto/certs/crl.pem" cloud-broker crl.pem
gateway "$id"
for part in a b; do # of the profile `scale`, where they have certificates
    [ ! -s "$mosquitto/certs/$id-$part.pem" ] || gateway "$id-$part"
done
lay "$mosquitto/passwords/fleet.secret" fleet fleet-password
lay "$mosquitto/passwords/receiver.secret" receiver receiver-password
lay "$mosquitto/passwords/http-token.secret" prometheus http-token
lay "$mosquitto/passwords/grafana.secret" grafana grafana-password
echo "what the containers are given is in $mounts"
