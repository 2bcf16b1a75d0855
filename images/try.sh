#!/usr/bin/env bash
# Run the steps of the recipe `tiny` inside the image that images/build.sh made, with nothing but a
# writable /tmp: no network, no capabilities, a read-only root, as the numeric user of the image.
set -euo pipefail
cd "$(dirname "$0")/.."
source images/engine.sh

image=$(image_name cpu)
if ! "$engine" image inspect "$image" >/dev/null 2>&1; then
    echo "skipped: there is no $image; images/build.sh makes it" >&2
    exit 77
fi

hardened() {
    "$engine" run --rm --network=none --read-only --tmpfs /tmp:mode=1777 --cap-drop=all \
        --security-opt=no-new-privileges --memory=4g "$image" "$@"
}

hardened bartizan doctor
hardened bartizan run --recipe tiny
