#!/bin/sh
# venv.sh - makes or brings up to date a virtual environment of this tree.
#
#   tools/venv.sh DIR PYTHON [GROUP...]
#
# Groups are those of [dependency-groups] in pyproject.toml; "build" is always
# among them. Does nothing, at once, when all is there already. A DIR that was
# made by another Python is made anew.
set -eu
. tools/env.sh

venv=$1
python=$2
shift 2

# Debian's ensurepip knows its wheels by their absolute name, where an unpacked
# package does not have them.
make_venv() {
    pip=$(find .deps/root/usr/share/python-wheels -name 'pip-*.whl' 2>/dev/null | head -n 1)
    if [ -z "$pip" ]; then
        "$python" -m venv "$venv"
    else
        "$python" -m venv --without-pip "$venv"
        "$venv/bin/python" "$pip/pip" install -qq --no-index "$pip"
    fi
}

# The interpreter itself, not the shim or link by which it was found.
real=$("$python" -c 'import sys; print(sys.executable, sys.version.split()[0])') ||
    die "$python does not run; set PYTHON= to a CPython 3.9 or newer"

if [ "$(cat "$venv/.made-by" 2>/dev/null)" != "$real" ]; then
    rm -rf "$venv" "build/$(basename "$venv")"
    say "$venv: new, ${real#* } from ${real% *}"
    make_venv
    printf '%s\n' "$real" >"$venv/.made-by"
fi

wanted=
for group in build "$@"; do
    stamp="$venv/.group-$group"
    if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
        wanted="$wanted $group"
    fi
done
[ -n "$wanted" ] || exit 0

say "$venv: installing$wanted"
# --group came with pip 25.1.
"$venv/bin/python" -m pip install -qq --upgrade 'pip>=25.1'
options=
for group in $wanted; do
    options="$options --group $group"
done
# shellcheck disable=SC2086 # two words for each group
"$venv/bin/python" -m pip install -qq --upgrade $options
for group in $wanted; do
    : >"$venv/.group-$group"
done
