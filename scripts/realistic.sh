#!/usr/bin/env bash
exec bash "$(dirname "${BASH_SOURCE[0]}")/protocol.sh" realistic "$@"  # METHOD [DATASET] [SEED ...]
