#!/bin/sh
# Makes certificates in mosquitto/certs/ for mutual TLS. Two authorities, so that a certificate of a device
# cannot act as a gateway at the cloud:
#
#     cloud side    ca.pem, server.pem, and CLIENT.pem for each gateway
#     device side   devices-ca.pem, devices-server.pem, and NAME.pem for each --device
#
#     mosquitto/make-certs.sh [--server NAME]... [--device NAME]... [CLIENT]...
#     mosquitto/make-certs.sh --renew [DAYS]       new certificates, with the same keys, for those that expire
#                                                  within DAYS (30); run it every day or week from cron
#     mosquitto/make-certs.sh --revoke NAME        put NAME.pem on the list of its authority (crl.pem or
#                                                  devices-crl.pem)
#
# --server adds a host name, IPv4 or IPv6 address to both servers' certificates; names of earlier runs stay,
# and localhost, 127.0.0.1, ::1, cloud-broker and local-broker are always there. The name of a CLIENT or device
# becomes the CN, which the brokers take as its user name: the id of a gateway, or the name of a device.
# Default: the client edge-1. --seconds N makes short-lived certificates, for tests.
# What is there already is kept. The keys of the authorities lie beside the certificates: move ca.key and
# devices-ca.key to a machine that is not reachable, and run this script there, once devices are in use.
set -eu

folder=$(cd "$(dirname "$0")" && pwd)/certs
seconds=71280000 # 825 days: what common TLS stacks accept at most for a server's certificate
mkdir -p "$folder"
# Containers read the keys as another user, so the files are readable and the folder is not.
chmod 700 "$folder"
umask 022
cd "$folder"

fail() {
    echo "make-certs.sh: $1" >&2
    exit 2
}

check_name() {
    case $1 in
    '' | ca | server | crl | devices-ca | devices-server | devices-crl | *[!A-Za-z0-9_.-]*)
        fail "'$1' is no client name; use A-Z a-z 0-9 _ . and -"
        ;;
    esac
}

new_key() { # name, mode
    [ ! -s "$1.key" ] || return 0
    openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
    chmod "$2" "$1.key"
}

authority() { # its name, what it is called
    [ -s "$1.index" ] || : >"$1.index"
    [ ! -s "$1.pem" ] || return 0
    new_key "$1" 600
    openssl req -x509 -new -sha256 -days 3650 -key "$1.key" -out "$1.pem" \
        -subj "/CN=$2" -addext keyUsage=critical,keyCertSign,cRLSign
}

ca() { # authority, arguments of openssl ca
    ca_name=$1
    shift
    cat >settings <<END
[ca]
default_ca = this
[this]
database = $ca_name.index
new_certs_dir = .
certificate = $ca_name.pem
private_key = $ca_name.key
default_md = sha256
rand_serial = yes
unique_subject = no
policy = policy
default_crl_days = 3650
[policy]
commonName = supplied
END
    openssl ca -batch -notext -config settings "$@" 2>problem || { cat problem >&2; exit 1; }
    rm -f settings problem
}

ends() { # seconds from now, such as +60, as openssl writes it
    date -u -d "$1 seconds" +%Y%m%d%H%M%SZ 2>/dev/null || date -u -v "${1}S" +%Y%m%d%H%M%SZ
}

sign() { # as issue, where there is none yet
    [ -s "$1.pem" ] || issue "$@"
}

issue() { # name, authority, extendedKeyUsage, subjectAltName: the old one stays until the new one is whole
    new_key "$1" 644
    printf '%s\n' basicConstraints=critical,CA:FALSE keyUsage=critical,digitalSignature "extendedKeyUsage=$3" \
        "subjectAltName=$4" subjectKeyIdentifier=hash authorityKeyIdentifier=keyid >extensions
    openssl req -new -sha256 -key "$1.key" -subj "/CN=$1" -out request
    # An hour back: the clock of who checks it may be behind.
    ca "$2" -in request -out "$1.new" -extfile extensions -startdate "$(ends -3600)" -enddate "$(ends "+$seconds")"
    for copy in ./[0-9A-F]*[0-9A-F].pem; do # what openssl ca keeps for itself, named by its serial number
        case $copy in *[!./0-9A-Fpem]*) ;; *) rm -f "$copy" ;; esac
    done
    mv "$1.new" "$1.pem"
    rm -f request extensions
}

names_in() { # certificate: its names, as the option subjectAltName takes them
    [ -s "$1.pem" ] || return 0
    openssl x509 -in "$1.pem" -noout -ext subjectAltName 2>/dev/null | sed -n '2s/IP Address:/IP:/g; 2s/ //gp'
}

as_names() { # names: DNS:… or IP:… of each
    for name in "$@"; do
        case $name in
        *:* | [0-9]*.[0-9]*.[0-9]*.[0-9]*) echo "IP:$name" ;;
        *) echo "DNS:$name" ;;
        esac
    done
}

server() { # name of the certificate, authority: made anew when there are names that it does not have
    known=$(names_in "$1" | tr , '\n' | sed 's/^IP:0:0:0:0:0:0:0:1$/IP:::1/')
    wanted=$(as_names localhost 127.0.0.1 ::1 cloud-broker local-broker $added; echo "$known")
    wanted=$(echo "$wanted" | sort -u | grep .)
    [ "$wanted" = "$(echo "$known" | sort -u)" ] ||
        issue "$1" "$2" serverAuth "$(echo "$wanted" | paste -s -d , -)"
}

issuer() { # certificate: the authority that made it
    for one in devices-ca ca; do
        if [ -s "$one.pem" ] && openssl verify -no_check_time -CAfile "$one.pem" "$1.pem" >/dev/null 2>&1; then
            echo "$one"
            return
        fi
    done
}

renew() { # days
    for file in *.pem; do
        name=${file%.pem}
        case $name in ca | devices-ca | crl | devices-crl | '*') continue ;; esac
        openssl x509 -in "$file" -noout -checkend "$(($1 * 86400))" >/dev/null && continue
        by=$(issuer "$name")
        if [ -z "$by" ]; then
            echo "make-certs.sh: $file is not of an authority in $folder; not renewed" >&2
            continue
        fi
        use=clientAuth
        case $name in server | devices-server) use=serverAuth ;; esac
        issue "$name" "$by" "$use" "$(names_in "$name")"
        echo "renewed $file"
    done
    for one in ca devices-ca; do
        [ ! -s "$one.pem" ] || openssl x509 -in "$one.pem" -noout -checkend $((365 * 86400)) >/dev/null ||
            echo "make-certs.sh: $one.pem itself expires within a year: plan a new authority" >&2
    done
}

list() { # authority: writes the list of what it has revoked
    ca "$1" -gencrl -out "${1%ca}crl.pem"
}

added=
devices=
days=
while [ $# -gt 0 ]; do
    case $1 in
    --server) added="$added ${2:?--server needs a name}"; shift 2 ;;
    --device) check_name "${2:?--device needs a name}"; devices="$devices $2"; shift 2 ;;
    --seconds) seconds=${2:?--seconds needs a number}; shift 2 ;;
    --renew)
        days=30
        shift
        case ${1:-} in '' | *[!0-9]*) ;; *) days=$1; shift ;; esac
        ;;
    --revoke)
        name=${2:?--revoke needs a name}
        by=$(issuer "$name")
        [ -n "$by" ] || fail "$name.pem is not of an authority in $folder"
        authority "$by" ''
        ca "$by" -revoke "$name.pem"
        list "$by"
        mv "$name.pem" "$name.revoked"
        echo "revoked $name; the broker reads ${by%ca}crl.pem (crlfile) at its next reload"
        exit 0
        ;;
    -*) fail "there is no option $1" ;;
    *) break ;;
    esac
done
authority ca 'edge gateway development CA'
authority devices-ca 'edge gateway development CA of devices'
if [ -n "$days" ]; then
    renew "$days"
    exit 0
fi
[ $# -gt 0 ] || [ -n "$devices" ] || set -- edge-1
for client in "$@"; do
    check_name "$client"
done
server server ca
server devices-server devices-ca
for device in $devices; do
    sign "$device" devices-ca clientAuth "DNS:$device"
done
for client in "$@"; do
    sign "$client" ca clientAuth "DNS:$client"
done
for one in ca devices-ca; do
    [ -s "${one%ca}crl.pem" ] || list "$one"
done
echo "certificates are in $folder"
