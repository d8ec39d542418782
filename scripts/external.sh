#!/usr/bin/env bash
exec bash "$(dirname "${BASH_SOURCE[0]}")/protocol.sh" external "$@"  # METHOD [DATASET] [SEED ...]
