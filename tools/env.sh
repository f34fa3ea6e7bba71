# env.sh - sourced by the other tools, from the root of the tree.
#
# Makes a run the same everywhere: no Python path of the caller's shell, and
# what setup.sh unpacked into .deps/ where it could not install.

unset PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV
export PIP_DISABLE_PIP_VERSION_CHECK=1

root=$(pwd)

say() {
    printf '== %s\n' "$*"
}

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# A build folder keeps the compiler that it began with; CC= may have changed.
begin_anew_for_other_compiler() {
    if [ "$(cat "$1.cc" 2>/dev/null)" != "${CC-}" ]; then
        rm -rf "$1"
        mkdir -p build
        printf '%s\n' "${CC-}" >"$1.cc"
    fi
}

# Adds .deps/root to every search path that compilers and programs look at.
use_deps() {
    [ -d "$root/.deps/root" ] || return 0
    deps="$root/.deps/root"
    deps_lib="$deps/usr/lib/$(uname -m)-linux-gnu"
    export PATH="$deps/usr/bin:$PATH"
    export C_INCLUDE_PATH="$deps/usr/include:$deps/usr/include/$(uname -m)-linux-gnu${C_INCLUDE_PATH:+:$C_INCLUDE_PATH}"
    for dir in "$deps"/usr/include/python3.*; do
        [ ! -d "$dir" ] || export C_INCLUDE_PATH="$C_INCLUDE_PATH:$dir"
    done
    export LIBRARY_PATH="$deps_lib${LIBRARY_PATH:+:$LIBRARY_PATH}"
    export LD_LIBRARY_PATH="$deps_lib:$deps/lib/$(uname -m)-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    export PKG_CONFIG_PATH="$deps_lib/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}"
    export VALGRIND_LIB="$deps/usr/libexec/valgrind"
    [ -d "$VALGRIND_LIB" ] || unset VALGRIND_LIB
}
use_deps
