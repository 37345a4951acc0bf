#!/bin/sh
# Makes certificates for development in mosquitto/certs/: an authority (ca), a server and clients, for
# mutual TLS. Production has its own authority; this one has its key lying beside it.
#
#     mosquitto/make-certs.sh [--server NAME]... [CLIENT]...
#
# --server adds a host name or IP address to the server's certificate (localhost, 127.0.0.1, cloud-broker
# and local-broker are always in it). A CLIENT's name becomes the CN, which the brokers take as its user
# name: the id of a gateway, or the name of a device. Default: edge-1. What is there already is kept, except
# the server's certificate when names are added; delete mosquitto/certs/ to start anew.
set -eu

folder=$(cd "$(dirname "$0")" && pwd)/certs
days=825 # what common TLS stacks accept at most for a server's certificate
mkdir -p "$folder"
# Containers read the keys as another user, so the files are readable and the folder is not.
chmod 700 "$folder"
umask 022

alternative_names=DNS:localhost,IP:127.0.0.1,DNS:cloud-broker,DNS:local-broker
while [ "${1:-}" = --server ]; do
    case ${2:?--server needs a name} in
    *[!0-9.]*) alternative_names=$alternative_names,DNS:$2 ;;
    *) alternative_names=$alternative_names,IP:$2 ;;
    esac
    rm -f "$folder/server.pem"
    shift 2
done
[ $# -gt 0 ] || set -- edge-1
for client in "$@"; do
    case $client in
    '' | ca | server | *[!A-Za-z0-9_.-]*)
        echo "make-certs.sh: '$client' is no client name; use A-Z a-z 0-9 _ . and -" >&2
        exit 2
        ;;
    esac
done

new_key() { # name, mode
    [ ! -s "$folder/$1.key" ] || return 0
    openssl ecparam -name prime256v1 -genkey -noout -out "$folder/$1.key"
    chmod "$2" "$folder/$1.key"
}

authority() {
    [ ! -s "$folder/ca.pem" ] || return 0
    new_key ca 600
    openssl req -x509 -new -sha256 -days 3650 -key "$folder/ca.key" -out "$folder/ca.pem" \
        -subj "/CN=edge gateway development CA" -addext keyUsage=critical,keyCertSign,cRLSign
}

sign() { # name, extendedKeyUsage, subjectAltName
    [ ! -s "$folder/$1.pem" ] || return 0
    new_key "$1" 644
    printf '%s\n' basicConstraints=critical,CA:FALSE keyUsage=critical,digitalSignature "extendedKeyUsage=$2" \
        "subjectAltName=$3" subjectKeyIdentifier=hash authorityKeyIdentifier=keyid >"$folder/extensions"
    openssl req -new -sha256 -key "$folder/$1.key" -subj "/CN=$1" -out "$folder/request"
    openssl x509 -req -sha256 -days "$days" -in "$folder/request" -CA "$folder/ca.pem" -CAkey "$folder/ca.key" \
        -CAcreateserial -extfile "$folder/extensions" -out "$folder/$1.pem" 2>/dev/null
    rm -f "$folder/request" "$folder/extensions"
}

authority
sign server serverAuth "$alternative_names"
for client in "$@"; do
    sign "$client" clientAuth "DNS:$client"
done
echo "certificates are in $folder"
