#!/bin/sh
# units.sh - builds the cmocka unit tests and runs them.
#
#   tools/units.sh NAME [MESON-OPTION...]       in build/NAME
#
# Environment: VENV (.venv) has meson; SUITE limits the run to one room
# (common, agent, viewer); WRAPPER runs each program, as "valgrind -q" does; with
# BUILD_ONLY=yes none is run.
set -eu
. tools/env.sh

name=$1
shift
venv=${VENV:-.venv}
export PATH="$root/$venv/bin:$PATH"

begin_anew_for_other_compiler "build/$name"
again=
[ ! -e "build/$name/build.ninja" ] || again=--reconfigure
# shellcheck disable=SC2086 # no word when the folder is new
if ! log=$(meson setup $again -Dextension=false -Dtests=true -Dwerror=true "$@" "build/$name" 2>&1); then
    printf '%s\n' "$log"
    exit 1
fi
# The tests, and nothing but what they need.
ninja -C "build/$name" --quiet meson-test-prereq
[ "${BUILD_ONLY-}" != yes ] || exit 0

export LG_TEST_DATA="$root/tests/data"
export LG_TEST_OBJECTS="$root/build/$name/tests/unit"
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1}"
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1:halt_on_error=1}"
export TSAN_OPTIONS="${TSAN_OPTIONS:-halt_on_error=1:second_deadlock_stack=1}"

say "units, build/$name"
status=0
for source in tests/unit/${SUITE:-*}/test_*.c; do
    program=$(basename "$source" .c)
    printf '%s\n' "${source%.c}"
    # cmocka's last lines tell enough of a program that passed.
    # shellcheck disable=SC2086 # a wrapper has options
    if timeout 300 ${WRAPPER-} "build/$name/tests/unit/$program" >"build/$name/$program.log" 2>&1; then
        sed -n '/^\[==========\] [0-9]* test/,$p' "build/$name/$program.log"
    else
        printf 'exit status %s\n' $?
        cat "build/$name/$program.log"
        status=1
    fi
done
exit $status
