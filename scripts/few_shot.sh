#!/usr/bin/env bash
exec bash "$(dirname "${BASH_SOURCE[0]}")/protocol.sh" few_shot "$@"  # METHOD [DATASET] [SEED ...]
