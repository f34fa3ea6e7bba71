#!/bin/sh
# pythons.sh - lists the CPythons that loopguard can be built for here.
#
#   tools/pythons.sh            one line for each minor version: "3.11 /path"
#   tools/pythons.sh --newest   the last of these lines
#
# Looks at python3.N and python3 on PATH, then at pyenv's versions. Of two with
# the same minor version the first found wins. One without headers or without
# venv cannot be built for; it is left out, with a word on stderr.
set -eu

probe='
import os, sys, sysconfig
if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
    sys.exit(3)
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    sys.exit("no Python.h")
import ensurepip, venv
print("%d.%d" % sys.version_info[:2])
'

candidates() {
    for minor in 9 10 11 12 13; do
        command -v "python3.$minor" || :
    done
    command -v python3 || :
    for dir in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*; do
        printf '%s\n' "$dir/bin/python"
    done
}

list() {
    candidates | while read -r python; do
        [ -x "$python" ] || continue
        # A pyenv shim exists for versions that are switched off, too.
        why=$("$python" -c "$probe" 2>&1) || {
            case $why in
            *"No module named"* | *"no Python.h"*)
                printf 'pythons.sh: %s left out: %s\n' "$python" "$why" >&2 ;;
            esac
            continue
        }
        case $why in
        3.9 | 3.10 | 3.11 | 3.12 | 3.13) printf '%s %s\n' "$why" "$python" ;;
        esac
    done | awk '!seen[$1]++' | sort -t. -k2,2n
}

case ${1-} in
--newest) list | tail -n 1 ;;
'') list ;;
*) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
