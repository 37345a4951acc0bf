#!/bin/sh
# Takes out of a folder of installed packages what the gateway never loads, some 55 MB:
#
#     packaging/slim.sh FOLDER
#
# The debugging symbols go where there is a `strip` (binutils).
set -eu
cd "$1"

rm -rf apsw/sqlite_extra_binaries apsw/tests
# CEL brings an interactive shell along; these two are for nothing else.
rm -rf prompt_toolkit prompt_toolkit-*.dist-info wcwidth wcwidth-*.dist-info
rm -f zstandard/_cffi.*.so # on CPython the other back end is used
if command -v strip >/dev/null; then
    find . -name '*.so*' -type f -exec strip --strip-unneeded {} +
fi
