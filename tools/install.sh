#!/bin/sh
# install.sh - builds the tree and installs it into a virtual environment.
#
#   tools/install.sh DIR [MESON-OPTION...]
#
# DIR comes from venv.sh. Incremental: nothing is done when no source is newer
# than the last install, and only what changed is compiled (build/NAME-OF-DIR).
# Warnings are errors here, and the extension keeps its asserts, unless an
# option says otherwise.
set -eu
. tools/env.sh

venv=$1
shift
stamp="$venv/.installed"
build="build/$(basename "$venv")"

options="-Dwerror=true -Ddebug=true -Dagent_asserts=true $*"
made_with="$options ${CC-}"
sources='meson.build meson.options pyproject.toml common agent viewer reader'

# shellcheck disable=SC2086 # a list of names
if [ "$(cat "$stamp" 2>/dev/null)" = "$made_with" ] &&
    [ -z "$(find $sources -newer "$stamp" -print -quit)" ]; then
    exit 0
fi

say "$venv: building and installing loopguard"
# A source that changes from here on is newer than the stamp.
printf '%s\n' "$made_with" >"$stamp.new"
set -- "-Cbuild-dir=$build"
for option in $options; do
    set -- "$@" "-Csetup-args=$option"
done
begin_anew_for_other_compiler "$build"
mkdir -p build
# meson and ninja are those of the environment.
export PATH="$root/$venv/bin:$PATH"
# pip shows a whole log when a file does not compile; ninja shows the error.
if [ -e "$build/build.ninja" ]; then
    log=$(ninja -C "$build" build.ninja 2>&1) || die "$log"
    ninja -C "$build" --quiet
fi
"$venv/bin/python" -m pip install -qq --no-deps \
    --no-build-isolation --no-index --force-reinstall "$@" .
mv "$stamp.new" "$stamp"
