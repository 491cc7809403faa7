#!/usr/bin/env bash
# Writes the Python stubs of the contract beside its .proto files. With --check: into a scratch
# folder, and fails when the committed stubs differ.
#
# The generator is older than the libraries at run time on purpose: stubs made by grpcio-tools 1.76
# run on protobuf 6.31 and everything newer, while newer generators refuse older runtimes.
set -euo pipefail
cd "$(dirname "$0")"

venv=../.venv-proto
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet 'grpcio-tools==1.76.0' 'setuptools<81' 'mypy-protobuf==3.7.0'
fi

out=.
if [ "${1:-}" = --check ]; then
    out=$(mktemp -d)
    trap 'rm -rf "$out"' EXIT
fi
PATH="$PWD/$venv/bin:$PATH" "$venv/bin/python" -m grpc_tools.protoc --proto_path=. \
    --python_out="$out" --grpc_python_out="$out" --mypy_out="$out" counterhint/v1/*.proto

if [ "$out" != . ]; then
    for stub in {scoring,sampling}_pb2{.py,.pyi,_grpc.py}; do
        diff -u "counterhint/v1/$stub" "$out/counterhint/v1/$stub" ||
            { echo "counterhint/v1/$stub is out of date: run make proto and commit it" >&2; exit 1; }
    done
    echo "The stubs match the contract."
fi
