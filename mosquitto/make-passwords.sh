#!/bin/sh
# Makes the password files of both brokers in mosquitto/passwords/: `local` and `cloud` (hashes, for
# Mosquitto) and NAME.secret (the plain password, for the account's own client).
#
# An account's password is what its variable says (GATEWAY_PASSWORD, DASHBOARD_PASSWORD, …), else what its
# .secret file holds already, else a random one. More accounts, such as devices: name them as arguments.
# They are added to the local broker:
#     mosquitto/make-passwords.sh hall-1 hall-2
# Uses the program mosquitto_passwd, else the one in the image $MOSQUITTO_IMAGE.
set -eu

folder=$(cd "$(dirname "$0")" && pwd)/passwords
image=${MOSQUITTO_IMAGE:-eclipse-mosquitto:2}
# Containers read these files as another user, so the files are readable and the folder is not.
mkdir -p "$folder"
chmod 700 "$folder"
umask 022

hash_file() { # plain `user:password` lines on stdin, the password file of Mosquitto on stdout
    if command -v mosquitto_passwd >/dev/null; then
        plain=$(mktemp) # mode 600
        cat >"$plain"
        mosquitto_passwd -U "$plain"
        cat "$plain"
        rm -f "$plain"
    else
        docker run --rm -i --user 0 --entrypoint sh "$image" -c \
            'umask 077; cat >/tmp/plain; mosquitto_passwd -U /tmp/plain; cat /tmp/plain'
    fi
}

secret_of() { # account: prints its password, and keeps it in its .secret file
    variable=$(printf '%s' "$1" | tr 'a-z.-' 'A-Z__')_PASSWORD
    given=$(printenv "$variable" || true)
    if [ -n "$given" ]; then
        printf '%s' "$given" >"$folder/$1.secret"
    elif [ ! -s "$folder/$1.secret" ]; then
        head -c 18 /dev/urandom | base64 | tr -d '\n' >"$folder/$1.secret"
    fi
    cat "$folder/$1.secret"
}

accounts() { # names: prints a line `user:password` for each
    for account in "$@"; do
        printf '%s:%s\n' "$account" "$(secret_of "$account")"
    done
}

known_devices() { # devices of earlier runs: every secret that is no account of ours
    for file in "$folder"/*.secret; do
        name=$(basename "$file" .secret)
        case $name in
        '*' | gateway | dashboard | zigbee2mqtt | fleet | receiver | operator | http-token | grafana) ;;
        *) echo "$name" ;;
        esac
    done
}

make_file() { # name of the file, accounts
    file=$1
    shift
    lines=$(accounts "$@")
    printf '%s\n' "$lines" | hash_file >"$folder/$file.new"
    mv "$folder/$file.new" "$folder/$file"
}

for device in "$@"; do
    case $device in
    '' | *[!A-Za-z0-9_.-]*)
        echo "make-passwords.sh: '$device' is no account name; use A-Z a-z 0-9 _ . and -" >&2
        exit 2
        ;;
    esac
done
devices=$(printf '%s\n' "$@" $(known_devices) | sort -u)
make_file local gateway dashboard zigbee2mqtt fleet $devices
make_file cloud receiver operator
# What the gateway's own page and its metrics ask for; no broker knows these.
secret_of http-token >/dev/null
secret_of grafana >/dev/null # of Grafana's account admin
echo "password files are in $folder"
