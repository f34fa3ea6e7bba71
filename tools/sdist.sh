#!/bin/sh
# sdist.sh - dist/*.tar.gz from the last commit.
#
#   tools/sdist.sh VENV
set -eu
. tools/env.sh

venv=$1
"$venv/bin/python" -m pip install -qq 'build>=1.2'
PATH="$root/$venv/bin:$PATH" "$venv/bin/python" -m build --sdist --no-isolation --outdir dist . >build/sdist.log 2>&1 || {
    cat build/sdist.log
    die "no source archive"
}
ls dist/*.tar.gz
