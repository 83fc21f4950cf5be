# Sourced by scripts/run and scripts/test: makes a fresh Debian machine ready, and is fast when it already is.
# Everything it makes is inside the checkout (.venv and var/, both ignored by git), except apt packages.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
VENV="$ROOT/.venv"
VAR="$ROOT/var"
SOFTHSM_LIBRARIES=(/usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so)

say() { printf 'manahsm: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# apt_install PACKAGE...: installs with root or sudo; fails (without stopping the script) where it may not.
apt_install() {
    command -v apt-get >/dev/null || { say "this is no Debian: install $* with your own package manager"; return 1; }
    local as=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || { say "not root and no sudo: cannot install $*"; return 1; }
        as=(sudo)
        [ -t 0 ] || as=(sudo -n)
    fi
    say "installing Debian packages: $*"
    "${as[@]}" apt-get update -qq </dev/null >&2 || say "apt-get update failed; trying with the lists at hand"
    "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null >&2
}

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    return 1
}

# The virtual environment, rebuilt only when the lock file or the project file changed.
ensure_venv() {
    local wanted python
    wanted=$(cat "$ROOT/requirements.lock" "$ROOT/pyproject.toml" | sha256sum)
    [ "$wanted" = "$(cat "$VENV/.manahsm-stamp" 2>/dev/null)" ] && return 0
    if ! python=$(find_python); then
        apt_install python3 python3-venv || true
        python=$(find_python) || die "Python 3.11 or newer is needed; Debian 12 and 13 have it as python3"
    fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        apt_install python3-venv || die "python3-venv is missing: apt-get install python3-venv"
    fi
    say "preparing .venv (once, or after the lock file changed)"
    [ -x "$VENV/bin/python" ] || "$python" -m venv "$VENV"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
        -r "$ROOT/requirements.lock" >&2 || die "the dependencies could not be installed (see above)"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
        -e "$ROOT" >&2 || die "manahsm itself could not be installed into .venv (see above)"
    printf '%s\n' "$wanted" >"$VENV/.manahsm-stamp"
}

softhsm_library() {
    local candidate
    for candidate in "${SOFTHSM_LIBRARIES[@]}"; do
        [ -f "$candidate" ] && { printf '%s\n' "$candidate"; return 0; }
    done
    return 1
}

# True when SoftHSM is there or could be installed.
ensure_softhsm() {
    softhsm_library >/dev/null && return 0
    apt_install softhsm2 || return 1
    SOFTHSM_LIBRARIES=(/usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so)
    softhsm_library >/dev/null
}

# The dev token (or, without SoftHSM, software keys), its configuration var/dev.toml and the two dev keys.
ensure_dev() {
    local backend=hsm
    if ! ensure_softhsm; then
        backend=software
        say "SoftHSM is not here and cannot be installed: running on software keys (apt-get install softhsm2 for a token)"
    fi
    [ "$(cat "$VAR/dev.ready" 2>/dev/null)" = "api $backend $ROOT" ] && [ -f "$VAR/dev.toml" ] && return 0
    (umask 077 && mkdir -p "$VAR")
    "$VENV/bin/python" "$ROOT/scripts/dev_setup.py" "$VAR" "$backend" "$(softhsm_library || true)" >&2 ||
        die "the dev keys could not be made (see above)"
    printf '%s\n' "api $backend $ROOT" >"$VAR/dev.ready"
}
