#!/usr/bin/env bash
# Build both images with podman or docker.
#
#   images/build.sh                            into this machine's store, under localhost/
#   REGISTRY=registry/path images/build.sh     and push them; dist/images.json has their digests
#   images/build.sh --stand-in                 where the base image cannot be pulled
#
# BASE_IMAGE, LOCK and TORCH_INDEX, where set, are the Dockerfile's arguments of that name. The
# stand-in is made of Debian's packages (needs mmdebstrap and root) under the name of the official
# base. It holds this machine's certificates: such images are for trying out, never for pushing.
set -euo pipefail
cd "$(dirname "$0")/.."
source images/engine.sh

folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT

make_stand_in() {
    mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv \
        --customize-hook='copy-in /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/' \
        --customize-hook='rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED' \
        --customize-hook='rm -f "$1"/etc/apt/sources.list.d/*' \
        --customize-hook='ln -s /usr/bin/python3 "$1"/usr/local/bin/python' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        bookworm "$folder/base.tar" /etc/apt/sources.list.d/debian.sources
    "$engine" import \
        --change 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin' \
        --change 'ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt' --change 'CMD ["python3"]' \
        "$folder/base.tar" "${BASE_IMAGE:-docker.io/library/python:3.11-slim-bookworm}"
}

push() { # prints the digest that the registry gives the image; podman's own store has another one
    if [ "$engine" = podman ]; then
        local options=()
        [[ $1 != localhost:* ]] || options+=(--tls-verify=false) # as docker does of itself
        podman push --quiet "${options[@]}" --digestfile "$folder/digest" "$1"
        cat "$folder/digest"
    else
        docker push --quiet "$1" >&2
        docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$1" |
            sed -n "s|^${1%:*}@||p"
    fi
}

arguments=(--build-arg "VERSION=$version" --build-arg "REVISION=$revision")
for name in BASE_IMAGE LOCK TORCH_INDEX; do
    [ -z "${!name:-}" ] || arguments+=(--build-arg "$name=${!name}")
done
case "${1:-}:${REGISTRY:-}" in
--stand-in:) make_stand_in ;;
--stand-in:*) echo "an image on a stand-in must not be pushed: unset REGISTRY" >&2; exit 2 ;;
:*) ;;
*) echo "usage: images/build.sh [--stand-in]" >&2; exit 2 ;;
esac

rm -f dist/*.whl
uv build --quiet --wheel --out-dir dist

entries=()
for target in cpu gpu; do
    image=$(image_name "$target")
    DOCKER_BUILDKIT=1 "$engine" build "${arguments[@]}" --target "$target" --tag "$image" \
        --file images/Dockerfile .
    if [ -n "${REGISTRY:-}" ]; then
        entries+=("\"bartizan-python-$target\": \"${image%:*}@$(push "$image")\"")
    fi
done
if [ -n "${REGISTRY:-}" ]; then
    printf '{\n  %s,\n  %s\n}\n' "${entries[@]}" | tee dist/images.json
fi
