#!/bin/sh
# Builds a Debian package out of this checkout, for the Python and the architecture of the machine it runs on:
#
#     packaging/debian/build.sh [FOLDER]      writes FOLDER/mqtt-edge-gateway_VERSION_ARCH.deb (default: dist)
#
# Needs dpkg-deb, strip (binutils), python3 with venv, and an index with the versions of docker/requirements.lock. The package brings all
# Python packages along, in /usr/lib/mqtt-edge-gateway; of the system it takes only python3.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
here=$root/packaging/debian
out=${1:-$root/dist}
python=${PYTHON:-/usr/bin/python3}
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$root/gateway/__init__.py")
minor=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
next=$("$python" -c 'import sys; print("%d.%d" % (sys.version_info[0], sys.version_info[1] + 1))')
arch=$(dpkg --print-architecture)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
umask 022
chmod 755 "$tree"

library=usr/lib/mqtt-edge-gateway
mkdir -p "$tree/DEBIAN" "$tree/$library" "$tree/usr/bin" "$tree/usr/lib/systemd/system" "$tree/etc/gateway" \
    "$tree/usr/share/doc/mqtt-edge-gateway"
"$python" -m venv "$tree/tools"
"$tree/tools/bin/pip" install --quiet --disable-pip-version-check --no-compile --require-hashes \
    --target "$tree/$library" -r "$root/docker/requirements.lock"
"$tree/tools/bin/pip" install --quiet --disable-pip-version-check --no-compile --no-deps \
    --target "$tree/$library" "$root"
rm -rf "$tree/tools" "$tree/$library/bin" # programs, of no use here
"$root/packaging/slim.sh" "$tree/$library"
find "$tree/$library" -name __pycache__ -type d -prune -exec rm -rf {} +
find "$tree/$library" -type f -exec chmod 644 {} +

install -m 755 "$here/gateway" "$tree/usr/bin/gateway"
# A user of its own in the place of a dynamic one, so that the files of /var/lib/gateway have an owner one can name.
sed -e 's#/opt/gateway/bin/gateway#/usr/bin/gateway#' -e 's#^DynamicUser=yes#User=gateway\nGroup=gateway#' \
    "$root/docs/examples/gateway.service" >"$tree/usr/lib/systemd/system/gateway.service"
install -m 640 "$here/gateway.yaml" "$tree/etc/gateway/gateway.yaml"
install -m 644 "$root/README.md" "$tree/usr/share/doc/mqtt-edge-gateway/README.md"
install -m 644 "$here/copyright" "$tree/usr/share/doc/mqtt-edge-gateway/copyright"
printf 'mqtt-edge-gateway (%s) unstable; urgency=medium\n\n  * See CHANGELOG.md of the project.\n\n -- %s  %s\n' \
    "$version" 'The maintainers of mqtt-edge-gateway <maintainers@git.example>' "$(date -R)" |
    gzip -9n >"$tree/usr/share/doc/mqtt-edge-gateway/changelog.gz"
# Wheels bring their C libraries along, each tested with its own; there is no man page, `gateway --help` is it.
mkdir -p "$tree/usr/share/lintian/overrides"
printf 'mqtt-edge-gateway: %s\n' 'embedded-library *' 'hardening-no-pie *' 'unusual-interpreter *' 'no-manual-page *' \
    'maintainer-script-calls-systemctl *' 'non-standard-file-perm *' >"$tree/usr/share/lintian/overrides/mqtt-edge-gateway"
for script in postinst prerm postrm; do
    install -m 755 "$here/$script" "$tree/DEBIAN/$script"
done
echo /etc/gateway/gateway.yaml >"$tree/DEBIAN/conffiles"
cat >"$tree/DEBIAN/control" <<END
Package: mqtt-edge-gateway
Version: $version
Section: net
Priority: optional
Architecture: $arch
Maintainer: The maintainers of mqtt-edge-gateway <maintainers@git.example>
Installed-Size: $(du -sk "$tree" | cut -f1)
Depends: python3 (>= $minor), python3 (<< $next), adduser, libc6
Recommends: mosquitto
Description: MQTT edge gateway that keeps every event
 Takes in what devices publish, keeps it on disk through outages, crashes
 and full disks, aggregates it in windows over event time, and sends it to
 a cloud broker.
END
mkdir -p "$out"
dpkg-deb --root-owner-group -Zxz --build "$tree" "$out/mqtt-edge-gateway_${version}_$arch.deb"
