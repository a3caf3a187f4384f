#!/usr/bin/env bash
# Runs every fuzz target for the given time, one after the other.
set -euo pipefail
cd "$(dirname "$0")/.."
for file in $(git ls-files '*_test.go' | xargs grep -l '^func Fuzz'); do
  tags=(); grep -q "^//go:build bluetooth" "$file" && tags=(-tags bluetooth)
  for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
    echo "fuzz ./$(dirname "$file") $target ${1:-10s}"
    go test "./$(dirname "$file")" "${tags[@]}" -run '^$' -fuzz "^$target\$" -fuzztime "${1:-10s}" -parallel 2
  done
done
