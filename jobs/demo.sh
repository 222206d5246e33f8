#!/usr/bin/env bash
# The whole line on generated data: data, features, training, index, two runs, evaluation, five users' lists.
# Runs from any folder; `make demo` installs what it needs first. Replaces what an earlier demo made.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH="$PWD/.venv/bin:$PATH"

repo=feature_repo
data=$repo/data
bundle=bundles/demo

show_and_run() {
  printf '\n$ %s\n' "$*"
  "$@"
}

rm -rf "$bundle" output/demo output/demo-retrieval

show_and_run python jobs/demo_data.py --users 6000 --items 2000 --seed 7 --output "$data"
show_and_run feast -c "$repo" apply
show_and_run batchrec train --interactions "$data/interactions.parquet" --items "$data/items.parquet" \
  --feature-repo "$repo" --output "$bundle"
show_and_run batchrec index "$bundle"

# The run that counts comes last: output/current points at the newest.
cutoff=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["cutoff"])' "$data/prepared.json")
run=(batchrec run --users "$data/users.parquet" --bundle "$bundle" --feature-repo "$repo" --as-of "$cutoff")
show_and_run "${run[@]}" --rank-by retrieval --run-id demo-retrieval
show_and_run "${run[@]}" --run-id demo

show_and_run batchrec evaluate output/demo-retrieval output/demo \
  --holdout "$data/holdout.parquet" --interactions "$data/interactions.parquet" --items "$data/items.parquet"

printf '\nThe lists are in %s/output/demo (output/current points there). Five of them:\n' "$PWD"
show_and_run batchrec show output/current --items "$data/items.parquet" --users 5
