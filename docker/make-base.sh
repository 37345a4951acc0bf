#!/bin/sh
# Makes a slim Debian with Python, for machines that cannot pull one, and for platforms other than their own:
#
#     docker/make-base.sh [IMAGE [ARCH]]      default: local/python:bookworm, and this machine's architecture
#
# Needs root, debootstrap and a Docker engine; for another architecture (arm64, armhf) also qemu-user-static.
set -eu

image=${1:-local/python:bookworm}
arch=${2:-$(dpkg --print-architecture)}
case $arch in
armhf) platform=linux/arm/v7 ;;
*) platform=linux/$arch ;;
esac
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root" # it becomes the root of the image

debootstrap --arch="$arch" --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root"
# As in Debian's own slim images; licences stay.
find "$root/usr/share/doc" -type f ! -name copyright -delete
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/usr/share/man/* \
    "$root"/usr/share/locale/* "$root"/usr/share/info/* "$root"/usr/share/lintian
tar -C "$root" -c . | docker import --platform "$platform" --change 'CMD ["bash"]' - "$image"
