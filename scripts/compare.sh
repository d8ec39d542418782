#!/usr/bin/env bash
# Every method on base and new classes, one table:  bash scripts/compare.sh [DATASET] [SEED ...]   (no data set: the demo)
exec bash "$(dirname "${BASH_SOURCE[0]}")/protocol.sh" base2new all "$@"
