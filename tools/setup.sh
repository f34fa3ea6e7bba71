#!/bin/sh
# setup.sh - the Debian packages that a target needs.
#
#   tools/setup.sh GROUP...     build test check valgrind bench, or all
#
# Looks for what is needed (a program, a header), not for package names, and is
# done in a fraction of a second when all is there. What is missing is installed
# with apt-get when we are root. Otherwise it is named, with the command that
# root would type, and unpacked into .deps/ where the tools find it.
#
# Environment: PYTHON (python3) is the interpreter that must be able to build.
set -eu
. tools/env.sh

python=${PYTHON:-python3}

has_program() {
    command -v "$1" >/dev/null 2>&1
}

has_header() {
    printf '#include <setjmp.h>\n#include <stdarg.h>\n#include <stddef.h>\n#include <%s>\n' "$1" |
        "${CC:-cc}" -E - >/dev/null 2>&1
}

# With -print-file-name the compiler answers the bare name when it has none.
has_library() {
    [ "$("${CC:-cc}" -print-file-name="$1" 2>/dev/null)" != "$1" ]
}

has_compiler() {
    has_program "${CC:-cc}" && has_header stdio.h && has_library libc.so
}

# One start of the interpreter answers all three questions.
python_lacks() {
    "$python" - "${C_INCLUDE_PATH:-}" <<'PY' 2>/dev/null || echo python
import glob, os, sys, sysconfig
if sys.version_info < (3, 9):
    sys.exit(1)
include = sysconfig.get_path("include")
if not any(os.path.exists(d + "/Python.h") for d in [include, *sys.argv[1].split(":")]):
    print("dev")
try:
    import venv
    if not glob.glob(".deps/root/usr/share/python-wheels/pip-*.whl"):
        import ensurepip
except ImportError:
    print("venv")
PY
}

# Packages carry the minor version: python3 may be any of them.
python_packages() {
    lacks=$(python_lacks)
    case $lacks in
    '') return ;;
    *python*)
        has_program "$python" && die "$python is older than 3.9, or does not run; set PYTHON="
        [ "$python" = python3 ] || die "no $python on PATH; set PYTHON="
        echo python3 python3-dev python3-venv
        return ;;
    esac
    base=$("$python" -c 'import sys; print(sys.base_prefix, "python%d.%d" % sys.version_info[:2])')
    [ "${base% *}" = /usr ] ||
        die "$python was built without: $lacks. Debian's packages cannot add that; set PYTHON="
    for what in $lacks; do
        echo "${base#* }-$what"
    done
}

# The packages of a group that are missing, one a line.
missing_of() {
    case $1 in
    build)
        has_compiler || echo build-essential
        has_program make || echo make
        python_packages
        { has_header ncurses.h && { has_library libncursesw.a || has_library libncursesw.so; }; } ||
            echo libncurses-dev ;;
    test)
        { has_header cmocka.h && has_library libcmocka.so; } || echo libcmocka-dev
        has_program tmux || echo tmux ;;
    check)
        has_program clang-tidy || echo clang-tidy ;;
    valgrind)
        has_program valgrind || echo valgrind ;;
    bench)
        has_program wrk || echo wrk ;;
    all)
        for group in build test check valgrind bench; do
            missing_of "$group"
        done ;;
    *)
        die "no group $1; there are: build test check valgrind bench all" ;;
    esac
}

missing() {
    for group in "$@"; do
        missing_of "$group" || exit 1
    done | sort -u
}

install_as_root() {
    say "apt-get install" "$@"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq </dev/null
    apt-get install -y -qq --no-install-recommends "$@" </dev/null >.setup.log 2>&1 || {
        cat .setup.log
        rm -f .setup.log
        die "apt-get install failed"
    }
    rm -f .setup.log
}

# apt-get on lists of our own: the system's may be empty, and are root's.
own_apt() {
    apt-get -o Dir::State::lists="$root/.deps/lists" -o Dir::Cache="$root/.deps/cache" \
        -o Dir::State::status=/var/lib/dpkg/status -o Debug::NoLocking=1 "$@" </dev/null
}

# All or nothing: .deps/root appears when every package is unpacked.
unpack_as_user() {
    say "not root: unpacking into .deps/:" "$@"
    mkdir -p .deps/lists/partial .deps/cache/archives/partial .deps/debs
    own_apt update -qq
    packages=$(own_apt install -s --no-install-recommends "$@" | awk '/^Inst/ { print $2 }')
    rm -rf .deps/new
    mkdir .deps/new
    [ ! -d .deps/root ] || cp -a .deps/root/. .deps/new/
    (
        cd .deps/debs
        # shellcheck disable=SC2086 # a list of names
        own_apt download -qq $packages
    )
    for deb in .deps/debs/*.deb; do
        dpkg -x "$deb" .deps/new
    done
    # What the packages' own scripts would do: cc is one of Debian's alternatives.
    [ ! -e .deps/new/usr/bin/gcc ] || ln -sf gcc .deps/new/usr/bin/cc
    # A linker script with the absolute names of a real installation.
    find .deps/new -name libc.so -path '*/usr/lib/*' -exec \
        sed -i "s| /usr/lib| $root/.deps/root/usr/lib|g" {} +
    rm -rf .deps/root .deps/debs
    mv .deps/new .deps/root
}

[ $# -gt 0 ] || set -- all
packages=$(missing "$@") || exit 1
[ -n "$packages" ] || exit 0
# shellcheck disable=SC2086 # a list of names from here on
set -- "$@" -- $packages
while [ "$1" != -- ]; do
    groups="${groups-} $1"
    shift
done
shift

if ! has_program apt-get; then
    die "missing, by their Debian names: $*. Install them with this system's package manager"
elif [ "$(id -u)" -eq 0 ]; then
    install_as_root "$@"
else
    say "missing:" "$@"
    say "for everyone on this machine, as root: apt-get install --no-install-recommends $*"
    unpack_as_user "$@"
    use_deps
fi

packages=$(missing $groups) || exit 1
[ -z "$packages" ] || die "still missing after the set-up:" $packages
