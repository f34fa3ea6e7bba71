#!/bin/sh
# check.sh - what a machine can say about the code without running it.
#
#   tools/check.sh VENV
#
# Every check runs, whatever the ones before it said. Nothing is changed.
set -eu
. tools/env.sh

venv=$1
status=0

check() {
    say "$1"
    shift
    "$@" || status=1
}

# One compilation database knows the extension, the other the tests.
tidy() {
    database=$1
    shift
    printf '%s\n' "$@" | xargs -r -n 2 -P 2 \
        clang-tidy --quiet --warnings-as-errors='*' -p "$database"
}

# shellcheck disable=SC2046 # file names here have no blanks
{
    check clang-format "$venv/bin/clang-format" --dry-run -Werror $(git ls-files '*.c' '*.h')
    check "clang-tidy, sources" tidy "build/$(basename "$venv")" \
        $(git ls-files 'common/*.c' 'agent/*.c' 'viewer/*.c' 'reader/*.c')
    check "clang-tidy, tests" tidy build/unit $(git ls-files 'tests/unit/*.c')
}
check "ruff check" "$venv/bin/ruff" check --quiet .
check "ruff format" "$venv/bin/ruff" format --quiet --diff .
check "mypy --strict" "$venv/bin/mypy" --strict
check "mypy --strict, an application" "$venv/bin/mypy" --strict tests/typing
check stubtest env MYPYPATH=agent "$venv/bin/stubtest" --concise loopguard._agent \
    loopguard._segment

# pyright comes from PyPI without its JavaScript, and fetches that when first run.
export PATH="$PWD/$venv/bin:$PATH" PYRIGHT_PYTHON_IGNORE_WARNINGS=1
if "$venv/bin/pyright" --version >/dev/null 2>&1; then
    check pyright "$venv/bin/pyright"
    check "pyright, public names" "$venv/bin/pyright" --ignoreexternal --verifytypes loopguard
else
    say "pyright: SKIPPED, it could not be fetched"
fi
exit $status
