#!/usr/bin/env bash
# Fails if generating, formatting or tidying would change a file.
set -euo pipefail
cd "$(dirname "$0")/.."
before=$(git status --porcelain; git diff)
hack/generate.sh
go mod tidy
unformatted=$(gofmt -l $(git ls-files '*.go'))
if [ -n "$unformatted" ]; then
  printf 'not formatted; run gofmt -w on:\n%s\n' "$unformatted" >&2
  exit 1
fi
after=$(git status --porcelain; git diff)
if [ "$before" != "$after" ]; then
  echo 'generated files or go.mod are not up to date; run make generate and go mod tidy, and commit:' >&2
  git --no-pager diff --stat >&2
  git status --porcelain >&2
  exit 1
fi
