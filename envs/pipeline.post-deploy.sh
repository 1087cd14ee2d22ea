#!/usr/bin/env bash
# Run by snakemake in the new environment, from the project's root.
set -euo pipefail
python -m pip install --constraint constraints.txt --editable '.[pipeline]'
