#!/bin/sh
# asan.sh - the address sanitizer: units with leaks, then the extension.
#
#   tools/asan.sh PYTHON [PYTEST-OPTION...]
#
# The extension and the programs are built with the address and the undefined-
# behaviour sanitizer into .venvs/asan, and tests/python runs on them, real
# servers included. The interpreter itself leaks at exit, so leaks are counted
# in the units only.
set -eu
. tools/env.sh

python=$1
shift
status=0

tools/units.sh asan -Db_sanitize=address -Db_lundef=false || status=1

# gcc's sanitizer comes as one library that can be loaded first.
export CC=gcc
tools/venv.sh .venvs/asan "$python" test
tools/install.sh .venvs/asan -Db_sanitize=address,undefined -Db_lundef=false
say "pytest tests/python, .venvs/asan"
# An interpreter that was not built with the sanitizer must load it first, and
# must not hide its memory from it in arenas of its own.
# The test left out wants freed memory to be used again, which is what the
# sanitizer prevents.
env LD_PRELOAD="$(gcc -print-file-name=libasan.so)" PYTHONMALLOC=malloc \
    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
    PATH="$root/.venvs/asan/bin:$PATH" .venvs/asan/bin/python -m pytest tests/python \
    --deselect tests/python/test_pystack.py::test_freed_code_object_never_lends_its_frame_another_name \
    "$@" </dev/null || status=1
exit $status
