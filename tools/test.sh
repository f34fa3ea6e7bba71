#!/bin/sh
# test.sh - the whole test-suite: units, then pytest on one Python or more.
#
#   tools/test.sh default|newest|all [PYTEST-OPTION...]
#
# default: the Python of .venv alone. newest: the newest one found as well.
# all: every 3.9-3.13 found. A Python whose tests fail does not keep the others
# from being tested. pytest's own closing line is the last that is printed; the
# exit status is non-zero when anything failed.
set -eu
. tools/env.sh

which=$1
shift
status=0

# One line for each environment to test: "DIR PYTHON", .venv last.
environments() {
    have=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    case $which in
    newest) tools/pythons.sh --newest ;;
    all) tools/pythons.sh ;;
    esac | while read -r minor python; do
        [ "$minor" = "$have" ] || printf '.venvs/%s %s\n' "$minor" "$python"
    done
    printf '.venv -\n'
}

run_pytest() {
    venv=$1
    shift
    say "pytest, $venv: $("$venv/bin/python" -V)"
    PATH="$root/$venv/bin:$PATH" "$venv/bin/python" -m pytest "$@"
}

tools/units.sh unit || status=1

environments >build/environments
while read -r venv python; do
    if [ "$python" != - ]; then
        if ! { tools/venv.sh "$venv" "$python" test && tools/install.sh "$venv"; } </dev/null; then
            status=1
            continue
        fi
    fi
    run_pytest "$venv" "$@" </dev/null || status=1
done <build/environments
exit $status
